package restore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// Errors of an import.
var (
	// ErrNoDatabase: the archive does not hold the database itself (exit code 4).
	ErrNoDatabase = errors.New("the archive holds no " + databaseItem)
	// ErrArchive: what the archive says of the database contradicts itself (exit code 6).
	ErrArchive = errors.New("the archive's database is not whole")
)

const (
	databaseItem = mspf.Prefix + "synapse"
	serverItem   = mspf.Prefix + "server"
)

// ImportOptions say how to import.
type ImportOptions struct {
	// Read says who opens an encrypted archive, and which items are passed over. An
	// archive without an integrity item is never imported, whatever it says.
	Read mspf.ReadOptions
	// Mode says what is done to the rows after they were proven; "" chooses: rollback for
	// a Synapse, raw for any other database.
	Mode synapse.Mode
	// StartOver drops everything in a target that holds something unfinished of ours.
	StartOver bool
	// AnyLocale imports a Synapse into a database whose locale is not C as well.
	AnyLocale bool
	// Workers is how many sessions load at once; 0 takes the number of processors, 2 to 8.
	Workers int
}

// Import is an archive that was verified whole, and what importing it will do. It is what
// is printed and what is executed.
type Import struct {
	File string `json:"file"`
	// Server is the homeserver's name.
	Server  string        `json:"server_name"`
	Archive *mspf.Archive `json:"archive,omitempty"`
	// SHA256 is of the integrity item: it tells this archive from every other.
	SHA256 string        `json:"sha256"`
	Mode   synapse.Mode  `json:"mode"`
	Tables []ImportTable `json:"tables"`
	Rows   int64         `json:"rows"`
	Bytes  int64         `json:"bytes"`
	// Sequences and Statements are how many are set and executed.
	Sequences  int `json:"sequences"`
	Statements int `json:"statements"`
	// Aftercare are the steps that the mode takes once the rows are proven.
	Aftercare []string `json:"aftercare,omitempty"`
	// Skipped are items that are passed over, Losses what the archive itself says that it
	// does not carry.
	Skipped []string    `json:"skipped,omitempty"`
	Losses  []mspf.Loss `json:"losses,omitempty"`
	Notes   []string    `json:"notes,omitempty"`

	database *mspf.Database
	byName   map[string]*ImportTable
	floors   map[string]int64 // by stream
	key      [16]byte         // of the digests
	options  ImportOptions
	now      func() time.Time
}

// ImportTable is one table's part.
type ImportTable struct {
	Table string `json:"table"` // as the archive names it: bare in schema public
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"`

	columns []string
	hasher  *record.Hasher
	digest  record.Digest // of the rows that were verified
}

// PlanImport goes through the whole archive, verifies it (see [mspf.Verify]), and sums
// the rows of each table. It writes nothing, and knows no target yet.
//
// What is wrong with the items that the import does not need is a note: a homeserver may
// hold an event that nothing verifies, and its database is whole all the same. What is
// wrong with those that it needs is [ErrArchive].
func PlanImport(ctx context.Context, path string, o ImportOptions) (*Import, error) {
	o.Read.AllowIncomplete = false
	i := &Import{File: path, options: o, byName: map[string]*ImportTable{}, now: time.Now}
	_, _ = rand.Read(i.key[:]) // never fails since Go 1.24
	v, err := mspf.Verify(ctx, path, o.Read, i.element)
	if err != nil {
		return nil, fmt.Errorf("plan import: %w", err)
	}
	if i.database == nil {
		return nil, fmt.Errorf("plan import of %s: %w: from the items for other homeservers alone Lifeboat does not import yet", path, ErrNoDatabase)
	}
	i.Server, i.Archive, i.SHA256, i.Skipped = v.Core.ServerName, v.Archive, v.SHA256, v.Skipped
	if v.Report != nil {
		i.Losses = v.Report.Losses
	}
	for _, f := range v.Findings {
		text := fmt.Sprintf("%s: %s (%d, such as %q)", f.Item, f.Text, f.Count, f.First[0])
		switch {
		case f.Notice:
		case f.Item == databaseItem || f.Item == serverItem:
			return nil, fmt.Errorf("plan import of %s: %w: %s", path, ErrArchive, text)
		default:
			i.Notes = append(i.Notes, "not wholly right, and not needed for this: "+text)
		}
	}
	return i, i.finish()
}

// element takes what is needed of an element.
func (i *Import) element(e mspf.Element) error {
	switch e.Item {
	case serverItem:
		var s mspf.Server
		if err := e.Decode(&s); err != nil {
			return err
		}
		i.floors = s.StreamFloors
	case databaseItem:
		if strings.HasSuffix(e.File, ".json") {
			i.database = &mspf.Database{}
			if err := e.Decode(i.database); err != nil {
				return err
			}
			return i.schema()
		}
		t, line, err := i.row(e)
		if err != nil {
			return err
		}
		t.Rows++
		t.Bytes += int64(len(line)) + 1
		t.digest.Add(t.hasher.Line(line))
	}
	return nil
}

// schema prepares a sum for each table.
func (i *Import) schema() error {
	if i.database.Software != "synapse" {
		return fmt.Errorf("%w: it is of %q", ErrArchive, i.database.Software)
	}
	for _, s := range slices.Concat(i.database.DDL, i.database.DDLAfter) {
		if word := blanks(s); len(word) >= 4 && strings.EqualFold(word[:4], "copy") {
			return fmt.Errorf("%w: a statement is a COPY, whose rows nobody would send", ErrArchive)
		}
	}
	for _, t := range i.database.Tables {
		if i.byName[t.Name] != nil {
			return fmt.Errorf("%w: table %q is there twice", ErrArchive, t.Name)
		}
		i.byName[t.Name] = &ImportTable{Table: t.Name, columns: t.Columns, hasher: record.NewHasher(i.key[:], "", t.Name)}
	}
	return nil
}

// row gives a row as one line of COPY, and nothing that COPY would take for more or for
// less than one.
func (i *Import) row(e mspf.Element) (*ImportTable, []byte, error) {
	t := i.byName[e.Key]
	if t == nil {
		return nil, nil, fmt.Errorf("%w: rows of %q, which its schema does not list", ErrArchive, e.Key)
	}
	var text string
	if err := e.Decode(&text); err != nil {
		return nil, nil, err
	}
	line := []byte(text)
	if err := record.Fields(line, len(t.columns), func(int, []byte) {}); err != nil {
		return nil, nil, fmt.Errorf("%w: table %q: %w", ErrArchive, e.Key, err)
	}
	if bytes.ContainsAny(line, "\n\r\x00") || text == `\.` {
		return nil, nil, fmt.Errorf("%w: table %q: a row that is not one line of COPY", ErrArchive, e.Key)
	}
	return t, line, nil
}

// finish completes the plan once the archive was read.
func (i *Import) finish() error {
	homeserver := i.homeserver()
	var err error
	if i.Mode, err = modeOf(i.options.Mode, homeserver); err != nil {
		return fmt.Errorf("plan import of %s: %w", i.File, err)
	}
	for _, t := range i.byName {
		i.Tables = append(i.Tables, *t)
		i.Rows += t.Rows
		i.Bytes += t.Bytes
	}
	slices.SortFunc(i.Tables, func(a, b ImportTable) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Table, b.Table))
	})
	i.Sequences = len(i.database.Sequences)
	i.Statements = len(i.database.DDL) + len(i.database.DDLAfter)
	for _, s := range synapse.Aftercare(i.Mode, i.expected()) {
		i.Aftercare = append(i.Aftercare, s.Name)
	}
	if i.Mode == synapse.Move {
		i.Notes = append(i.Notes, "an archive does not know what came after it: a move loses nothing only if the old server was stopped before it was made, at its newest commit")
	}
	if i.Mode == synapse.Rollback {
		i.Notes = append(i.Notes, "what users did after the archive was made is not known here")
	}
	return nil
}

func (i *Import) homeserver() bool {
	return synapse.Detect(func(schema, table string) bool { return i.byName[filedAs(schema, table)] != nil })
}

// expected is what the target will be, for the names of the steps.
func (i *Import) expected() synapse.Restored {
	r := synapse.Restored{Columns: map[string][]string{}}
	for name, t := range i.byName {
		r.Columns[name] = t.columns
	}
	for name := range i.database.Sequences {
		r.Sequences = append(r.Sequences, name)
	}
	return r
}

// position is where in the log of its database the archive is from.
func (i *Import) position() Point {
	if i.Archive == nil {
		return Point{}
	}
	at, err := record.ParseLSN(i.Archive.Point.LSN)
	if err != nil { // of another writer
		return Point{}
	}
	return Point{LSN: at}
}

func (i *Import) admission() admission {
	return admission{startOver: i.options.StartOver, anyLocale: i.options.AnyLocale, homeserver: i.Mode != synapse.Raw && i.homeserver()}
}

// Check looks at the target as [Import.Into] does before the first write, and changes
// nothing.
func (i *Import) Check(ctx context.Context, dsn string) error {
	db, err := connect(ctx, dsn)
	if err != nil {
		return err
	}
	return db.admit(ctx, i.admission())
}

// Into executes the import in an empty database, by the steps of [Plan.Materialise]. The
// archive is read once more; the proof of each table is that what is read back has the
// digest of the rows that were verified. It executes the archive's statements with the
// rights of the address: whoever made the archive has them for that long.
func (i *Import) Into(ctx context.Context, dsn string, pr Progress) (*Report, error) {
	if pr == nil {
		pr = NoProgress{}
	}
	report := &Report{Archive: i.File, Point: i.position(), Mode: i.Mode, Rounds: 1, Took: map[Phase]time.Duration{}, Notes: slices.Clone(i.Notes)}
	db, err := connect(ctx, dsn)
	if err != nil {
		return report, err
	}
	if err := db.admit(ctx, i.admission()); err != nil {
		return report, err
	}
	conn, err := db.open(ctx)
	if err != nil {
		return report, err
	}
	defer closeConn(conn)
	// A loader without a plan: it has jobs, and its rows come from elsewhere.
	target := &copier{db: db, loader: &loader{workers: workers(i.options.Workers), progress: pr, digest: i.key[:]}}
	target.sink = target
	r := &run{origin: &archived{Import: i}, db: db, conn: conn, target: target, report: report, progress: pr, now: i.now}
	return report, r.all(ctx)
}

// String is the plan for a person.
func (i *Import) String() string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("Import of %s", i.File)
	line("  server    %s", shown(i.Server))
	if a := i.Archive; a != nil {
		line("  made by   %s %s from %s %s", shown(a.Tool), shown(a.ToolVersion), shown(a.Source.Software), shown(a.Source.Version))
		line("  state of  %s, lsn:%s", time.UnixMilli(a.Point.Time).UTC().Format(time.RFC3339Nano), shown(a.Point.LSN))
	}
	line("  verified  whole, sha256:%s", i.SHA256)
	line("  mode      %s", i.Mode)
	line("  rows      %d tables, %d rows, %s", len(i.Tables), i.Rows, mib(i.Bytes))
	line("  executes  %d statements of the archive, sets %d sequences", i.Statements, i.Sequences)
	if len(i.Aftercare) > 0 {
		line("  then      %s", strings.Join(i.Aftercare, ", "))
	}
	for k, t := range i.Tables {
		if k == maxListed {
			line("            … and %d smaller tables", len(i.Tables)-k)
			break
		}
		line("  table     %s: %d rows, %s", shown(t.Table), t.Rows, mib(t.Bytes))
	}
	if i.Archive != nil {
		for _, t := range slices.Sorted(maps.Keys(i.Archive.Point.Gaps)) {
			line("  INCOMPLETE %s: %s", shown(t), shown(i.Archive.Point.Gaps[t]))
		}
	}
	for _, l := range i.Losses {
		if l.Item == databaseItem {
			line("  not in it %s: %d: %s", shown(l.Key), l.Count, shown(l.Reason))
		}
	}
	for _, item := range i.Skipped {
		line("  skipped   %s", shown(item))
	}
	for _, n := range i.Notes {
		line("  note      %s", shown(n))
	}
	return b.String()
}

// shown keeps what an archive says within its line.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
