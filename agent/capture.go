package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// spillAt is how much of one transaction is held before its records go to a
// chunk of their own.
const spillAt = 1 << 20

// capture turns the stream's messages into batches (cdc.Handler) and holds what
// stream, flusher, poller and copier share. The stream's goroutine holds mu from
// Begin to Commit; everybody else holds it briefly.
type capture struct {
	ctx    context.Context // of the stream's Run: cdc.Handler's methods take none
	store  *chunkstore.Store
	digest chunkstore.Secret
	log    *slog.Logger
	now    func() time.Time
	limit  int
	wake   chan struct{} // to the flusher; one slot
	asked  chan struct{} // to the poller; one slot

	mu       sync.Mutex
	room     sync.Cond // a closed batch was taken
	tables   map[uint32]*table
	cur      *batch
	ready    []*batch
	stopped  error
	recent   []recentCommit
	trackers map[*tracker]struct{}
	notes    []history.Note // to be durable before the next segment
	// received is the end of the newest received commit or idle position; durable is
	// where the log stood when the stream began.
	received, durable record.LSN
	certain           record.LSN

	// Owned by the stream's goroutine.
	stream  *cdc.Stream
	seen    map[uint32]*streamTable
	tx      transaction
	locked  bool
	oldLine []byte
	newLine []byte
	puts    chan struct{}
}

// streamTable is a table as the stream describes it.
type streamTable struct {
	msg    cdc.StreamRelation
	table  *table
	from   *record.Relation // table.rel when rel was resolved
	rel    *record.Relation
	hasher *record.Hasher
	batch  *batch
	index  uint32
	txn    uint64
	slot   int
}

// transaction is the one that the stream is in the middle of.
type transaction struct {
	number                  uint64
	xid                     record.XID
	time                    record.Time
	skip, large             bool
	records                 uint64
	buf, secret             []byte
	bufRecords, secretCount uint64
	parts                   []*record.Part
	reach                   []chunkstore.Name
	deltas                  []delta
	wait                    sync.WaitGroup
	mu                      sync.Mutex // guards reach and failed against the puts
	failed                  error
}

func newCapture(store *chunkstore.Store, digest chunkstore.Secret, durable record.LSN, limit int, log *slog.Logger, now func() time.Time) *capture {
	c := &capture{
		store: store, digest: digest, log: log, now: now, limit: limit,
		wake: make(chan struct{}, 1), asked: make(chan struct{}, 1),
		tables: map[uint32]*table{}, cur: newBatch(), trackers: map[*tracker]struct{}{},
		received: durable, durable: durable,
		seen: map[uint32]*streamTable{}, puts: make(chan struct{}, 2),
	}
	c.room.L = &c.mu
	return c
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Begin starts a transaction; final is the LSN of its commit record.
func (c *capture) Begin(xid record.XID, final record.LSN, at record.Time) error {
	c.mu.Lock()
	c.locked = true
	if c.stopped != nil {
		return c.stopped
	}
	t := &c.tx
	t.number++
	t.xid, t.time, t.records, t.large, t.failed = xid, at, 0, false, nil
	t.buf, t.secret, t.bufRecords, t.secretCount = t.buf[:0], t.secret[:0], 0, 0
	t.parts, t.reach, t.deltas = nil, nil, t.deltas[:0]
	t.skip = final < c.durable // its end is durable already: sent again after a reconnect
	return nil
}

// Relation learns how the stream describes a table from here on.
func (c *capture) Relation(r *cdc.StreamRelation) error {
	m := *r
	m.Columns = slices.Clone(r.Columns)
	c.seen[r.OID] = &streamTable{msg: m}
	return nil
}

// resolve decides how rows of st are stored: as the catalog says, when it agrees
// with the stream, else as the stream says, and the table is no longer exact.
func (c *capture) resolve(st *streamTable) {
	oid := st.msg.OID
	t := c.tables[oid]
	if t != nil && !t.resumed {
		if keep, ok := match(t, &st.msg); ok {
			c.stream.SetColumns(oid, keep)
			st.table, st.from, st.rel = t, t.rel, t.rel
			st.hasher = record.NewHasher(c.digest[:], t.rel.Schema, t.rel.Name)
			return
		}
	}
	rel, keep := fromMessage(t, &st.msg)
	c.stream.SetColumns(oid, keep)
	if t == nil {
		t = &table{oid: oid, rel: rel}
		c.tables[oid] = t
	}
	c.suspectLocked(t, "its rows come in another shape than the catalog was seen with")
	st.table, st.from, st.rel = t, t.rel, rel
	st.hasher = record.NewHasher(c.digest[:], rel.Schema, rel.Name)
	signal(c.asked)
}

// match says which columns of the message make the lines of t, in order; false
// when the message has another set of columns than the catalog.
func match(t *table, m *cdc.StreamRelation) ([]int, bool) {
	if m.Schema != t.rel.Schema || m.Name != t.rel.Name {
		return nil, false
	}
	keep := make([]int, 0, len(t.rel.Columns))
	for i := range t.rel.Columns {
		want := &t.rel.Columns[i]
		at := slices.IndexFunc(m.Columns, func(c cdc.StreamColumn) bool { return c.Name == want.Name })
		if at < 0 || m.Columns[at].TypeOID != want.TypeOID || m.Columns[at].TypeMod != want.TypeMod {
			return nil, false
		}
		keep = append(keep, at)
	}
	for i := range m.Columns {
		if !slices.Contains(keep, i) && !slices.Contains(t.generated, m.Columns[i].Name) {
			return nil, false
		}
	}
	return keep, true
}

func fromMessage(t *table, m *cdc.StreamRelation) (*record.Relation, []int) {
	rel := &record.Relation{OID: m.OID, Schema: m.Schema, Name: m.Name, Identity: record.Minimal}
	if m.Replident == 'f' {
		rel.Identity = record.Full
	}
	if t != nil {
		rel.Item, rel.Subject, rel.Secret = t.rel.Item, t.rel.Subject, t.rel.Secret
	}
	var keep []int
	for i, col := range m.Columns {
		if t != nil && slices.Contains(t.generated, col.Name) {
			continue
		}
		rel.Columns = append(rel.Columns, record.Column{
			Name: col.Name, Type: fmt.Sprintf("oid %d", col.TypeOID), TypeOID: col.TypeOID, TypeMod: col.TypeMod,
		})
		keep = append(keep, i)
	}
	return rel, keep
}

// suspectLocked opens an incomplete interval from the last position at which the
// catalog was certain; c.mu is held.
func (c *capture) suspectLocked(t *table, why string) {
	t.known = false
	if t.wanted == "" {
		t.wanted = why
	}
	if t.open {
		return
	}
	t.open, t.openFrom = true, c.certain
	c.log.Warn("table incomplete", "table", t.name(), "from", c.certain.String(), "reason", why)
	c.notes = append(c.notes, history.Note{Kind: history.NoteIncomplete, Table: t.oid, Name: t.name(), Reason: why, From: c.certain})
}

func (c *capture) suspect(t *table, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.suspectLocked(t, why)
}

// use gives the stream's table, resolved and numbered in the current batch, with
// its slot in the transaction's deltas.
func (c *capture) use(oid uint32) (*streamTable, *delta, error) {
	st := c.seen[oid]
	if st == nil {
		return nil, nil, fmt.Errorf("row of relation %d, which the stream never described: %w", oid, record.ErrCorrupt)
	}
	if st.rel == nil || st.from != st.table.rel || c.tables[oid] != st.table {
		c.resolve(st)
		st.batch = nil
	}
	if st.batch != c.cur {
		st.index, st.batch = c.cur.relation(st.rel), c.cur
	}
	if st.txn != c.tx.number {
		st.txn, st.slot = c.tx.number, len(c.tx.deltas)
		c.tx.deltas = append(c.tx.deltas, delta{table: st.table, oid: oid})
	}
	return st, &c.tx.deltas[st.slot], nil
}

// Row stores one row change.
func (c *capture) Row(oid uint32, op record.Op, row *cdc.Row) error {
	if c.tx.skip {
		return nil
	}
	st, d, err := c.use(oid)
	if err != nil {
		return err
	}
	full := st.rel.Identity == record.Full
	var hasOld, hasNew bool
	c.oldLine, c.newLine = c.oldLine[:0], c.newLine[:0]
	if op != record.Insert {
		c.oldLine, hasOld = row.AppendOld(c.oldLine)
	}
	if op != record.Delete {
		c.newLine, hasNew = row.AppendNew(c.newLine)
	}
	if !row.Complete(op) {
		d.unsure = true
		if full {
			c.suspectLocked(st.table, "its replica identity was changed while we followed it")
		}
	}
	if !d.unsure {
		if hasOld {
			d.sum.Sub(st.hasher.Line(c.oldLine))
		}
		if hasNew {
			d.sum.Add(st.hasher.Line(c.newLine))
		}
	}
	return c.append(st, d, op, hasOld, hasNew)
}

func (c *capture) append(st *streamTable, d *delta, op record.Op, hasOld, hasNew bool) error {
	t := &c.tx
	buf, n := &t.buf, &t.bufRecords
	if st.rel.Secret {
		buf, n = &t.secret, &t.secretCount
	}
	before := len(*buf)
	b := record.AppendHeader(*buf, t.records, st.index, op)
	var err error
	if b, err = c.line(b, c.oldLine, hasOld, st.rel.Secret); err != nil {
		return err
	}
	if b, err = c.line(b, c.newLine, hasNew, st.rel.Secret); err != nil {
		return err
	}
	*buf = b
	*n++
	t.records++
	d.bytes += uint64(len(b) - before)
	if cap(c.oldLine) > 8<<20 || cap(c.newLine) > 8<<20 {
		c.oldLine, c.newLine = nil, nil // one huge value must not hold memory for ever
	}
	if len(t.buf)+len(t.secret) >= spillAt {
		return c.spill()
	}
	return nil
}

// line appends a row image, or the extents under which a long one was stored.
func (c *capture) line(dst, line []byte, present, secret bool) ([]byte, error) {
	switch {
	case !present:
		return record.AppendLine(dst, record.Line{}), nil
	case len(line) <= record.MaxInline:
		if line == nil {
			line = []byte{}
		}
		return record.AppendLine(dst, record.Line{Text: line}), nil
	}
	extents, names, err := putBytes(c.ctx, c.store, line, secret)
	if err != nil {
		return nil, err
	}
	c.tx.mu.Lock()
	c.tx.reach = append(c.tx.reach, names...)
	c.tx.mu.Unlock()
	return record.AppendLine(dst, record.Line{Extents: extents}), nil
}

// putBytes stores b as `bytes` chunks, cut by content.
func putBytes(ctx context.Context, s *chunkstore.Store, b []byte, secret bool) ([]record.Extent, []chunkstore.Name, error) {
	var out []record.Extent
	var names []chunkstore.Name
	level := chunkstore.Fast
	if secret {
		level = chunkstore.Stored
	}
	err := s.CutBytes(b, func(piece []byte) error {
		p, err := s.Put(ctx, chunkstore.KindBytes, piece, level)
		if err != nil {
			return err
		}
		out = append(out, record.Extent{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: uint64(len(piece))})
		names = append(names, p.Name)
		return nil
	})
	return out, names, err
}

// spill sends what is held of the open transaction to a chunk. The first time it
// closes the batch before, so that the transaction begins one of its own.
func (c *capture) spill() error {
	t := &c.tx
	if !t.large {
		t.large = true
		if !c.cur.empty() {
			next := c.cur.inherit()
			if err := c.close(); err != nil {
				return err
			}
			c.cur = next
		}
	}
	if t.bufRecords > 0 {
		c.put(&t.buf, &t.bufRecords, false)
	}
	if t.secretCount > 0 {
		c.put(&t.secret, &t.secretCount, true)
	}
	return nil
}

// put stores a part in the background, at most two at a time.
func (c *capture) put(buf *[]byte, n *uint64, secret bool) {
	t := &c.tx
	part := &record.Part{Records: *n, Secret: secret}
	t.parts = append(t.parts, part)
	payload := append(record.AppendTransaction(make([]byte, 0, len(*buf)+9), 0), *buf...)
	if cap(*buf) > 4*spillAt {
		*buf = nil
	}
	*buf, *n = (*buf)[:0], 0
	c.puts <- struct{}{}
	t.wait.Go(func() {
		defer func() { <-c.puts }()
		level := chunkstore.Fast
		if secret {
			level = chunkstore.Stored
		}
		p, err := c.store.Put(c.ctx, chunkstore.KindRecords, payload, level)
		t.mu.Lock()
		defer t.mu.Unlock()
		if err != nil {
			t.failed = errors.Join(t.failed, err)
			return
		}
		part.Chunk = &record.Extent{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: p.Ref.Size}
		t.reach = append(t.reach, p.Name)
	})
}

// Truncate stores one record per table (protocol §1).
func (c *capture) Truncate(oids []uint32, flags uint64) error {
	if c.tx.skip {
		return nil
	}
	for _, oid := range oids {
		st, d, err := c.use(oid)
		if err != nil {
			return err
		}
		d.reset, d.sum = true, record.Digest{}
		t := &c.tx
		buf, n := &t.buf, &t.bufRecords
		if st.rel.Secret {
			buf, n = &t.secret, &t.secretCount
		}
		*buf = record.AppendRecord(*buf, &record.Record{Ordinal: t.records, Relation: st.index, Op: record.Truncate, Flags: flags})
		*n++
		t.records++
		d.bytes += 16
	}
	return nil
}

// Commit ends the transaction: it joins the batch, and the running digests move.
func (c *capture) Commit(commit, end record.LSN, at record.Time) error {
	defer c.unlock()
	t := &c.tx
	if t.large {
		if err := c.spill(); err != nil {
			return err
		}
		t.wait.Wait()
		if t.failed != nil {
			return t.failed
		}
	}
	if end <= c.durable || t.skip {
		return nil
	}
	c.received = max(c.received, end)
	if t.records > 0 {
		c.join(commit, end, at)
	} else if !c.cur.empty() {
		c.cur.end = max(c.cur.end, end)
	}
	if c.cur.size() >= c.limit {
		if err := c.close(); err != nil {
			return err
		}
	}
	return nil
}

func (c *capture) join(commit, end record.LSN, at record.Time) {
	t, b := &c.tx, c.cur
	if b.empty() {
		b.first = c.now()
		signal(c.wake)
	}
	index := uint64(len(b.txs))
	b.txs = append(b.txs, record.Transaction{XID: t.xid, Commit: commit, End: end, Time: at, Records: t.records})
	b.end = end
	for _, p := range t.parts {
		b.parts = append(b.parts, *p)
	}
	b.reach = append(b.reach, t.reach...)
	if t.bufRecords > 0 {
		b.buf = append(record.AppendTransaction(b.buf, index), t.buf...)
		b.bufRecords += t.bufRecords
	}
	if t.secretCount > 0 {
		b.secret = append(record.AppendTransaction(b.secret, index), t.secret...)
		b.secretCount += t.secretCount
	}
	r := recentCommit{xid: t.xid, commit: commit, end: end, deltas: slices.Clone(t.deltas)}
	for i := range r.deltas {
		c.account(&r.deltas[i])
	}
	c.recent = append(c.recent, r)
	for k := range c.trackers {
		k.commit(&r)
	}
}

// account moves the running digest of a table and the batch's change of it.
func (c *capture) account(d *delta) {
	tab := d.table
	if d.reset {
		tab.known = tab.known && !d.unsure
	}
	if d.unsure {
		tab.known = false
	}
	tab.digest = d.apply(tab.digest)
	tab.recordBytes += d.bytes
	st := c.seen[d.oid]
	ch := &c.cur.changes[c.cur.relation(st.rel)]
	if d.reset {
		ch.Reset, ch.Digest = true, d.sum
	} else {
		ch.Digest.Add(d.sum)
	}
	ch.Unknown = ch.Unknown || d.unsure
	ch.Bytes += d.bytes
}

// close hands the current batch to the flusher and waits while one waits already
// (G3: behind, we slow down; the log says so).
func (c *capture) close() error {
	c.cur.states = c.states()
	if len(c.ready) > 0 {
		began := c.now()
		for len(c.ready) > 0 && c.stopped == nil {
			c.room.Wait()
		}
		if d := c.now().Sub(began); d > 5*time.Second {
			c.log.Warn("the store is slower than the source; reading waited", "waited", d.Round(time.Millisecond))
		}
	}
	if c.stopped != nil {
		return c.stopped
	}
	c.ready = append(c.ready, c.cur)
	c.cur = newBatch()
	signal(c.wake)
	return nil
}

// Idle learns that nothing of ours is before position.
func (c *capture) Idle(position record.LSN) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if position > c.received {
		c.received = position
	}
	return c.stopped
}

func (c *capture) unlock() {
	if c.locked {
		c.locked = false
		c.mu.Unlock()
	}
}

// abort ends the stream's part after Run returned, in whatever state.
func (c *capture) abort() {
	c.tx.wait.Wait()
	c.unlock()
}

// stop makes every wait end with err.
func (c *capture) stop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped == nil {
		c.stopped = err
	}
	c.room.Broadcast()
}

// take gives the next batch that is due: a closed one, or the current one when it
// has waited for rpo or all is asked for. It gives nil when nothing is due, with
// how long until something is (0: until the next signal).
func (c *capture) take(rpo time.Duration, all bool) (*batch, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ready) > 0 {
		b := c.ready[0]
		c.ready = c.ready[1:]
		c.room.Broadcast()
		return b, 0
	}
	if c.cur.empty() {
		return nil, 0
	}
	age := c.now().Sub(c.cur.first)
	if !all && age < rpo {
		return nil, rpo - age
	}
	b := c.cur
	b.states = c.states()
	c.cur = newBatch()
	return b, 0
}

// pending reports whether anything received is not yet handed to the flusher, and
// the position received.
func (c *capture) pending() (bool, record.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ready) > 0 || !c.cur.empty(), c.received
}

// takeNotes gives the notes that must be durable before the next segment.
func (c *capture) takeNotes() []history.Note {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.notes
	c.notes = nil
	return n
}
