package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// metered counts the requests to a store.
type metered struct {
	*storetest.Memory
	// made are the puts that stored something, largest the largest checkpoint; lasting is
	// what stays for ever: the first and last entries of epochs, and notes.
	puts, made, gets, stats, lists, read, largest, lasting, lastingBytes atomic.Int64
}

func (m *metered) Create(ctx context.Context, key string, data []byte) error {
	m.puts.Add(1)
	if strings.HasPrefix(key, logPrefix) && Kind(data[9]) == KindCheckpoint {
		m.largest.Store(max(m.largest.Load(), int64(len(data))))
	}
	err := m.Memory.Create(ctx, key, data)
	if err != nil {
		return err
	}
	m.made.Add(1)
	if h, err := parseHeader(data); err == nil && (h.kind == KindEpoch || h.kind == KindEnd || h.kind == KindNote && h.part2 == tagSize) {
		m.lasting.Add(1)
		m.lastingBytes.Add(int64(len(data)))
	}
	return nil
}

// requests are all that were sent.
func (m *metered) requests() int64 {
	return m.puts.Load() + m.gets.Load() + m.stats.Load() + m.lists.Load()
}

func (m *metered) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := m.Memory.Get(ctx, key)
	m.gets.Add(1)
	m.read.Add(int64(len(b)))
	return b, err
}

func (m *metered) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	m.stats.Add(1)
	return m.Memory.Stat(ctx, key)
}

func (m *metered) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	m.lists.Add(1)
	return m.Memory.List(ctx, prefix, f)
}

// branch is a lineage of the simulated life, and what the oracle knows of it.
type branch struct {
	id      LineageID
	keys    *memKeys
	moments []moment // ascending
	asked   []asked
	ended   time.Time
	// forgotten: it was pruned by name.
	forgotten bool
}

// asked is a point that somebody asked to keep: a round of a kind, a mark or a pin.
type asked struct {
	why, name string
	m         moment
}

// due gives the moments that must be kept, by what keep says and what was asked for: the
// first round of each of the last weeks and months, all marks and pins.
func (b *branch) due(k Keep) (out []asked) {
	newest := b.moments[len(b.moments)-1].time
	last := map[string]int64{}
	for _, a := range b.asked {
		week, month := Week(a.m.time), Month(a.m.time)
		switch {
		case a.name != "":
			out = append(out, a)
			continue
		case a.why == Monthly && last[Monthly] != month && Month(newest)-month < int64(k.Monthly),
			last[Weekly] != week && Week(newest)-week < int64(k.Weekly):
			out = append(out, a)
		}
		last[Weekly] = week
		if a.why == Monthly {
			last[Monthly] = month
		}
	}
	return out
}

func (b *branch) moment(at record.LSN) (moment, bool) {
	i, ok := slices.BinarySearchFunc(b.moments, at, func(m moment, at record.LSN) int { return int(int64(m.at) - int64(at)) })
	if !ok {
		return moment{}, false
	}
	return b.moments[i], true
}

// newest gives the last moment at or before a position.
func (b *branch) newest(at record.LSN) (moment, bool) {
	i, ok := slices.BinarySearchFunc(b.moments, at, func(m moment, at record.LSN) int { return int(int64(m.at) - int64(at)) })
	if ok {
		i++
	}
	if i == 0 {
		return moment{}, false
	}
	return b.moments[i-1], true
}

// lifePlan is how long and how busy a life is.
type lifePlan struct {
	days, perDay int // segments a day
	changes      int64
	keep         Keep
	seed         uint64
	adopt        []int // days on which the database is restored and followed from there
}

// life is a source, its agent, an operator and a prune, on one store with its own clock.
type life struct {
	*yearLoad
	t       testing.TB
	plan    lifePlan
	m       *metered
	agents  *Repository // under an identity that may not delete
	repo    *Repository
	secrets *Secrets

	now      time.Time
	day      int
	log      *Log
	w        *Writer
	branch   *branch
	past     []*branch
	pend     *yearSegment
	version  byte // of the schema
	nextOID  uint32
	alarm    *Alarm
	pinned   []string
	marked   []string
	crashes  int
	refused  int
	pruned   int
	restored int
	gone     int
	bases    int
	epochs   int
}

func newLife(t testing.TB, p lifePlan) *life {
	t.Helper()
	op, err := age.GenerateX25519Identity()
	must(t, err)
	y := &life{yearLoad: newYearLoad(p.seed, 1), t: t, plan: p, m: &metered{Memory: storetest.NewMemory(t)}, nextOID: 200}
	y.repo, y.secrets, err = Create(t.Context(), y.m, CreateOptions{Recipients: []string{op.Recipient().String()}})
	must(t, err)
	y.agents, err = Open(t.Context(), struct{ chunkstore.Backend }{y.m})
	must(t, err)
	y.now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	y.newLineage(nil)
	return y
}

func (y *life) time() record.Time { return record.FromTime(y.now) }

func (y *life) opening() Opening {
	o := Opening{Timeline: 1, Slot: "lifeboat", ServerVersion: 180006, XMax: y.xid, Host: "db.example.org", Durable: y.w.View().Durable}
	for _, t := range y.tables {
		o.Tables = append(o.Tables, TableState{
			Table: t.rel.OID, Digest: t.sum.digest(), Known: true, RecordBytes: uint64(t.recordBytes), Fingerprint: [32]byte{byte(t.shape)}, Member: "16391:901 16399:902",
		})
	}
	return o
}

func (s bag) digest() record.Digest { return record.Digest{Hi: s.a, Lo: s.b, Count: s.n} }

// do calls f until it ends well: after a crash the store answers again and the agent
// starts anew. f may be called after it was done.
func (y *life) do(what string, f func() error) {
	y.t.Helper()
	for range 5 {
		err := f()
		if err == nil {
			return
		}
		if !y.m.Crashed() {
			y.t.Fatalf("day %d: %s: %v", y.day, what, err)
		}
		y.m.Restart()
		y.crashes++
		must(y.t, y.start(0))
	}
	y.t.Fatalf("day %d: %s: no end", y.day, what)
}

// start is a start of the agent; a durable position above the log's says that the slot
// was lost.
func (y *life) start(durable record.LSN) error {
	ctx := y.t.Context()
	y.log = quick(y.agents.Log(y.secrets.Agent(), y.branch.id, y.branch.keys))
	v, err := y.log.Load(ctx)
	if err != nil {
		return err
	}
	o := y.opening()
	o.Durable = max(v.Durable, durable)
	w, err := y.log.Begin(ctx, v, y.branch.keys, o)
	if err != nil {
		return err
	}
	y.w = w
	y.epochs++
	return y.merge()
}

func (y *life) merge() error {
	for _, e := range y.w.Unmerged() {
		if err := y.w.Merge(y.t.Context(), e); err != nil {
			return err
		}
	}
	return nil
}

// newLineage begins the first lineage, or one that left its parent.
func (y *life) newLineage(p *Parent) {
	y.t.Helper()
	if y.branch != nil {
		y.branch.ended = y.now
		y.past = append(y.past, y.branch)
	}
	y.m.SetFault(nil)
	y.branch = &branch{keys: newMemKeys()}
	y.branch.id.SystemID, y.branch.id.Database = 7_300_000_000_000_000_001, 16_384
	y.branch.id.Lineage = record.Lineage{1, 2, 3, 4, 5, 6, 7, byte(len(y.past))}
	y.log = quick(y.agents.Log(y.secrets.Agent(), y.branch.id, y.branch.keys))
	y.lsn += 1000
	var err error
	y.w, err = y.log.Begin(y.t.Context(), nil, y.branch.keys, Opening{
		Timeline: 1, Slot: "lifeboat", ServerVersion: 180006, XMax: y.xid, Host: "db.example.org", Durable: y.lsn, Parent: p,
	})
	must(y.t, err)
	y.epochs++
	y.alarm, y.pinned, y.marked = nil, nil, nil
	y.pend = newYearSegment(y.lsn)
	y.everything("begin")
	must(y.t, y.w.Note(y.t.Context(), Note{Kind: NoteReady}))
	y.branch.moments = append(y.branch.moments, y.yearLoad.moment(y.lsn, y.time()))
}

// everything copies all tables and the schema, with nothing pending.
func (y *life) everything(why string) {
	y.t.Helper()
	y.do(why, y.schemaNote)
	for _, t := range y.tables {
		y.copy(t)
	}
}

// schemaNote says the schema as it is now.
func (y *life) schemaNote() error {
	s := &Schema{Fingerprint: [32]byte{y.version, 1}, From: y.lsn, Publication: "lifeboat", ServerVersion: 180006}
	text := fmt.Appendf(nil, "schema %d of %s\n", y.version, y.branch.id)
	for _, t := range y.tables {
		s.Tables = append(s.Tables, SchemaTable{OID: t.rel.OID, Schema: "public", Name: t.rel.Name, Kind: 'r', Fingerprint: [32]byte{byte(t.shape), 1}, Captured: true})
		text = fmt.Appendf(text, "CREATE TABLE %s %v;\n", &t.rel, t.rel.Columns)
	}
	return condemnedAgain(func() error {
		p, err := y.log.Store().Put(y.t.Context(), chunkstore.KindBytes, text, chunkstore.Default)
		if err != nil {
			return err
		}
		s.Custom = []record.Extent{{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: p.Ref.Size}}
		s.Plain = s.Custom
		return y.w.SchemaNote(y.t.Context(), s, nil)
	})
}

// condemnedAgain calls f again when what it names was condemned meanwhile.
func condemnedAgain(f func() error) error {
	for {
		var c *ErrCondemned
		if err := f(); !errors.As(err, &c) {
			return err
		}
	}
}

// copy makes a base of a table as it is now, wherever the stream is: its snapshot sees
// what was committed and is not durable yet.
func (y *life) copy(t *yearTable) {
	y.t.Helper()
	b := &Base{
		Relation: t.rel, Snapshot: record.Snapshot{XMin: y.xid, XMax: y.xid}, RecordsFrom: y.pend.start, ExactFrom: y.lsn,
		Digest: t.sum.digest(), Bytes: t.bytes, Fingerprint: [32]byte{byte(t.shape), 1}, Time: y.time(), Proved: true,
	}
	y.do("copy "+t.rel.Name, func() error {
		return condemnedAgain(func() error {
			var err error
			if b.Pieces, err = y.pieces(t); err != nil {
				return err
			}
			return y.w.Base(y.t.Context(), b, nil)
		})
	})
	y.bases++
	t.copied, t.baseBytes, t.recordBytes, t.due = y.now, t.bytes, 0, false
}

// pieceRows is how many keys share a chunk, so that rows that did not change are not
// stored again.
const pieceRows = 512

func (y *life) pieces(t *yearTable) ([]Piece, error) {
	var out []Piece
	var buf []byte
	put := func() error {
		if len(buf) == 0 {
			return nil
		}
		c := chunkstore.Default
		if t.rel.Secret {
			c = chunkstore.Stored
		}
		p, err := y.log.Store().Put(y.t.Context(), chunkstore.KindRows, buf, c)
		if err == nil {
			out = append(out, Piece{Rows: &p.Ref})
		}
		buf = buf[:0]
		return err
	}
	for i, val := range t.vals {
		key := t.first + uint64(i)
		if val != 0 {
			buf = append(t.line(buf, key, val), '\n')
		}
		if key%pieceRows == pieceRows-1 {
			if err := put(); err != nil {
				return nil, err
			}
		}
	}
	return out, put()
}

// flush makes what is pending durable.
func (y *life) flush() {
	y.t.Helper()
	s := y.pend
	if s.end > s.start {
		y.do("segment", func() error {
			if y.w.View().Durable >= s.end {
				return nil
			}
			return y.w.Segment(y.t.Context(), s.segment(), SegmentMeta{SchemaCertain: s.end})
		})
	}
	y.pend = newYearSegment(y.lsn)
}

// roundSpan is the agent's.
const roundSpan = 6 * time.Hour

// dueRound is the agent's rule for the sparse points.
func (y *life) dueRound(v *View) string {
	weekly, monthly := true, true
	for _, r := range v.Rounds {
		weekly = weekly && Week(r.Time) != Week(v.DurableTime)
		monthly = monthly && (r.Kind != Monthly || Month(r.Time) != Month(v.DurableTime))
	}
	switch {
	case monthly:
		return Monthly
	case weekly:
		return Weekly
	}
	return ""
}

// round notes a round when every table was copied lately.
func (y *life) round() {
	y.t.Helper()
	v := y.w.View()
	kind := y.dueRound(v)
	if kind == "" {
		return
	}
	s := v.Schemas[len(v.Schemas)-1]
	n := Note{Kind: NoteRound, Name: kind, Point: min(v.Durable, max(s.From, s.Until)), Time: v.DurableTime}
	n.From = n.Point
	for _, b := range v.BasesAt(n.Point) {
		if y.now.Sub(b.Time.Time()) > roundSpan {
			return
		}
		n.From, n.Until = min(n.From, b.RecordsFrom), max(n.Until, b.ExactFrom)
	}
	y.do("round", func() error { return y.w.Note(y.t.Context(), n) })
	m, ok := y.branch.moment(n.Point)
	if !ok {
		y.t.Fatalf("day %d: a round at %s, of which the source knows nothing", y.day, n.Point)
	}
	y.branch.asked = append(y.branch.asked, asked{why: kind, m: m})
}

// refresh marks the tables that are to be copied anew, as the agent does.
func (y *life) refresh() {
	const least = 64 << 10
	round := y.dueRound(y.w.View()) != ""
	for _, t := range y.tables {
		since := y.now.Sub(t.copied)
		t.due = round && since > roundSpan ||
			t.recordBytes > max(least, t.baseBytes/2) && since >= 12*time.Hour ||
			since > y.plan.keep.EveryCommit*13/14
	}
}

// step is a part of a day: transactions, copies in their midst, a segment.
func (y *life) step(n int64) {
	y.t.Helper()
	const size = 25
	count := max(int(n/size), 2)
	copies, random := count/2, y.rng.IntN(count)
	y.refresh()
	l := y.yearLoad
	for i := range count {
		l.transaction(y.pend, size, y.time())
		if i == 0 {
			for range max(40/y.plan.perDay, 1) {
				l.insert(y.pend, y.tables[yearEvent])
			}
			l.commit(y.pend, y.time())
		}
		if i == copies {
			for _, t := range y.tables {
				if t.due {
					y.copy(t)
				}
			}
		}
		if i == random || i == count-1 {
			y.branch.moments = append(y.branch.moments, l.moment(y.lsn, y.time()))
		}
	}
	y.flush()
	y.round()
}

// rotate ends the epoch, and merges it.
func (y *life) rotate() {
	y.t.Helper()
	y.do("rotate", func() error { return y.w.Rotate(y.t.Context(), y.opening()) })
	y.epochs++
	y.do("merge", y.merge)
}
