package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

const (
	// chunkTarget is the mean size of a rows chunk (design §5).
	chunkTarget = 1 << 20
	// bigTable is the size from which a table is copied alone, by all workers.
	bigTable = 64 << 20
	// copyRetry is how long a table that was in use is left alone.
	copyRetry = 2 * time.Second
	// maxProofs bounds the copies that wait for their verdict.
	maxProofs = 64
)

// copier copies tables: the first base, late tables, rewrites and refreshes, all
// in the same way (design §6), and holds each copy against its prediction (G5).
type copier struct {
	a    *agent
	wake chan struct{} // what cannot wait
	due  chan struct{} // copies anew
	// proofs are the copies that wait for the stream to reach them.
	proofs *errgroup.Group

	mu   sync.Mutex
	cat  *cdc.Catalog
	wait map[uint32]time.Time // not before
	// asked is when the poller was last told of a copy.
	asked time.Time
}

// offer tells the copier what the catalog looks like now.
func (k *copier) offer(cat *cdc.Catalog) {
	k.mu.Lock()
	k.cat = cat
	k.mu.Unlock()
	signal(k.wake)
}

func (k *copier) run(ctx context.Context) error {
	var pctx context.Context
	k.proofs, pctx = errgroup.WithContext(ctx)
	k.proofs.SetLimit(maxProofs)
	defer k.proofs.Wait() // its error is the cause of pctx below
	loops, lctx := errgroup.WithContext(pctx)
	loops.Go(func() error { return k.loop(lctx, k.wake, k.round) })
	loops.Go(func() error { return k.loop(lctx, k.due, k.refreshOne) })
	err := loops.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, context.Cause(pctx))
}

// loop does a round at each wake, each second, and while it asks to go on.
func (k *copier) loop(ctx context.Context, wake <-chan struct{}, round func(context.Context) (again bool, err error)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		again, err := round(ctx)
		if err != nil {
			return err
		}
		if again {
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return nil
}

// wanted lists the tables that are to be copied at once and can be now.
func (k *copier) wanted() (big, small []cdc.Table) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cat == nil {
		return nil, nil
	}
	c := k.a.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	now := k.a.now()
	for i := range k.cat.Tables {
		ct := &k.cat.Tables[i]
		t := c.tables[ct.Relation.OID]
		if t == nil || t.wanted == "" || !k.ready(t, ct, now) {
			continue
		}
		if ct.Bytes >= bigTable {
			big = append(big, *ct)
		} else {
			small = append(small, *ct)
		}
	}
	return big, small
}

// ready reports whether a table can be copied now; k.mu and capture.mu are held.
func (k *copier) ready(t *table, ct *cdc.Table, now time.Time) bool {
	return !t.proving && ct.InPublication && ct.Settled && !now.Before(k.wait[t.oid]) && t.fingerprint == ct.Fingerprint
}

func (k *copier) round(ctx context.Context) (again bool, err error) {
	big, small := k.wanted()
	workers := k.a.o.Tuning.Workers
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := range small {
		g.Go(func() error { return k.one(gctx, ctx, small[i], cdc.CopyOptions{Workers: 1}) })
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	for i := range big {
		if err := k.one(ctx, ctx, big[i], cdc.CopyOptions{Workers: workers}); err != nil {
			return false, err
		}
	}
	return false, nil
}

// one copies one table, or puts it off when it is in use. The verdict outlives ctx: it
// has the copier's context.
func (k *copier) one(ctx, whole context.Context, ct cdc.Table, o cdc.CopyOptions) error {
	oid := ct.Relation.OID
	k.a.capture.setProving(oid, true)
	p, err := k.a.copyTable(ctx, ct, o)
	if err != nil {
		k.a.capture.setProving(oid, false)
		return k.putOff(ct, err)
	}
	k.proofs.Go(func() error {
		err := p.finish(whole)
		k.a.capture.setProving(oid, false)
		if err != nil {
			err = k.putOff(ct, err)
		}
		k.ask()
		return err
	})
	return nil
}

// ask makes the poller look after a copy: at once after the last, else once in a
// while. For each of hundreds of tables it would cost the source more than the copies.
func (k *copier) ask() {
	last := !k.a.capture.copying()
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.a.now(); last || now.Sub(k.asked) > time.Second {
		k.asked = now
		signal(k.a.capture.asked)
	}
}

func (k *copier) putOff(ct cdc.Table, err error) error {
	later := k.a.now().Add(copyRetry)
	switch {
	case errors.Is(err, cdc.ErrTooLong):
		k.a.log.Warn("copy stopped: it takes longer than copy_max", "table", ct.Relation.String(), "err", err.Error())
		later = k.later()
	case errors.Is(err, cdc.ErrBusy), errors.Is(err, cdc.ErrYield), errors.Is(err, cdc.ErrSnapshotTooOld):
		k.a.log.Info("copy waits", "table", ct.Relation.String(), "reason", err.Error())
	case errors.Is(err, cdc.ErrChanged), errors.Is(err, cdc.ErrGone), condemned(err): // its chunks get the next generation
		k.a.log.Info("copy begins again", "table", ct.Relation.String(), "reason", err.Error())
		signal(k.a.capture.asked)
	default:
		return fmt.Errorf("copy %s: %w", ct.Relation.String(), err)
	}
	k.mu.Lock()
	k.wait[ct.Relation.OID] = later
	k.mu.Unlock()
	return nil
}

// proof is a finished copy that waits for the stream to reach its exact-from.
type proof struct {
	a          *agent
	began      time.Time
	snapshotAt time.Time
	copied     *cdc.Copied
	sinks      []*sink
	k          *tracker
}

// copyTable reads a table under one snapshot; its chunks are in the store when it
// returns. A crash before the entry leaves chunks that the next copy meets again.
func (a *agent) copyTable(ctx context.Context, ct cdc.Table, o cdc.CopyOptions) (*proof, error) {
	p := &proof{a: a, began: a.now()}
	c := a.capture
	release := c.hold()
	defer release()
	o.NotBefore, o.Max = a.opening.XMax, a.o.Tuning.CopyMax
	o.Position = func(s record.Snapshot) record.LSN {
		c.mu.Lock()
		defer c.mu.Unlock()
		p.k = c.track(ct.Relation.OID, s)
		release()
		p.snapshotAt = a.now()
		return p.k.received
	}
	var err error
	p.copied, err = a.source.Copy(ctx, ct, o, func(int) cdc.LineSink {
		s := newSink(ctx, a, &ct.Relation)
		p.sinks = append(p.sinks, s)
		return s
	})
	switch {
	case err != nil:
	case !p.copied.Table.Relation.Equal(&ct.Relation):
		err = fmt.Errorf("its definition: %w", cdc.ErrChanged)
	case p.copied.Table.Member != ct.Member:
		err = fmt.Errorf("its place in the publication: %w", cdc.ErrChanged)
	}
	if err != nil {
		p.untrack()
		return nil, err
	}
	return p, nil
}

func (p *proof) untrack() {
	if p.k != nil {
		p.a.capture.mu.Lock()
		delete(p.a.capture.trackers, p.k)
		p.a.capture.mu.Unlock()
	}
}

// finish waits for the stream, appends the base and speaks the verdict. A crash
// before the entry leaves chunks only; after it the base counts, and the next
// agent goes on from its digest.
func (p *proof) finish(ctx context.Context) error {
	defer p.untrack()
	a, c := p.a, p.a.capture
	exact, err := a.source.Settle(ctx, p.copied.ExactFrom, p.snapshotAt, c.position)
	if err != nil {
		return err
	}
	base := &history.Base{
		Relation: p.copied.Table.Relation, Snapshot: p.copied.Snapshot,
		ExactFrom: exact, TypeFingerprint: p.copied.TypeFingerprint, Fingerprint: p.copied.Table.Fingerprint,
		Member: p.copied.Table.Member, Time: record.FromTime(a.now()),
	}
	var reach []chunkstore.Name
	var fresh int64
	for _, s := range p.sinks {
		base.Pieces = append(base.Pieces, s.pieces...)
		base.Digest.Add(s.digest)
		base.Bytes += s.bytes
		reach = append(reach, s.reach...)
		fresh += s.fresh
	}
	c.mu.Lock()
	base.RecordsFrom = min(p.k.from(), exact)
	predicted, known, broken := p.k.predicted, p.k.known, cmp.Or(p.k.broken, p.k.suspect)
	c.mu.Unlock()
	if broken != "" {
		return fmt.Errorf("%s: %w", broken, cdc.ErrChanged)
	}
	base.Proved = known && predicted == base.Digest
	// Before the base, which closes what is open and replaces what it disagrees with:
	// a note that came after it would open for ever, or be lost in a crash.
	if err := a.writeNotes(ctx); err != nil {
		return err
	}
	if err := a.mismatch(ctx, base, predicted, known); err != nil {
		return err
	}
	if err := a.writer.Base(ctx, base, reach); err != nil {
		return err
	}
	a.log.Info("table copied", "table", base.Relation.String(), "rows", base.Digest.Count, "bytes", base.Bytes,
		"new_bytes", fresh, "exact_from", base.ExactFrom.String(), "took", a.now().Sub(p.began).Round(time.Millisecond).String())
	a.progress()
	return a.verdict(ctx, base, p.k)
}

// mismatch notes that a copy is not what the records predict, unless the log says
// already that the table is not exact.
func (a *agent) mismatch(ctx context.Context, base *history.Base, predicted record.Digest, known bool) error {
	c := a.capture
	c.mu.Lock()
	t := c.tables[base.Relation.OID]
	if t == nil || t.open || !known || predicted == base.Digest {
		c.mu.Unlock()
		return nil
	}
	proven, name := t.exactFrom, t.name()
	c.mu.Unlock()
	a.log.Error("a copy does not have the digest that the records predict", "table", name,
		"predicted", predicted.String(), "copied", base.Digest.String())
	return a.writer.Note(ctx, history.Note{
		Kind: history.NoteMismatch, Table: base.Relation.OID, Name: name, From: proven, Until: base.ExactFrom,
		Reason: fmt.Sprintf("predicted %d rows, copied %d", predicted.Count, base.Digest.Count),
	})
}

// verdict makes the copy, which was held against the prediction, the table's base.
func (a *agent) verdict(ctx context.Context, base *history.Base, k *tracker) error {
	c, oid := a.capture, base.Relation.OID
	c.mu.Lock()
	t := c.tables[oid]
	if t == nil { // dropped meanwhile
		c.mu.Unlock()
		return nil
	}
	wasOpen, from, name := t.open, t.openFrom, t.name()
	t.digest = k.after.apply(base.Digest)
	t.known = !k.after.unsure && base.Relation.Identity == record.Full
	t.recordBytes, t.baseBytes = k.bytes, base.Bytes
	t.exactFrom, t.copied, t.wanted, t.open = base.ExactFrom, a.now(), "", false
	t.due, t.live = "", k.after.rows.apply(base.Digest.Count)
	suspect := k.suspect != ""
	if suspect { // between the base's entry and here: the entry has closed what was open
		c.suspectFrom(t, k.suspect, from)
	}
	c.mu.Unlock()
	if !wasOpen || suspect {
		return nil
	}
	n := history.Note{Kind: history.NoteComplete, Table: oid, Name: name, Until: base.ExactFrom}
	if base.Proved {
		n.Reason = "the copy met the digest: the records give the same rows again" // in between they need not
	}
	return a.writer.Note(ctx, n)
}

// sink cuts one worker's lines into chunks.
type sink struct {
	ctx     context.Context // of the copy: cdc.LineSink's methods take none
	a       *agent
	rel     *record.Relation
	cutter  *chunkstore.RowCutter
	hasher  *record.Hasher
	level   chunkstore.Compression
	buf     []byte
	key     []byte
	fields  [][]byte
	pieces  []history.Piece
	reach   []chunkstore.Name
	digest  record.Digest
	bytes   int64
	fresh   int64
	touched time.Time
}

func newSink(ctx context.Context, a *agent, rel *record.Relation) *sink {
	s := &sink{
		ctx: ctx, a: a, rel: rel, level: chunkstore.Fast,
		cutter: chunkstore.NewRowCutter(a.secrets.Chunk.Cut, rel.Schema, rel.Name, chunkTarget),
		hasher: record.NewHasher(a.secrets.Digest[:], rel.Schema, rel.Name),
	}
	if rel.Secret {
		s.level = chunkstore.Stored
	}
	return s
}

// Line takes one row.
func (s *sink) Line(line []byte) error {
	if s.a.o.plant.line != nil {
		s.a.o.plant.line(s.rel.String(), line)
	}
	s.digest.Add(s.hasher.Line(line))
	s.bytes += int64(len(line)) + 1
	if len(line) > record.MaxInline {
		if len(line) > cdc.HugeRow {
			s.a.source.FoundHugeRow(s.rel.OID)
		}
		if err := s.flush(); err != nil {
			return err
		}
		extents, names, err := putBytes(s.ctx, s.a.store, line, s.rel.Secret)
		if err != nil {
			return err
		}
		s.pieces = append(s.pieces, history.Piece{Long: extents})
		s.reach = append(s.reach, names...)
		return nil
	}
	s.buf = append(append(s.buf, line...), '\n')
	var err error
	if s.key, s.fields, err = record.AppendKey(s.key[:0], line, s.rel, s.fields); err != nil {
		return err
	}
	if s.cutter.Row(s.key, len(line)+1) {
		return s.flush()
	}
	return nil
}

// End stores what is left.
func (s *sink) End() error { return s.flush() }

func (s *sink) flush() error {
	s.cutter.Reset()
	if len(s.buf) == 0 {
		return nil
	}
	p, err := s.a.store.Put(s.ctx, chunkstore.KindRows, s.buf, s.level)
	if err != nil {
		return err
	}
	s.pieces = append(s.pieces, history.Piece{Rows: &p.Ref})
	s.reach = append(s.reach, p.Name)
	if p.New {
		s.fresh += p.Stored
	}
	s.buf = s.buf[:0]
	if now := s.a.now(); now.Sub(s.touched) > time.Second {
		s.touched = now
		s.a.progress()
	}
	return nil
}
