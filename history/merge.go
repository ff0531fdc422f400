package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Sizes of a merge: a table's buffer becomes a chunk at pieceTarget; when all
// buffers together pass mergeBudget, all are written.
const (
	pieceTarget = 1 << 20
	mergeBudget = 24 << 20
	shareTarget = 256 << 10 // of tables that share a chunk, so that reading one is cheap
	txPieceSize = 1 << 12   // transactions
	txTail      = 512       // transactions that a history's body holds itself
	maxBehind   = 8         // epochs since the last checkpoint, so that Load stays short
)

// Unmerged lists the ended epochs for which Merge has something to do, ascending:
// segments without a history, or a key that is still held here. Of an epoch whose
// key is not held, segments stay as they are, and Merge says ErrNoKey.
func (w *Writer) Unmerged() []uint64 {
	v := w.View()
	segments := map[uint64]bool{}
	for _, g := range v.Segments {
		segments[g.Epoch] = true
	}
	var out []uint64
	for _, e := range v.Epochs {
		if e.Epoch >= v.Head.Epoch {
			continue
		}
		if segments[e.Epoch] {
			out = append(out, e.Epoch)
			continue
		}
		if _, err := w.keys.Get(e.Epoch); err == nil || !errors.Is(err, ErrNoKey) {
			out = append(out, e.Epoch)
		}
	}
	return out
}

// Merge turns the segments of an ended epoch into one history under that epoch's
// key, adds a checkpoint, then removes the key from this host. An epoch without
// segments loses its key only. A crash anywhere in it is mended by calling it
// again: Unmerged names the epoch until it is done. ErrNoKey when neither this host
// nor the operator's identity holds the key: the segments stay, readers do not
// mind. Only one Merge may run at a time; other calls of the writer go on beside.
func (w *Writer) Merge(ctx context.Context, epoch uint64) error {
	v := w.View()
	if epoch >= v.Head.Epoch {
		return fmt.Errorf("merge epoch %d of %s, which is open: %w", epoch, v.ID, ErrOrder)
	}
	if w.log.faults.keyBeforeHistory {
		if err := w.keys.Remove(epoch); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(v.Segments, func(g SegmentInfo) bool { return g.Epoch == epoch }) {
		err := w.mergeSegments(ctx, v, epoch)
		for range maxTries {
			var c *ErrCondemned
			if !errors.As(err, &c) {
				break
			}
			err = w.mergeSegments(ctx, v, epoch) // its chunks get the next generation
		}
		if err != nil {
			return fmt.Errorf("merge epoch %d of %s: %w", epoch, v.ID, err)
		}
		v = w.View()
	}
	// A crash here leaves history and segments: readers take the history, and the
	// next Merge goes on from this line.
	i := slices.IndexFunc(v.Histories, func(h HistoryInfo) bool { return h.KeyEpoch == epoch })
	if (i >= 0 && !v.Histories[i].Before(v.Checkpoint.At)) || v.Head.Epoch-v.Checkpoint.At.Epoch > maxBehind {
		if err := w.Checkpoint(ctx); err != nil {
			return fmt.Errorf("merge epoch %d of %s: %w", epoch, v.ID, err)
		}
	}
	// A crash here leaves a key that opens what is merged already; Unmerged names it.
	return w.keys.Remove(epoch)
}

func (w *Writer) mergeSegments(ctx context.Context, v *View, epoch uint64) error {
	key, err := w.log.epochKey(ctx, w.keys, epoch)
	if errors.Is(err, ErrNoKey) {
		// A key that is here is that of an opener that lost the race: it opens nothing.
		return errors.Join(err, w.keys.Remove(epoch))
	}
	if err != nil {
		return err
	}
	m := &merger{log: w.log, tables: map[tableKey]*tableBuffer{}, relations: map[uint32][]uint32{}}
	var list []SegmentInfo
	for _, g := range v.Segments {
		if g.Epoch == epoch {
			list = append(list, g)
		}
	}
	for _, g := range list {
		s, err := v.Segment(ctx, g)
		if err != nil {
			return err
		}
		if w.log.faults.dropLastSegment && g == list[len(list)-1] {
			s = &record.Segment{Start: s.Start, End: s.End}
			g.Records = 0
		}
		if err := m.segment(ctx, g, s); err != nil {
			return fmt.Errorf("segment %s: %w", g.Position, err)
		}
	}
	d, err := m.finish(ctx, epoch)
	if err != nil {
		return err
	}
	d.bodyKey = &key
	reach := m.reach()
	if err := w.log.reach(ctx, &d.sum, reach); err != nil {
		return err
	}
	return w.add(ctx, func(*View) (draft, error) { return d, w.log.checkReach(reach) })
}

// tableKey names one stream of records; records of secret relations stay apart.
type tableKey struct {
	oid    uint32
	secret bool
}

// tableBuffer collects the records of one table until they fill a chunk.
type tableBuffer struct {
	pieces  []historyPiece
	buf     []byte
	records uint64
	first   uint64
	last    uint64
}

// merger streams segments into per-table chunks. Memory: the buffers, mergeBudget
// at most, and one segment.
type merger struct {
	log       *Log
	body      historyBody
	sum       historySummary
	tables    map[tableKey]*tableBuffer
	buffered  int
	relations map[uint32][]uint32 // by OID: indexes into body.Relations
	names     map[chunkstore.Name]bool
}

// segment adds one segment.
func (m *merger) segment(ctx context.Context, info SegmentInfo, s *record.Segment) error {
	base := m.sum.Transactions
	if m.sum.Segments == 0 {
		m.body.Start = s.Start
	}
	m.body.End = s.End
	m.body.Segments = append(m.body.Segments, mergedSegment{
		Seq: info.Seq, Start: s.Start, End: s.End, Transactions: uint64(len(s.Transactions)), Sequences: uint64(len(s.Sequences)),
	})
	m.body.Sequences = append(m.body.Sequences, s.Sequences...)
	m.sum.Segments++
	m.sum.Records += info.Records
	for i := range s.Transactions {
		if err := m.transaction(ctx, &s.Transactions[i]); err != nil {
			return err
		}
	}
	relation := make([]uint32, len(s.Relations))
	for i := range s.Relations {
		relation[i] = m.relation(&s.Relations[i])
	}
	g := chunkGetter{l: m.log}
	for _, secret := range []bool{false, true} {
		st := segmentStream(s, secret, m.log.id.key(info.Position))
		for {
			ok, err := st.next(ctx, &g)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			rel := &s.Relations[st.rec.Relation]
			if err := m.record(ctx, base+st.tx, relation[st.rec.Relation], rel, st.rec); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *merger) transaction(ctx context.Context, t *record.Transaction) error {
	if m.sum.Transactions == 0 || t.Time < m.sum.First {
		m.sum.First = t.Time
	}
	if m.sum.Transactions == 0 || t.Time > m.sum.Last {
		m.sum.Last = t.Time
	}
	m.sum.Transactions++
	m.body.Tail = append(m.body.Tail, *t)
	if len(m.body.Tail) < txPieceSize {
		return nil
	}
	return m.transactions(ctx)
}

// transactions makes a chunk of the end of the transaction table.
func (m *merger) transactions(ctx context.Context) error {
	b, err := record.Marshal(m.body.Tail)
	if err != nil {
		return err
	}
	p, err := m.put(ctx, b, chunkstore.Fast)
	if err != nil {
		return err
	}
	n := len(m.body.Tail)
	m.body.Transactions = append(m.body.Transactions, txPiece{
		Chunk: p, Count: uint64(n), First: m.body.Tail[0].End, Last: m.body.Tail[n-1].End,
	})
	m.body.Tail = m.body.Tail[:0]
	return nil
}

// relation gives the index of a relation among all versions.
func (m *merger) relation(r *record.Relation) uint32 {
	for _, i := range m.relations[r.OID] {
		if m.body.Relations[i].Equal(r) {
			return i
		}
	}
	i := uint32(len(m.body.Relations))
	m.body.Relations = append(m.body.Relations, *r)
	m.relations[r.OID] = append(m.relations[r.OID], i)
	return i
}

// record adds one record to its table.
func (m *merger) record(ctx context.Context, tx uint64, relation uint32, rel *record.Relation, r *record.Record) error {
	k := tableKey{rel.OID, rel.Secret}
	t := m.tables[k]
	if t == nil {
		t = &tableBuffer{}
		m.tables[k] = t
	}
	before := len(t.buf)
	if t.records == 0 || t.last != tx {
		t.buf = record.AppendTransaction(t.buf, tx)
	}
	if t.records == 0 {
		t.first = tx
	}
	c := *r
	c.Relation = relation
	for _, l := range []*record.Line{&c.Old, &c.New} {
		if err := m.extents(ctx, l); err != nil {
			return err
		}
	}
	t.buf = record.AppendRecord(t.buf, &c)
	t.last = tx
	t.records++
	m.buffered += len(t.buf) - before
	switch {
	case len(t.buf) >= pieceTarget:
		return m.write(ctx, k.secret, []*tableBuffer{t})
	case m.buffered > mergeBudget:
		return m.writeAll(ctx)
	}
	return nil
}

// extents names the chunks of a long line. One that was condemned since is opened
// and put again, under the next generation (H8).
func (m *merger) extents(ctx context.Context, l *record.Line) error {
	for i := range l.Extents {
		e := &l.Extents[i]
		old := chunkstore.Ref{D: e.Chunk, Gen: e.Gen}
		if m.log.store.Condemned(m.log.store.Name(old)) {
			b, err := m.log.chunk(ctx, chunkstore.KindBytes, old)
			if err != nil {
				return err
			}
			p, err := m.log.store.Put(ctx, chunkstore.KindBytes, b, chunkstore.Stored)
			if err != nil {
				return err
			}
			e.Gen = p.Ref.Gen
		}
		m.reaches(m.log.store.Name(chunkstore.Ref{D: e.Chunk, Gen: e.Gen}))
	}
	return nil
}

func (m *merger) reaches(n chunkstore.Name) {
	if m.names == nil {
		m.names = map[chunkstore.Name]bool{}
	}
	m.names[n] = true
}

func (m *merger) put(ctx context.Context, b []byte, c chunkstore.Compression) (chunkstore.Ref, error) {
	p, err := m.log.store.Put(ctx, chunkstore.KindRecords, b, c)
	if err != nil {
		return p.Ref, err
	}
	m.sum.Bytes += int64(len(b))
	m.reaches(p.Name)
	return p.Ref, nil
}

// write makes one chunk of the buffers of these tables.
func (m *merger) write(ctx context.Context, secret bool, list []*tableBuffer) error {
	if len(list) == 0 {
		return nil
	}
	b := list[0].buf
	if len(list) > 1 {
		b = nil
		for _, t := range list {
			b = append(b, t.buf...)
		}
	}
	ref, err := m.put(ctx, b, bodyCompression(secret))
	if err != nil {
		return err
	}
	off := uint64(0)
	for _, t := range list {
		n := uint64(len(t.buf))
		t.pieces = append(t.pieces, historyPiece{
			Chunk: ref, Offset: off, Length: n, Records: t.records, First: t.first, Last: t.last,
		})
		off += n
		m.buffered -= len(t.buf)
		t.buf, t.records = t.buf[:0], 0
	}
	return nil
}

// order gives the tables in the order in which they are written.
func (m *merger) order() []tableKey {
	return slices.SortedFunc(maps.Keys(m.tables), func(a, b tableKey) int {
		if a.oid != b.oid || a.secret == b.secret {
			return cmp.Compare(a.oid, b.oid)
		}
		if a.secret {
			return 1
		}
		return -1
	})
}

// writeAll writes every buffer: small tables share a chunk, each secret one has its
// own. Buffers are let go, so that many small tables do not keep their memory.
func (m *merger) writeAll(ctx context.Context) error {
	var shared []*tableBuffer
	size := 0
	for _, k := range m.order() {
		t := m.tables[k]
		if t.records == 0 {
			continue
		}
		if k.secret {
			if err := m.write(ctx, true, []*tableBuffer{t}); err != nil {
				return err
			}
			continue
		}
		if size+len(t.buf) > shareTarget {
			if err := m.write(ctx, false, shared); err != nil {
				return err
			}
			shared, size = nil, 0
		}
		shared, size = append(shared, t), size+len(t.buf)
	}
	if err := m.write(ctx, false, shared); err != nil {
		return err
	}
	for _, t := range m.tables {
		t.buf = nil
	}
	return nil
}

// finish writes what is left and gives the entry.
func (m *merger) finish(ctx context.Context, epoch uint64) (draft, error) {
	if err := m.writeAll(ctx); err != nil {
		return draft{}, err
	}
	if len(m.body.Tail) > txTail {
		if err := m.transactions(ctx); err != nil {
			return draft{}, err
		}
	}
	for _, k := range m.order() {
		m.body.Tables = append(m.body.Tables, historyTable{OID: k.oid, Secret: k.secret, Pieces: m.tables[k].pieces})
	}
	m.sum.KeyEpoch, m.sum.Start, m.sum.End = epoch, m.body.Start, m.body.End
	if err := m.body.validate(&m.sum); err != nil {
		return draft{}, err
	}
	plain, err := record.Marshal(&m.body)
	if err != nil {
		return draft{}, err
	}
	m.sum.Bytes += int64(len(plain))
	sum := m.sum
	return draft{sum: Summary{History: &sum}, body: appendPart(nil, plain, chunkstore.Fast)}, nil
}

// reach names every chunk of the history, and those of the long lines in it.
func (m *merger) reach() []chunkstore.Name {
	return slices.SortedFunc(maps.Keys(m.names), func(a, b chunkstore.Name) int { return slices.Compare(a[:], b[:]) })
}
