package history

import (
	"context"
	"math"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// visitor is what a walk calls. A nil record means: only the transactions.
type visitor struct {
	want   func(table uint32) bool
	tx     func(t *record.Transaction) error
	record func(t *record.Transaction, rel *record.Relation, r *record.Record) error
}

func (v *visitor) wants(table uint32) bool { return v.want == nil || v.want(table) }

// unit is a segment or a history, ready to be walked.
type unit struct {
	key       string
	relations []record.Relation
	txs       txTable
	records   streams
}

// txTable is a transaction table of which one piece is in memory.
type txTable struct {
	pieces []txPiece
	tail   []record.Transaction
}

// Records calls f for each record of the transactions that ended in (after,
// until], in commit order and within a transaction by ordinal; want (nil: all)
// chooses tables by OID. What f gets is valid during the call, the relation for
// longer. r.Relation is an index of the entry's and means nothing to f.
func (v *View) Records(ctx context.Context, after, until record.LSN, want func(table uint32) bool, f func(t *record.Transaction, rel *record.Relation, r *record.Record) error) error {
	return v.walk(ctx, after, until, visitor{want: want, record: f})
}

// Commits calls f for each transaction that ended in (after, until], in commit
// order. touched is nil unless withTouched, which reads the records.
func (v *View) Commits(ctx context.Context, after, until record.LSN, withTouched bool, f func(t record.Transaction, touched []Touch) error) error {
	if !withTouched {
		return v.walk(ctx, after, until, visitor{tx: func(t *record.Transaction) error { return f(*t, nil) }})
	}
	var open *record.Transaction
	var touched []Touch
	flush := func() error {
		if open == nil {
			return nil
		}
		t := *open
		open = nil
		return f(t, touched)
	}
	err := v.walk(ctx, after, until, visitor{
		tx: func(t *record.Transaction) error {
			err := flush()
			c := *t
			open, touched = &c, nil
			return err
		},
		record: func(_ *record.Transaction, rel *record.Relation, r *record.Record) error {
			touched = touch(touched, rel, r.Op)
			return nil
		},
	})
	if err != nil {
		return err
	}
	return flush()
}

// touch counts one record.
func touch(list []Touch, rel *record.Relation, op record.Op) []Touch {
	i := len(list) - 1
	for i >= 0 && list[i].Relation != rel && list[i].Relation.OID != rel.OID {
		i--
	}
	if i < 0 {
		list = append(list, Touch{Relation: rel})
		i = len(list) - 1
	}
	switch op {
	case record.Insert:
		list[i].Inserts++
	case record.Update:
		list[i].Updates++
	case record.Delete:
		list[i].Deletes++
	case record.Truncate:
		list[i].Truncates++
	}
	return list
}

// walk goes through histories and segments in commit order: histories where they
// are, segments after and between.
func (v *View) walk(ctx context.Context, after, until record.LSN, vis visitor) error {
	h, s := v.Histories, v.Segments
	for len(h) > 0 || len(s) > 0 {
		var start, end record.LSN
		var open func() (*unit, error)
		if len(s) == 0 || (len(h) > 0 && h[0].KeyEpoch < s[0].Epoch) {
			info := h[0]
			start, end, h = info.Start, info.End, h[1:]
			open = func() (*unit, error) { return v.historyUnit(ctx, info, after, &vis) }
		} else {
			info := s[0]
			start, end, s = info.Start, info.End, s[1:]
			if v.log.faults.forgetSegments && len(v.Histories) > 0 {
				continue
			}
			open = func() (*unit, error) { return v.segmentUnit(ctx, info, &vis) }
		}
		if end <= after {
			continue
		}
		if start >= until {
			return nil
		}
		u, err := open()
		if err != nil {
			return err
		}
		if err := u.walk(ctx, after, until, &vis); err != nil {
			return err
		}
	}
	return nil
}

// segmentUnit opens a segment for a walk.
func (v *View) segmentUnit(ctx context.Context, info SegmentInfo, vis *visitor) (*unit, error) {
	s, err := v.Segment(ctx, info)
	if err != nil {
		return nil, err
	}
	u := &unit{
		key: v.ID.key(info.Position), relations: s.Relations, txs: txTable{tail: s.Transactions},
		records: streams{g: chunkGetter{l: v.log}},
	}
	if vis.record != nil {
		for _, secret := range []bool{false, true} {
			u.records.add(segmentStream(s, secret, u.key))
		}
	}
	return u, nil
}

// segmentStream gives the secret or the other parts of a segment.
func segmentStream(s *record.Segment, secret bool, key string) *stream {
	out := &stream{relations: len(s.Relations), key: key}
	for _, p := range s.Parts {
		if p.Secret != secret {
			continue
		}
		q := piece{inline: p.Inline, records: p.Records}
		if e := p.Chunk; e != nil {
			q.chunk = &chunkstore.Ref{D: e.Chunk, Gen: e.Gen}
			q.off, q.length = e.Offset, e.Length
		}
		out.pieces = append(out.pieces, q)
	}
	return out
}

// history opens the body of a history.
func (v *View) history(ctx context.Context, info HistoryInfo) (*historyBody, error) {
	e, body, err := v.log.body(ctx, info.Position, KindHistory)
	if err != nil {
		return nil, err
	}
	h := new(historyBody)
	if err = parseOne(body, h); err == nil {
		err = h.validate(e.sum.History)
	}
	return h, v.log.parsed(info.Position, err)
}

// historyUnit opens a history for a walk that begins after an LSN.
func (v *View) historyUnit(ctx context.Context, info HistoryInfo, after record.LSN, vis *visitor) (*unit, error) {
	h, err := v.history(ctx, info)
	if err != nil {
		return nil, err
	}
	u := &unit{
		key: v.ID.key(info.Position), relations: h.Relations, txs: txTable{pieces: h.Transactions, tail: h.Tail},
		records: streams{g: chunkGetter{l: v.log}},
	}
	if vis.record == nil {
		return u, nil
	}
	var skip uint64 // transactions of whole pieces before
	for _, p := range h.Transactions {
		if p.Last > after {
			break
		}
		skip += p.Count
	}
	for i := range h.Tables {
		t := &h.Tables[i]
		if !vis.wants(t.OID) {
			continue
		}
		s := &stream{relations: len(h.Relations), key: u.key}
		for j := range t.Pieces {
			p := &t.Pieces[j]
			if p.Last < skip {
				continue
			}
			s.pieces = append(s.pieces, piece{
				chunk: &p.Chunk, off: p.Offset, length: p.Length, records: p.Records, first: p.First,
			})
		}
		u.records.add(s)
	}
	return u, nil
}

// walk visits the transactions that ended in (after, until] and their records.
func (u *unit) walk(ctx context.Context, after, until record.LSN, vis *visitor) error {
	index := uint64(0)
	for {
		least := index // the first transaction that is needed
		if vis.tx == nil {
			s, err := u.records.top(ctx, index)
			if err != nil {
				return err
			}
			if least = math.MaxUint64; s != nil {
				least = s.tx
			}
		}
		run, skipped, err := u.txs.next(ctx, &u.records.g, after, index, least)
		if err != nil {
			return err
		}
		index += skipped
		if run == nil {
			break
		}
		for i := range run {
			t := &run[i]
			if t.End > until {
				return nil
			}
			if t.End > after {
				if err := u.visit(ctx, index, t, vis); err != nil {
					return err
				}
			}
			index++
		}
	}
	s, err := u.records.top(ctx, index)
	if err == nil && s != nil {
		return damaged(u.key, "a record of transaction %d of %d", s.tx, index)
	}
	return err
}

// next gives the next run of the table, which begins with the index-th transaction;
// pieces that end at or before after, or lie whole before the least-th, are skipped and
// counted.
func (t *txTable) next(ctx context.Context, g *chunkGetter, after record.LSN, index, least uint64) (run []record.Transaction, skipped uint64, err error) {
	for len(t.pieces) > 0 {
		p := t.pieces[0]
		t.pieces = t.pieces[1:]
		if p.Last <= after || index+skipped+p.Count <= least {
			skipped += p.Count
			continue
		}
		b, err := g.l.chunk(ctx, chunkstore.KindRecords, p.Chunk)
		if err != nil {
			return nil, 0, err
		}
		if err = record.Unmarshal(b, &run); err == nil && uint64(len(run)) != p.Count {
			err = errorf("%d transactions instead of %d", len(run), p.Count)
		}
		if err != nil {
			return nil, 0, damaged(g.l.store.Name(p.Chunk).Key(), "%w", err)
		}
		return run, skipped, nil
	}
	run, t.tail = t.tail, nil
	return run, skipped, nil
}

// visit calls the visitor for one transaction and its records.
func (u *unit) visit(ctx context.Context, index uint64, t *record.Transaction, vis *visitor) error {
	if vis.tx != nil {
		if err := vis.tx(t); err != nil {
			return err
		}
	}
	if vis.record == nil {
		return nil
	}
	if err := u.records.skipTo(ctx, index); err != nil {
		return err
	}
	for {
		s, err := u.records.top(ctx, index)
		if err != nil || s == nil || s.tx != index {
			return err
		}
		rel := &u.relations[s.rec.Relation]
		if vis.wants(rel.OID) {
			if err := vis.record(t, rel, s.rec); err != nil {
				return err
			}
		}
		if err := u.records.advance(ctx); err != nil {
			return err
		}
	}
}
