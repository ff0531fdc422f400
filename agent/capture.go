package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	alarm  Alarm
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
	held     atomic.Int32   // copies whose snapshot is not tracked yet
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
	huge    func(oid uint32) // a row over cdc.HugeRow was met
	// progress tells that a part of a large transaction is in the store; it may be
	// called from any goroutine.
	progress func()
	plant    plant
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
		seen: map[uint32]*streamTable{}, puts: make(chan struct{}, 2), progress: func() {},
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

// suspectLocked opens an incomplete interval from the last position at which the
// catalog was certain; c.mu is held.
func (c *capture) suspectLocked(t *table, why string) { c.suspectFrom(t, why, c.certain) }

// suspectRow is suspectLocked for what a row of the stream tells, which may be far
// behind the catalog: the table was exact up to the commit before it at most.
func (c *capture) suspectRow(t *table, why string) {
	c.suspectFrom(t, why, min(c.certain, c.received))
}

func (c *capture) suspectFrom(t *table, why string, from record.LSN) {
	t.known = false
	c.copyAgain(t.oid, why)
	if t.wanted == "" {
		t.wanted = why
	}
	if t.open {
		return
	}
	t.open, t.openFrom = true, from
	c.log.Warn("table incomplete", "table", t.name(), "from", from.String(), "reason", why)
	c.notes = append(c.notes, history.Note{Kind: history.NoteIncomplete, Table: t.oid, Name: t.name(), Reason: why, From: from})
}

// copyAgain makes the copies of a table that are under way begin anew; c.mu is held.
func (c *capture) copyAgain(oid uint32, why string) {
	for k := range c.trackers {
		if k.oid == oid {
			k.suspect = why
		}
	}
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
		if full(st.rel) {
			c.suspectRow(st.table, "its replica identity was changed while we followed it")
		}
	}
	times := 1
	if c.plant.row != nil {
		times = c.plant.row(st.rel.String(), op, c.newLine)
	}
	for range times {
		if err := c.keep(st, d, op, hasOld, hasNew); err != nil {
			return err
		}
	}
	return nil
}

// keep hashes the row that oldLine and newLine hold, and stores it.
func (c *capture) keep(st *streamTable, d *delta, op record.Op, hasOld, hasNew bool) error {
	if !d.unsure {
		if hasOld {
			h := st.hasher.Line(c.oldLine)
			d.sum.Sub(h)
			st.table.watch.old(h.Lo, d)
		}
		if hasNew {
			h := st.hasher.Line(c.newLine)
			d.sum.Add(h)
			st.table.watch.fresh(h.Lo)
		}
	}
	d.count(op, full(st.rel))
	return c.append(st, d, op, hasOld, hasNew)
}

func (c *capture) append(st *streamTable, d *delta, op record.Op, hasOld, hasNew bool) error {
	t := &c.tx
	buf, n := &t.buf, &t.bufRecords
	if st.rel.Secret {
		buf, n = &t.secret, &t.secretCount
	}
	if max(len(c.oldLine), len(c.newLine)) > cdc.HugeRow && full(st.rel) {
		c.huge(st.rel.OID)
		signal(c.asked)
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
		d.reset, d.sum, d.rows = true, record.Digest{}, tally{reset: true}
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
		c.mind(r.deltas[i].table, &r.deltas[i], end, at)
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

func full(r *record.Relation) bool { return r.Identity == record.Full }
