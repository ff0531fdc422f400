package history

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/record"
)

// yearHash hashes lines for the oracle: two sums of 64 bits over the bag of a table's
// lines, with code that the store does not use. Only this process compares them.
var yearHash = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

// bag is the sum over the lines of a table.
type bag struct {
	a, b uint64
	n    int64
}

func (s *bag) add(line []byte) {
	s.a += maphash.Bytes(yearHash[0], line)
	s.b += maphash.Bytes(yearHash[1], line)
	s.n++
}

func (s *bag) sub(line []byte) {
	s.a -= maphash.Bytes(yearHash[0], line)
	s.b -= maphash.Bytes(yearHash[1], line)
	s.n--
}

// yearTable is a table of the simulated source. Its rows have the keys from first on;
// of each only a number is kept, of which the line is made.
type yearTable struct {
	rel   record.Relation
	shape int // how often it was altered
	first uint64
	vals  []uint32 // 0: no such row
	sum   bag
	bytes int64 // of its lines with their newlines
	// What the agent knows of it.
	copied      time.Time
	baseBytes   int64
	recordBytes int64
	due         bool
}

func newYearTable(oid uint32, name string, secret bool) *yearTable {
	t := &yearTable{rel: record.Relation{OID: oid, Schema: "public", Name: name, Key: []uint16{0}, Identity: record.Full, Secret: secret}}
	t.columns()
	return t
}

// columns makes the relation of the shape: up to three columns were added, then they
// are dropped again, so that lines do not grow for ten years.
func (t *yearTable) columns() {
	t.rel.Columns = []record.Column{
		{Name: "id", Type: "bigint", TypeOID: 20, TypeMod: -1},
		{Name: "version", Type: "bigint", TypeOID: 20, TypeMod: -1},
		{Name: "v", Type: "text", TypeOID: 25, TypeMod: -1},
	}
	for i := range t.shape % 4 {
		t.rel.Columns = append(t.rel.Columns, record.Column{Name: "c" + strconv.Itoa(t.shape-t.shape%4+i), Type: "integer", TypeOID: 23, TypeMod: -1})
	}
}

// line appends the COPY line of a row.
func (t *yearTable) line(dst []byte, key uint64, val uint32) []byte {
	dst = strconv.AppendUint(dst, key, 10)
	dst = append(dst, '\t')
	dst = strconv.AppendUint(dst, uint64(val), 10)
	dst = append(dst, "\tsome text "...)
	mixed := (key*0x9e3779b97f4a7c15 ^ uint64(val)) * 0xbf58476d1ce4e5b9
	dst = strconv.AppendUint(dst, mixed>>24, 36)
	for i := range t.shape % 4 {
		dst = append(dst, '\t')
		dst = strconv.AppendUint(dst, mixed>>(8*i)&63, 10)
	}
	return dst
}

// parse reads the key and the number of a line.
func parseYearLine(line string) (key uint64, val uint32) {
	f := strings.SplitN(line, "\t", 3)
	key, _ = strconv.ParseUint(f[0], 10, 64)
	v, _ := strconv.ParseUint(f[1], 10, 32)
	return key, uint32(v)
}

// fill makes n rows.
func (t *yearTable) fill(n int) {
	for range n {
		t.vals = append(t.vals, 1)
	}
	t.count()
}

// count goes through all rows.
func (t *yearTable) count() {
	t.sum, t.bytes = bag{}, 0
	t.lines(func(line []byte) {
		t.sum.add(line)
		t.bytes += int64(len(line)) + 1
	})
}

func (t *yearTable) lines(f func(line []byte)) {
	var buf []byte
	for i, val := range t.vals {
		if val != 0 {
			buf = t.line(buf[:0], t.first+uint64(i), val)
			f(buf)
		}
	}
}

// yearLoad makes transactions of the simulated source, and the segment that an agent
// makes of them.
type yearLoad struct {
	rng     *rand.Rand
	tables  []*yearTable
	lsn     record.LSN
	xid     record.XID
	changes int64
	old     []byte
	new     []byte
}

// yearSegment is a segment under way: transactions that were committed and are not
// durable yet.
type yearSegment struct {
	start, end record.LSN
	time       record.Time
	index      map[uint32]uint32
	rels       []record.Relation
	txs        []record.Transaction
	parts      [2][]byte // other, secret
	counts     [2]uint64
	marked     [2]bool
	ordinal    uint64
	changes    []record.Change
}

func newYearSegment(start record.LSN) *yearSegment {
	return &yearSegment{start: start, end: start, index: map[uint32]uint32{}}
}

// relation gives the index of a table as it is now.
func (s *yearSegment) relation(t *yearTable) uint32 {
	i, ok := s.index[t.rel.OID]
	if !ok {
		i = uint32(len(s.rels))
		s.index[t.rel.OID] = i
		s.rels = append(s.rels, t.rel)
		s.changes = append(s.changes, record.Change{Relation: i})
	}
	return i
}

// put adds one record to the open transaction.
func (l *yearLoad) put(s *yearSegment, t *yearTable, op record.Op, old, now []byte) {
	k := 0
	if t.rel.Secret {
		k = 1
	}
	if !s.marked[k] {
		s.parts[k] = record.AppendTransaction(s.parts[k], uint64(len(s.txs)))
		s.marked[k] = true
	}
	rel := s.relation(t)
	before := len(s.parts[k])
	s.parts[k] = record.AppendRecord(s.parts[k], &record.Record{
		Ordinal: s.ordinal, Relation: rel, Op: op, Old: record.Line{Text: old}, New: record.Line{Text: now},
	})
	size := int64(len(s.parts[k]) - before)
	s.changes[rel].Bytes += uint64(size)
	t.recordBytes += size
	s.ordinal++
	s.counts[k]++
	l.changes++
	if op == record.Truncate {
		t.sum, t.bytes = bag{}, 0
		t.first, t.vals = t.first+uint64(len(t.vals)), nil
		return
	}
	if old != nil {
		t.sum.sub(old)
		t.bytes -= int64(len(old)) + 1
	}
	if now != nil {
		t.sum.add(now)
		t.bytes += int64(len(now)) + 1
	}
}

func (l *yearLoad) insert(s *yearSegment, t *yearTable) {
	key, val := t.first+uint64(len(t.vals)), uint32(1)
	t.vals = append(t.vals, val)
	l.new = t.line(l.new[:0], key, val)
	l.put(s, t, record.Insert, nil, l.new)
}

func (l *yearLoad) update(s *yearSegment, t *yearTable) {
	if len(t.vals) == 0 {
		return
	}
	i := l.rng.IntN(len(t.vals))
	val := t.vals[i]
	l.old = t.line(l.old[:0], t.first+uint64(i), val)
	t.vals[i] = val + 1
	l.new = t.line(l.new[:0], t.first+uint64(i), val+1)
	l.put(s, t, record.Update, l.old, l.new)
}

// shift deletes the oldest row.
func (l *yearLoad) shift(s *yearSegment, t *yearTable) {
	if len(t.vals) == 0 {
		return
	}
	l.old = t.line(l.old[:0], t.first, t.vals[0])
	t.first, t.vals = t.first+1, t.vals[1:]
	l.put(s, t, record.Delete, l.old, nil)
}

func (l *yearLoad) truncate(s *yearSegment, t *yearTable) { l.put(s, t, record.Truncate, nil, nil) }

// commit ends the transaction, if it holds anything.
func (l *yearLoad) commit(s *yearSegment, at record.Time) bool {
	if s.ordinal == 0 {
		return false
	}
	l.lsn += 100 + record.LSN(s.ordinal)
	s.txs = append(s.txs, record.Transaction{XID: l.xid, Commit: l.lsn - 8, End: l.lsn, Time: at, Records: s.ordinal})
	l.xid++
	s.end, s.time = l.lsn, at
	s.ordinal, s.marked = 0, [2]bool{}
	return true
}

// The tables of the simulated source, by their place.
const (
	yearHot   = iota // 1,000 rows that are updated all the time
	yearQueue        // rows come and go
	yearLogin        // truncated each month
	yearEvent        // only grows
	yearQuiet        // large, hardly touched
	yearToken        // small, secret
	yearTables
)

func newYearLoad(seed uint64, scale int) *yearLoad {
	l := &yearLoad{rng: rand.New(rand.NewPCG(seed, 10)), lsn: 1 << 24, xid: 1000}
	for i, name := range []string{"hot", "queue", "login", "event", "quiet", "token"} {
		t := newYearTable(uint32(100+i), name, i == yearToken)
		t.fill([]int{1000, 1500, 100, 2000, 10_000, 200}[i] * scale)
		l.tables = append(l.tables, t)
	}
	return l
}

// transaction makes one of about n changes.
func (l *yearLoad) transaction(s *yearSegment, n int, at record.Time) {
	switch l.rng.IntN(8) {
	case 0, 1, 2:
		for range n {
			l.update(s, l.tables[yearHot])
		}
	case 3, 4, 5:
		for range n / 2 {
			l.insert(s, l.tables[yearQueue])
			l.shift(s, l.tables[yearQueue])
		}
	case 6:
		for range n - 2 {
			l.insert(s, l.tables[yearLogin])
		}
		l.update(s, l.tables[yearToken])
		l.update(s, l.tables[yearHot])
	default:
		for range n - 1 {
			l.update(s, l.tables[yearHot])
		}
		l.update(s, l.tables[yearQuiet])
		for _, t := range l.tables[yearTables:] {
			l.update(s, t)
		}
	}
	l.commit(s, at)
}

// segment makes the entry's body of what was committed.
func (s *yearSegment) segment() *record.Segment {
	out := &record.Segment{Start: s.start, End: s.end, Relations: s.rels, Transactions: s.txs, Changes: s.changes}
	for k, b := range s.parts {
		if s.counts[k] > 0 {
			out.Parts = append(out.Parts, record.Part{Inline: b, Records: s.counts[k], Secret: k == 1})
		}
	}
	out.Sequences = []record.Sequence{{OID: 99, Schema: "public", Name: "ids", Last: int64(s.end), Called: true, At: s.end}}
	return out
}

// moment is what the source held after one commit.
type moment struct {
	at   record.LSN
	time record.Time
	sums map[uint32]bag
}

func (l *yearLoad) moment(at record.LSN, t record.Time) moment {
	m := moment{at: at, time: t, sums: make(map[uint32]bag, len(l.tables))}
	for _, table := range l.tables {
		m.sums[table.rel.OID] = table.sum
	}
	return m
}

// The oracle's sums follow the changes.
func TestYearLoad(t *testing.T) {
	l := newYearLoad(1, 1)
	s := newYearSegment(l.lsn)
	for range 200 {
		l.transaction(s, 20, 1)
	}
	l.truncate(s, l.tables[yearLogin])
	l.insert(s, l.tables[yearLogin])
	l.commit(s, 1)
	must(t, s.segment().Validate())
	for _, table := range l.tables {
		c := *table
		c.vals = slices.Clone(table.vals)
		if c.count(); c.sum != table.sum || c.bytes != table.bytes {
			t.Errorf("%s: %v and %d bytes, counted %v and %d", table.rel.Name, table.sum, table.bytes, c.sum, c.bytes)
		}
	}
}
