package restore

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/secondreader"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// lab is a repository that a test writes by hand: what an agent would have
// written of a source that exists, or of none.
type lab struct {
	t        testing.TB
	mem      *storetest.Memory
	secrets  *history.Secrets
	operator *age.X25519Identity
	strange  bool // its records change rows that there never were
	repo     *history.Repository
	log      *history.Log
	w        *history.Writer
	lsn      record.LSN
	xid      record.XID
	clock    record.Time

	src    *testpg.Database
	tables []*record.Relation
	rows   map[uint32][]string // at the source now
}

func labLineage() history.LineageID {
	return history.LineageID{Source: record.Source{SystemID: 7, Database: 5}, Lineage: record.Lineage{1, 2, 3}}
}

const labStart = record.LSN(0x1000000)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t testing.TB) *lab {
	t.Helper()
	mem := storetest.NewMemory(t)
	dir := t.TempDir()
	l := newLabOn(t, mem)
	l.mem = mem
	t.Cleanup(func() {
		if l.strange {
			return
		}
		// The same objects in a folder, for the second reader.
		for _, key := range mem.Keys() {
			name := filepath.Join(dir, "repo", filepath.FromSlash(key))
			check(t, os.MkdirAll(filepath.Dir(name), 0o700))
			check(t, os.WriteFile(name, mem.Object(key), 0o600))
		}
		identity := filepath.Join(dir, "identity")
		check(t, os.WriteFile(identity, []byte(l.operator.String()+"\n"), 0o600))
		secondreader.Hold(t, filepath.Join(dir, "repo"), identity)
	})
	return l
}

func newLabOn(t testing.TB, b chunkstore.Backend) *lab {
	t.Helper()
	ctx := t.Context()
	op := must[*age.X25519Identity](t)(age.GenerateX25519Identity())
	l := &lab{t: t, operator: op, lsn: labStart, xid: 5_000_000_000, rows: map[uint32][]string{}}
	l.clock = record.FromTime(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	repo, secrets, err := history.Create(ctx, b, history.CreateOptions{Recipients: []string{op.Recipient().String()}})
	check(t, err)
	l.secrets, l.repo = secrets, repo
	l.log = repo.Log(secrets, labLineage(), nil)
	l.w, err = l.log.Begin(ctx, nil, history.KeyDir(filepath.Join(t.TempDir(), "keys")), history.Opening{
		Timeline: 1, Slot: "lifeboat", ServerVersion: 180006, XMax: l.xid, Durable: l.lsn,
	})
	check(t, err)
	return l
}

func (l *lab) view() *history.View {
	l.t.Helper()
	return must[*history.View](l.t)(l.log.Load(l.t.Context()))
}

// bytes stores a byte stream and gives its extents.
func (l *lab) bytes(b []byte) (out []record.Extent, reach []chunkstore.Name) {
	l.t.Helper()
	check(l.t, l.log.Store().CutBytes(b, func(p []byte) error {
		put, err := l.log.Store().Put(l.t.Context(), chunkstore.KindBytes, p, chunkstore.Fast)
		out = append(out, record.Extent{Chunk: put.Ref.D, Gen: put.Ref.Gen, Length: uint64(len(p))})
		reach = append(reach, put.Name)
		return err
	}))
	return out, reach
}

// schema writes a schema note of the tables, with a dump of the source if there is one.
func (l *lab) schema(tables ...*record.Relation) {
	l.t.Helper()
	s := &history.Schema{From: l.lsn, Publication: "lifeboat", ServerVersion: 180006}
	s.Fingerprint[0], s.Fingerprint[1] = byte(len(tables)), byte(l.lsn>>8)
	for _, r := range tables {
		st := history.SchemaTable{OID: r.OID, Schema: r.Schema, Name: r.Name, Kind: 'r', Captured: true}
		copy(st.Fingerprint[:], names(r)+r.Name)
		s.Tables = append(s.Tables, st)
	}
	dump := []byte("no dump")
	if l.src != nil {
		dump = l.dump()
		s.Sequences = l.sequences()
	}
	var reach []chunkstore.Name
	s.Custom, reach = l.bytes(dump)
	s.Plain = s.Custom
	check(l.t, l.w.SchemaNote(l.t.Context(), s, reach))
}

func (l *lab) dump() []byte {
	l.t.Helper()
	cmd := exec.Command(testpg.Bin(l.t, 18, "pg_dump"), "--format=custom", "--schema-only", "--dbname="+l.src.DSN)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		l.t.Fatalf("pg_dump: %v: %s", err, errs.String())
	}
	return out.Bytes()
}

// base writes a copy of a table: these rows, exact from now.
func (l *lab) base(rel *record.Relation, rows []string) {
	l.t.Helper()
	b := &history.Base{Relation: *rel, RecordsFrom: l.lsn, ExactFrom: l.lsn, Snapshot: record.Snapshot{XMin: l.xid, XMax: l.xid}}
	h := record.NewHasher(l.secrets.Digest[:], rel.Schema, rel.Name)
	var reach []chunkstore.Name
	var chunk []byte
	flush := func() {
		if len(chunk) == 0 {
			return
		}
		put := must[chunkstore.Put](l.t)(l.log.Store().Put(l.t.Context(), chunkstore.KindRows, chunk, chunkstore.Fast))
		b.Pieces = append(b.Pieces, history.Piece{Rows: &put.Ref})
		reach, chunk = append(reach, put.Name), nil
	}
	for _, r := range rows {
		b.Digest.Add(h.Line([]byte(r)))
		b.Bytes += int64(len(r)) + 1
		if len(r) > record.MaxInline {
			flush()
			ext, names := l.bytes([]byte(r))
			b.Pieces = append(b.Pieces, history.Piece{Long: ext})
			reach = append(reach, names...)
			continue
		}
		if chunk = append(append(chunk, r...), '\n'); len(chunk) > 64<<10 {
			flush()
		}
	}
	flush()
	check(l.t, l.w.Base(l.t.Context(), b, reach))
}

func (l *lab) ready() {
	l.t.Helper()
	check(l.t, l.w.Note(l.t.Context(), history.Note{Kind: history.NoteReady}))
}

// tx is one transaction of a segment to come.
type tx struct {
	time record.Time // zero: the next second
	rels []*record.Relation
	recs []record.Record
}

func (x *tx) add(rel *record.Relation, op record.Op, before, after string) {
	r := record.Record{Op: op}
	if op == record.Update || op == record.Delete {
		r.Old.Text = []byte(before)
	}
	if op == record.Update || op == record.Insert {
		r.New.Text = []byte(after)
	}
	x.rels, x.recs = append(x.rels, rel), append(x.recs, r)
}

// segment makes transactions durable and gives their ends.
func (l *lab) segment(txs ...*tx) []record.Transaction {
	l.t.Helper()
	s := &record.Segment{Start: l.lsn}
	var part []byte
	var reach []chunkstore.Name
	index := map[*record.Relation]uint32{}
	for i, x := range txs {
		l.lsn += 0x100
		l.xid++
		l.clock += 1e6
		t := record.Transaction{XID: l.xid, Commit: l.lsn - 0x30, End: l.lsn, Time: l.clock, Records: uint64(len(x.recs))}
		if x.time != 0 {
			t.Time = x.time
		}
		s.Transactions = append(s.Transactions, t)
		part = record.AppendTransaction(part, uint64(i))
		for k := range x.recs {
			r := x.recs[k]
			if _, ok := index[x.rels[k]]; !ok {
				index[x.rels[k]] = uint32(len(s.Relations))
				s.Relations = append(s.Relations, *x.rels[k])
			}
			r.Ordinal, r.Relation = uint64(k), index[x.rels[k]]
			for _, line := range []*record.Line{&r.Old, &r.New} {
				if len(line.Text) > record.MaxInline {
					ext, names := l.bytes(line.Text)
					*line = record.Line{Extents: ext}
					reach = append(reach, names...)
				}
			}
			part = record.AppendRecord(part, &r)
		}
	}
	records := uint64(0)
	for _, t := range s.Transactions {
		records += t.Records
	}
	s.End = l.lsn
	if records > 0 {
		s.Parts = []record.Part{{Inline: part, Records: records}}
	}
	if l.src != nil {
		s.Sequences = l.sequences()
	}
	check(l.t, l.w.Segment(l.t.Context(), s, history.SegmentMeta{Reach: reach, SchemaCertain: l.lsn}))
	return s.Transactions
}

// --- with a source ---

func newSource(t testing.TB, ddl ...string) *lab {
	t.Helper()
	return newSourceWith(t, nil, ddl...)
}

// newSourceWith lets the test change the relations before they are copied.
func newSourceWith(t testing.TB, adapt func(l *lab), ddl ...string) *lab {
	t.Helper()
	src := testpg.Shared(t, 18).Database(t)
	src.Exec(t, ddl...)
	mem := storetest.NewMemory(t)
	l := newLabOn(t, mem)
	l.mem, l.src = mem, src
	l.copyAll(adapt)
	return l
}

// copyAll copies the source as it is.
func (l *lab) copyAll(adapt func(l *lab)) {
	l.t.Helper()
	l.catalog()
	if adapt != nil {
		adapt(l)
	}
	l.schema(l.tables...)
	for _, r := range l.tables {
		l.rows[r.OID] = l.read(l.src, r)
		l.base(r, l.rows[r.OID])
	}
	l.ready()
}

// catalog reads the source's tables.
func (l *lab) catalog() {
	l.t.Helper()
	l.tables = nil
	for _, r := range l.src.Query(l.t, `SELECT c.oid, n.nspname, c.relname, c.relreplident = 'f' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY c.oid`) {
		oid := must[uint64](l.t)(strconv.ParseUint(r[0], 10, 32))
		rel := &record.Relation{OID: uint32(oid), Schema: r[1], Name: r[2], Identity: record.Full}
		places := map[string]uint16{}
		for i, a := range l.src.Query(l.t, `SELECT attname, format_type(atttypid, atttypmod), atttypid, atttypmod, attnum FROM pg_attribute
WHERE attrelid = `+r[0]+` AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`) {
			id := must[uint64](l.t)(strconv.ParseUint(a[2], 10, 32))
			mod := must[int64](l.t)(strconv.ParseInt(a[3], 10, 32))
			rel.Columns = append(rel.Columns, record.Column{Name: a[0], Type: a[1], TypeOID: uint32(id), TypeMod: int32(mod)})
			places[a[4]] = uint16(i)
		}
		for _, k := range l.src.Query(l.t, `SELECT unnest(indkey::int[]) FROM pg_index WHERE indisprimary AND indrelid = `+r[0]) {
			rel.Key = append(rel.Key, places[k[0]])
		}
		l.tables = append(l.tables, rel)
	}
}

func (l *lab) rel(name string) *record.Relation {
	l.t.Helper()
	i := slices.IndexFunc(l.tables, func(r *record.Relation) bool { return r.String() == name || r.Name == name })
	if i < 0 {
		l.t.Fatalf("no table %s", name)
	}
	return l.tables[i]
}

// read gives a table's lines under the pins, in heap order.
func (l *lab) read(d *testpg.Database, rel *record.Relation) []string {
	l.t.Helper()
	db := must[*database](l.t)(connect(l.t.Context(), d.DSN))
	conn, err := db.open(l.t.Context())
	check(l.t, err)
	defer closeConn(conn)
	var out bytes.Buffer
	_, err = conn.CopyTo(l.t.Context(), &out, copySQL(rel, " TO STDOUT"))
	check(l.t, err)
	lines := strings.SplitAfter(out.String(), "\n")
	lines = lines[:len(lines)-1]
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\n")
	}
	return lines
}

func (l *lab) sequences() []record.Sequence {
	l.t.Helper()
	var out []record.Sequence
	for _, r := range l.src.Query(l.t, `SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' ORDER BY c.oid`) {
		v := l.src.Query(l.t, "SELECT last_value, is_called FROM "+ident(r[1], r[2]))[0]
		oid := must[uint64](l.t)(strconv.ParseUint(r[0], 10, 32))
		last := must[int64](l.t)(strconv.ParseInt(v[0], 10, 64))
		out = append(out, record.Sequence{OID: uint32(oid), Schema: r[1], Name: r[2], Last: last, Called: v[1] == "t", At: l.lsn})
	}
	return out
}

// change runs statements at the source and writes what they did to the tables as
// one transaction.
func (l *lab) change(sql ...string) record.Transaction {
	l.t.Helper()
	l.src.Exec(l.t, sql...)
	return l.segment(l.differences())[0]
}

func (l *lab) differences() *tx {
	l.t.Helper()
	x := &tx{}
	for _, rel := range l.tables {
		now := l.read(l.src, rel)
		old := map[string]string{} // by key
		count := map[string]int{}
		key := func(line string) string {
			k, _, err := record.AppendKey(nil, []byte(line), rel, nil)
			check(l.t, err)
			return string(k)
		}
		for _, r := range l.rows[rel.OID] {
			old[key(r)] = r
			count[r]++
		}
		var fresh []string
		for _, r := range now {
			if count[r] > 0 {
				count[r]--
				continue
			}
			fresh = append(fresh, r)
		}
		for _, r := range fresh {
			if o := old[key(r)]; len(rel.Key) > 0 && count[o] > 0 {
				x.add(rel, record.Update, o, r)
				count[o]--
				continue
			}
			defer x.add(rel, record.Insert, "", r)
		}
		for _, r := range l.rows[rel.OID] {
			if count[r] > 0 {
				x.add(rel, record.Delete, r, "")
				count[r]--
			}
		}
		l.rows[rel.OID] = now
	}
	return x
}

// snapshotRows keeps what the source holds now, for a comparison later.
func (l *lab) snapshotRows() map[string][]string {
	out := map[string][]string{}
	for _, r := range l.tables {
		rows := slices.Clone(l.rows[r.OID])
		slices.Sort(rows)
		out[r.String()] = rows
	}
	return out
}

// restore restores into a new database.
func (l *lab) restore(at string, o Options) (*testpg.Database, *Report, error) {
	l.t.Helper()
	d := l.src.Cluster.Database(l.t)
	r, err := l.restoreInto(d, at, o)
	return d, r, err
}

func (l *lab) restoreInto(d *testpg.Database, at string, o Options) (*Report, error) {
	l.t.Helper()
	target := must[Target](l.t)(ParseTarget(at, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)))
	v := l.view()
	point, err := target.Resolve(l.t.Context(), v)
	if err != nil {
		return nil, err
	}
	o.PgRestore = filepath.Dir(testpg.Bin(l.t, 18, "pg_restore"))
	plan, err := NewPlan(l.t.Context(), v, point, o)
	if err != nil {
		return nil, err
	}
	report, err := plan.Materialise(l.t.Context(), d.DSN, l.secrets, nil)
	if err == nil {
		l.sameSpool(v, point, o, report)
	}
	return report, err
}

func (l *lab) equal(d *testpg.Database, want map[string][]string) {
	l.t.Helper()
	for _, rel := range l.tables {
		have := l.read(d, rel)
		slices.Sort(have)
		if !slices.Equal(have, want[rel.String()]) {
			l.t.Fatalf("table %s: have %d rows %.300q, want %d rows %.300q", rel, len(have), have, len(want[rel.String()]), want[rel.String()])
		}
	}
}
