package restore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/archivetest"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
)

// contents is an archive of a spool with nothing but the database itself.
func contents(t testing.TB, s *Spool) mspf.Contents {
	t.Helper()
	a := s.Archive()
	a.Source.Software, a.ServerName, a.Redaction = "synapse", "example.org", "none"
	c := mspf.Contents{Core: mspf.Core{ServerName: "example.org"}, Archive: a}
	check(t, s.AddDatabase(&c))
	return c
}

func write(t testing.TB, name string, c mspf.Contents) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	_, err := mspf.Write(t.Context(), file, c, mspf.WriteOptions{Plaintext: true})
	check(t, err)
	return file
}

// small is an archive of one table, made by hand.
func small() mspf.Contents {
	return mspf.Contents{
		Core:    mspf.Core{ServerName: "example.org"},
		Archive: mspf.Archive{Tool: "test", Source: mspf.Source{Software: "synapse"}, Filters: []string{}, Redaction: "none", Media: "none", ServerName: "example.org"},
		Database: &mspf.Database{
			Software: "synapse", DDL: []string{"CREATE TABLE public.a (i integer, t text)", "CREATE SEQUENCE public.s"}, DDLAfter: []string{"CREATE INDEX a_t ON public.a (t)"},
			Tables: []mspf.DatabaseTable{{Name: "a", Columns: []string{"i", "t"}}}, Sequences: map[string]mspf.SequenceState{"s": {Last: 7, Called: true}},
		},
		Rows: rows("a", "1\tone", "2\t"+`\N`),
	}
}

func rows(table string, lines ...string) iter.Seq2[mspf.Row, error] {
	return func(yield func(mspf.Row, error) bool) {
		for _, l := range lines {
			if !yield(mspf.Row{Table: table, Line: []byte(l)}, nil) {
				return
			}
		}
	}
}

func importInto(t testing.TB, file string, d *testpg.Database, o ImportOptions, pr Progress) (*Report, error) {
	t.Helper()
	i, err := PlanImport(t.Context(), file, o)
	if err != nil {
		return nil, err
	}
	return i.Into(t.Context(), d.DSN, pr)
}

// dumped is the schema as pg_dump prints it, without what is new in each dump.
func dumped(t testing.TB, d *testpg.Database) string {
	t.Helper()
	text := testpg.Run(t, testpg.Bin(t, 18, "pg_dump"), "--schema-only", "--no-owner", "--no-privileges", "--dbname="+d.DSN)
	return regexp.MustCompile(`(?m)^\\(un)?restrict .*$`).ReplaceAllString(text, "")
}

// What is imported is what a restore to the same commit makes: rows, schema, sequences.
func TestImportIsTheRestore(t *testing.T) {
	l := newSource(t, append(oddSchema(), fillOdd()...)...)
	points, kept := walk(l)
	n := len(points) - 1
	at := "lsn:" + points[n].End.String()
	restored, _, err := l.restore(at, Options{})
	check(t, err)
	file := write(t, "server.tar.zst", contents(t, must[*Spool](t)(l.spoolAt(at, Options{}))))
	archivetest.Check(t, file, mspf.ReadOptions{})
	d := l.src.Cluster.Database(t)
	report, err := importInto(t, file, d, ImportOptions{}, nil)
	check(t, err)
	l.equal(d, kept[n])
	if have, want := dumped(t, d), dumped(t, restored); have != want {
		t.Errorf("the imported schema is\n%s\nand that of the restore\n%s", have, want)
	}
	const values = `SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2`
	if have, want := d.Query(t, values), restored.Query(t, values); !slices.EqualFunc(have, want, slices.Equal) {
		t.Errorf("sequences %v, want %v", have, want)
	}
	if !report.Verified || report.Mode != synapse.Raw || report.Sequences == 0 || len(report.Tables) != len(l.tables) {
		t.Errorf("report: %+v", report)
	}
	for _, tr := range report.Tables {
		if tr.Proof != ProofArchive {
			t.Errorf("table %s: proof by %s", tr.Table, tr.Proof)
		}
	}
	if have := d.Query(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'lifeboat'`)[0][0]; have != "0" {
		t.Error("the marks are still there")
	}
	if _, err := importInto(t, file, d, ImportOptions{StartOver: true}, nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a second import: %v, want ErrNotEmpty", err)
	}
}

// What is refused, is refused before the first write.
func TestImportRefuses(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	for name, c := range map[string]struct {
		change func(*mspf.Contents)
		want   error
	}{
		"no database":     {func(c *mspf.Contents) { c.Database, c.Rows = nil, nil }, ErrNoDatabase},
		"other software":  {func(c *mspf.Contents) { c.Database.Software = "dendrite" }, ErrArchive},
		"two lines":       {func(c *mspf.Contents) { c.Rows = rows("a", "1\tone\n2\ttwo") }, ErrArchive},
		"carriage return": {func(c *mspf.Contents) { c.Rows = rows("a", "1\tone\r") }, ErrArchive},
		"end of data": {func(c *mspf.Contents) {
			c.Database.Tables[0].Columns, c.Rows = []string{"t"}, rows("a", `\.`, "after")
		}, ErrArchive},
		"too many fields": {func(c *mspf.Contents) { c.Rows = rows("a", "1\tone\tmore") }, ErrArchive},
		"too few fields":  {func(c *mspf.Contents) { c.Rows = rows("a", "1") }, ErrArchive},
		"unlisted table":  {func(c *mspf.Contents) { c.Rows = rows("b", "1\tone") }, ErrArchive},
		"table twice":     {func(c *mspf.Contents) { c.Database.Tables = append(c.Database.Tables, c.Database.Tables[0]) }, ErrArchive},
		"COPY":            {func(c *mspf.Contents) { c.Database.DDL = append(c.Database.DDL, "/* x */ Copy a FROM STDIN") }, ErrArchive},
		"no Synapse":      {func(*mspf.Contents) {}, ErrMode},
	} {
		contents := small()
		c.change(&contents)
		o := ImportOptions{}
		if errors.Is(c.want, ErrMode) {
			o.Mode = synapse.Rollback
		}
		if _, err := importInto(t, write(t, "a.tar", contents), d, o, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	file := write(t, "a.tar", small())
	text := must[[]byte](t)(os.ReadFile(file))
	at := strings.Index(string(text), "one")
	text[at] = 'O'
	check(t, os.WriteFile(file, text, 0o600))
	if _, err := importInto(t, file, d, ImportOptions{}, nil); !errors.Is(err, mspf.ErrIntegrity) {
		t.Errorf("an altered row: %v, want ErrIntegrity", err)
	}
	check(t, os.WriteFile(file, text[:len(text)/2], 0o600))
	if _, err := importInto(t, file, d, ImportOptions{}, nil); !errors.Is(err, mspf.ErrTruncated) {
		t.Errorf("half an archive: %v, want ErrTruncated", err)
	}
	untouched(t, d)
}

func untouched(t testing.TB, d *testpg.Database) {
	t.Helper()
	if have := d.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' UNION ALL SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1`); len(have) != 2 {
		t.Errorf("the refused target was touched: %v", have)
	}
}

// An m.* item that is not known ends the import with nothing written, unless it is named:
// then it is passed over, and the plan says so.
func TestImportUnknownItem(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	dir := write(t, "folder", small())
	manifest := filepath.Join(dir, "manifest.mspf.json")
	text := must[[]byte](t)(os.ReadFile(manifest))
	check(t, os.WriteFile(manifest, []byte(strings.Replace(string(text), `"m.core"`, `"m.future":{"v":1},"m.core"`, 1)), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "m.future.json"), []byte("anything"), 0o600))
	accept := ImportOptions{Read: mspf.ReadOptions{AcceptUnknown: []string{"m.future"}}}
	if _, err := importInto(t, dir, d, accept, nil); !errors.Is(err, mspf.ErrIntegrity) {
		t.Errorf("another manifest than the one that was written: %v, want ErrIntegrity", err)
	}
	archivetest.Reseal(t, dir)
	if _, err := importInto(t, dir, d, ImportOptions{}, nil); !errors.Is(err, mspf.ErrUnknownItem) {
		t.Errorf("an unknown item: %v, want ErrUnknownItem", err)
	}
	untouched(t, d)
	i := must[*Import](t)(PlanImport(t.Context(), dir, accept))
	if !strings.Contains(i.String(), "skipped   m.future") {
		t.Errorf("the plan does not say what is passed over:\n%s", i)
	}
	report, err := i.Into(t.Context(), d.DSN, nil)
	check(t, err)
	if have := d.Query(t, `SELECT count(*) FROM a`)[0][0]; !report.Verified || have != "2" {
		t.Errorf("accepted: %s rows, %+v", have, report)
	}
}

// stopper cancels when a phase begins.
type stopper struct {
	NoProgress
	at     Phase
	cancel context.CancelFunc
}

func (s *stopper) Start(p Phase, _ int64) {
	if p == s.at {
		s.cancel()
	}
}

// Cut short in any phase, an import is visibly unfinished, and can be begun again.
func TestP3_ImportIsUnfinishedUntilProven(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	file := write(t, "a.tar", small())
	i := must[*Import](t)(PlanImport(t.Context(), file, ImportOptions{StartOver: true}))
	for _, at := range []Phase{PhaseSchema, PhaseRows, PhaseIndexes, PhaseVerify} {
		ctx, cancel := context.WithCancel(t.Context())
		report, err := i.Into(ctx, d.DSN, &stopper{at: at, cancel: cancel})
		cancel()
		if err == nil || report.Verified {
			t.Fatalf("cut short at %s, it ended with %v", at, err)
		}
		if have := d.Query(t, `SELECT phase, plan FROM lifeboat.restore_state`)[0]; have[0] != string(at) || !strings.Contains(have[1], "Import of") {
			t.Errorf("cut short at %s, the mark says %q", at, have)
		}
		if have := d.Query(t, `SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()`)[0][0]; !strings.HasPrefix(have, "UNFINISHED Lifeboat import of ") {
			t.Errorf("cut short at %s, the comment says %q", at, have)
		}
		if _, err := importInto(t, file, d, ImportOptions{}, nil); !errors.Is(err, ErrUnfinished) {
			t.Errorf("without start over: %v, want ErrUnfinished", err)
		}
	}
	check(t, i.Check(t.Context(), d.DSN))
	report, err := i.Into(t.Context(), d.DSN, nil)
	check(t, err)
	if have := d.Query(t, `SELECT i, t, nextval('s') FROM a ORDER BY i`); !report.Verified || len(have) != 2 || have[0][1] != "one" || have[1][2] != "9" {
		t.Errorf("begun again: %v, %+v", have, report)
	}
	if err := i.Check(t.Context(), d.DSN); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a check of the imported database: %v, want ErrNotEmpty", err)
	}
}

// What the statements of an archive break is found: its rows are not those of the archive,
// or the target refuses them.
func TestImportHoldsAgainstItsStatements(t *testing.T) {
	cluster := testpg.Shared(t, testpg.Newest)
	for name, c := range map[string]struct {
		change func(*mspf.Contents)
		want   error
	}{
		"a second command": {func(c *mspf.Contents) { c.Database.DDLAfter[0] += "; DROP TABLE a" }, ErrLosses},
		"an open transaction": {func(c *mspf.Contents) {
			c.Database.DDLAfter = append([]string{"BEGIN"}, c.Database.DDLAfter...)
		}, ErrArchive},
		"a trigger that changes rows": {func(c *mspf.Contents) {
			c.Database.DDL = append(c.Database.DDL, "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.t := 'x'; RETURN NEW; END $$",
				"CREATE TRIGGER f BEFORE INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION public.f()")
		}, chunkstore.ErrDamaged},
		"two rows of one key": {func(c *mspf.Contents) {
			c.Rows = rows("a", "1\tone", "1\ttwo")
			c.Database.DDLAfter = append(c.Database.DDLAfter, "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (i)")
		}, chunkstore.ErrDamaged},
		"a missing table":    {func(c *mspf.Contents) { c.Database.DDL = c.Database.DDL[1:] }, nil},
		"a missing column":   {func(c *mspf.Contents) { c.Database.DDL[0] = "CREATE TABLE public.a (i integer)" }, ErrArchive},
		"a missing sequence": {func(c *mspf.Contents) { c.Database.DDL = c.Database.DDL[:1] }, ErrArchive},
		"a refused index": {func(c *mspf.Contents) {
			c.Database.DDLAfter = append(c.Database.DDLAfter, "CREATE INDEX ON public.a USING nothing (t)")
		}, ErrLosses},
	} {
		contents := small()
		c.change(&contents)
		d := cluster.Database(t)
		report, err := importInto(t, write(t, "a.tar", contents), d, ImportOptions{}, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || report.Verified {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if have := d.Query(t, `SELECT count(*) FROM lifeboat.restore_state`)[0][0]; have != "1" {
			t.Errorf("%s: the target is not marked as unfinished", name)
		}
	}
}

// The archive that is loaded is the one that was verified.
func TestP5_ImportIsOfTheVerifiedArchive(t *testing.T) {
	file := write(t, "a.tar", small())
	i := must[*Import](t)(PlanImport(t.Context(), file, ImportOptions{}))
	other := small()
	other.Rows = rows("a", "1\tone", "2\ttwo")
	check(t, os.Rename(write(t, "a.tar", other), file))
	d := testpg.Shared(t, testpg.Newest).Database(t)
	if _, err := i.Into(t.Context(), d.DSN, nil); !errors.Is(err, mspf.ErrIntegrity) {
		t.Errorf("another archive under its name: %v, want ErrIntegrity", err)
	}
}

// Statements that build run side by side; what needs them comes after.
func TestImportOrder(t *testing.T) {
	c := small()
	c.Archive.Point.Gaps = map[string]string{"public.b": "it was copied later"}
	c.Database.DDL = append(c.Database.DDL, "CREATE TABLE public.b (i integer)")
	c.Database.Tables = append(c.Database.Tables, mspf.DatabaseTable{Name: "b", Columns: []string{"i"}})
	c.Database.DDLAfter = nil
	for _, s := range []string{"a", "b"} {
		c.Database.DDLAfter = append(c.Database.DDLAfter, "ALTER TABLE ONLY public."+s+"\n    ADD CONSTRAINT "+s+"_key UNIQUE (i)")
	}
	c.Database.DDLAfter = append(c.Database.DDLAfter, "COMMENT ON INDEX public.b_key IS 'k'")
	for n := range 20 {
		c.Database.DDLAfter = append(c.Database.DDLAfter, fmt.Sprintf("CREATE INDEX a_%d ON public.a USING btree (t)", n), fmt.Sprintf("CREATE INDEX b_%d ON public.b USING btree (i)", n))
	}
	c.Database.DDLAfter = append(c.Database.DDLAfter, "ALTER TABLE ONLY public.b\n    ADD CONSTRAINT b_a FOREIGN KEY (i) REFERENCES public.a(i)",
		"CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = 's')", "COMMENT ON INDEX public.a_key IS 'k'")
	d := testpg.Shared(t, testpg.Newest).Database(t)
	report, err := importInto(t, write(t, "a.tar", c), d, ImportOptions{Workers: 4}, nil)
	check(t, err)
	if have := d.Query(t, `SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'`)[0][0]; have != "42" {
		t.Errorf("%s indexes, want 42", have)
	}
	if i := slices.IndexFunc(report.Tables, func(r TableReport) bool { return r.Table == "b" }); i < 0 || report.Tables[i].Incomplete != "it was copied later" {
		t.Errorf("the report does not say that b is not exact: %+v", report.Tables)
	}
	if !slices.ContainsFunc(report.Notes, func(n string) bool { return strings.HasPrefix(n, "left out: CREATE SUBSCRIPTION s") }) {
		t.Errorf("notes: %q", report.Notes)
	}
}
