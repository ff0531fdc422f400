package synapse_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/synapse"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// schema is what the catalog of a live Synapse says.
type schema struct {
	columns map[string]map[string]string // table, column, type
	// sequences and the columns that own or default to them, table.column
	sequences map[string][]string
}

// live makes the schema of the pinned Synapse in an empty database: Synapse does
// it itself, when it boots.
func live(t *testing.T) (*testpg.Database, schema) {
	t.Helper()
	i := install(t)
	db := testpg.Shared(t, testpg.Newest).Database(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := homeserver.Start(ctx, homeserver.Options{Dir: t.TempDir(), Install: i, DSN: db.DSN})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	checkConfiguration(t, s.ConfigPath(), db.Name)
	out := schema{map[string]map[string]string{}, map[string][]string{}}
	for _, r := range db.Query(t, `SELECT c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped`) {
		if out.columns[r[0]] == nil {
			out.columns[r[0]] = map[string]string{}
		}
		out.columns[r[0]][r[1]] = r[2]
	}
	for _, r := range db.Query(t, `SELECT s.relname, coalesce(t.relname || '.' || a.attname, '') FROM pg_class s
		LEFT JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
		LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
		WHERE s.relkind = 'S' AND s.relnamespace = 'public'::regnamespace`) {
		out.sequences[r[0]] = nil
		if r[1] != "" {
			out.sequences[r[0]] = []string{r[1]}
		}
	}
	if len(out.columns) < 150 || len(out.sequences) < 20 {
		t.Fatalf("only %d tables and %d sequences: this is no Synapse", len(out.columns), len(out.sequences))
	}
	return db, out
}

// checkConfiguration reads the file that the homeserver was started with, and reaches
// its database by it.
func checkConfiguration(t *testing.T, path, name string) {
	t.Helper()
	h, err := synapse.ReadHomeserver(path)
	if err != nil {
		t.Fatal(err)
	}
	var have string
	if err := testpg.Connect(t, h.DSN).QueryRow(t.Context(), "SELECT current_database()").Scan(&have); err != nil || have != name {
		t.Errorf("the connection string of %s reaches %q, %v", path, have, err)
	}
	for _, f := range []string{h.MediaStore, h.SigningKey} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}

func install(t *testing.T) homeserver.Install {
	t.Helper()
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	i, err := homeserver.Find(root)
	testpg.Need(t, "Synapse "+synapse.Version, err == nil, "tools")
	return i
}

// Every table and sequence of the pinned Synapse is named, every name is one of
// its, every column exists, and Int4 says what the columns are.
func TestY1_DataIsTheLiveSchema(t *testing.T) {
	db, s := live(t)
	for name := range s.columns {
		if _, known := synapse.Named(name); !known {
			t.Errorf("table %s of Synapse %s is not named: say what it is in synapse/tables_*.go (until then it is captured in full)", name, synapse.Version)
		}
	}
	for _, tab := range synapse.Tables() {
		columns, there := s.columns[tab.Name]
		if there == tab.Absent {
			t.Errorf("table %s: Absent is %t and the live schema has it: %t", tab.Name, tab.Absent, there)
		}
		for what, list := range map[string][]string{"Subject": tab.Subject, "Room": tab.Room, "User": tab.User, "Event": tab.Event} {
			for _, c := range list {
				if there && columns[c] == "" {
					t.Errorf("table %s: %s names the column %s, which it has not", tab.Name, what, c)
				}
			}
		}
	}
	compareSequences(t, s)
	rows := db.Query(t, synapse.TablesSQL)
	if !synapse.DetectIn(rows) {
		t.Error("a live Synapse is not detected")
	}
	if u := synapse.Unknown(rows); len(u) != 0 {
		t.Errorf("unknown: %v", u)
	}
	db.Exec(t, "CREATE TABLE module_notes (id int)")
	if u := synapse.Unknown(db.Query(t, synapse.TablesSQL)); !slices.Equal(u, []string{"module_notes"}) {
		t.Errorf("after a module's table: unknown %v", u)
	}
	checkFindings(t, db)
}

func compareSequences(t *testing.T, s schema) {
	t.Helper()
	known := map[string]synapse.Sequence{}
	for _, q := range synapse.Sequences() {
		known[q.Name] = q
		if _, there := s.sequences[q.Name]; !there {
			t.Errorf("sequence %s: the live schema has none", q.Name)
		}
		int4 := false
		for _, f := range q.Feeds {
			switch typ := s.columns[f.Table][f.Column]; typ {
			case "":
				t.Errorf("sequence %s feeds %s.%s, which does not exist", q.Name, f.Table, f.Column)
			case "integer", "smallint":
				int4 = true
			case "bigint":
			default:
				t.Errorf("sequence %s feeds %s.%s of type %s", q.Name, f.Table, f.Column, typ)
			}
		}
		if int4 != q.Int4 {
			t.Errorf("sequence %s: Int4 is %t, the columns say %t", q.Name, q.Int4, int4)
		}
	}
	for name, owners := range s.sequences {
		q, ok := known[name]
		if !ok {
			t.Errorf("sequence %s of Synapse %s is not named in synapse/sequences.go", name, synapse.Version)
		}
		for _, o := range owners {
			if !slices.ContainsFunc(q.Feeds, func(f synapse.Column) bool { return f.Table+"."+f.Column == o }) {
				t.Errorf("sequence %s belongs to %s, which Feeds does not name", name, o)
			}
		}
	}
}

// The checks of doctor, at a live database.
func checkFindings(t *testing.T, db *testpg.Database) {
	t.Helper()
	states := func(h *synapse.Homeserver) string {
		var out []string
		for _, c := range synapse.Checks(h) {
			f := c.Judge(db.Query(t, c.SQL))
			out = append(out, f.Name+": "+f.State)
		}
		return strings.Join(out, ", ")
	}
	h := &synapse.Homeserver{ServerName: "localhost"}
	if s := states(h); s != "tables of Synapse: ok, locale of the database: ok, server name: ok" {
		t.Error(s)
	}
	db.Exec(t, "INSERT INTO users (name) VALUES ('@a:elsewhere.example:8448')")
	if s := states(h); !strings.HasSuffix(s, "server name: fail") {
		t.Error(s)
	}
	if s := states(&synapse.Homeserver{ServerName: "elsewhere.example:8448"}); !strings.HasSuffix(s, "server name: ok") {
		t.Error(s)
	}
}

// What is cited exists, and speaks of the table.
func TestY1_SourcesAreSynapse(t *testing.T) {
	dir := filepath.Join(install(t).Lib, "synapse", "storage")
	read := func(source, word string) {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(source)))
		if err != nil {
			t.Errorf("%s: %v", word, err)
			return
		}
		if !regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`).Match(b) {
			t.Errorf("%s does not speak of %s", source, word)
		}
	}
	for _, tab := range synapse.Tables() {
		switch {
		case strings.HasPrefix(tab.Source, "github.com/"): // a tool beside Synapse
		case strings.HasPrefix(tab.Name, "_temp_"): // its name is put together
			read(tab.Source, "_temp_populate_user_directory")
		default:
			read(tab.Source, tab.Name)
		}
	}
	for _, q := range synapse.Sequences() {
		switch {
		case strings.HasPrefix(q.Source, "schema/"): // serial and identity columns name their sequence alone
			read(q.Source, q.Feeds[0].Column)
		default:
			read(q.Source, q.Name)
			if q.Stream != "" && q.Stream != "quarantined_media" { // named by a constant there
				read(q.Source, q.Stream)
			}
		}
	}
}
