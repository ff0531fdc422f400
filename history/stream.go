package history

import (
	"container/heap"
	"context"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// piece is a run of records that a stream can load.
type piece struct {
	chunk       *chunkstore.Ref // nil: inline
	inline      []byte
	off, length uint64
	records     uint64 // how many there must be
	first       uint64 // index of its first transaction; 0 when not known
}

// stream is one run of records in commit order: one table of a history, or the
// secret or other parts of a segment. It holds one piece at a time.
type stream struct {
	pieces    []piece // not loaded yet
	dec       *record.Decoder
	left      uint64 // records that dec must still give
	relations int
	key       string // of the chunk or entry, for errors

	tx  uint64         // of rec; of the next piece while rec is nil
	rec *record.Record // nil: the next piece is not loaded
}

// chunkGetter reads chunks for streams, keeping the last few: small tables share.
type chunkGetter struct {
	l     *Log
	cache []cachedChunk
}

type cachedChunk struct {
	ref  chunkstore.Ref
	data []byte
}

// cachedChunks is how many shared chunks are kept, about 1 MiB each.
const cachedChunks = 8

func (g *chunkGetter) get(ctx context.Context, p *piece) ([]byte, error) {
	for i := range g.cache {
		if g.cache[i].ref == *p.chunk {
			return slice(g.l.store.Name(*p.chunk).Key(), g.cache[i].data, p.off, p.length)
		}
	}
	b, err := g.l.chunk(ctx, chunkstore.KindRecords, *p.chunk)
	if err != nil {
		return nil, err
	}
	out, err := slice(g.l.store.Name(*p.chunk).Key(), b, p.off, p.length)
	if err == nil && len(out) < len(b)/2 {
		if len(g.cache) == cachedChunks {
			g.cache = g.cache[1:]
		}
		g.cache = append(g.cache, cachedChunk{*p.chunk, b})
	}
	return out, err
}

// next moves to the next record; ok is false at the end. A piece of a later
// transaction is not loaded yet: rec is nil then, and tx that transaction.
func (s *stream) next(ctx context.Context, g *chunkGetter) (ok bool, err error) {
	for {
		if s.dec != nil {
			tx, r, err := s.dec.Next()
			if err != nil {
				return false, damaged(s.key, "%w", err)
			}
			if r != nil {
				if tx < s.tx || s.left == 0 {
					return false, damaged(s.key, "record of transaction %d after %d, %d more expected", tx, s.tx, s.left)
				}
				s.left--
				s.tx, s.rec = tx, r
				return true, nil
			}
			if s.left != 0 {
				return false, damaged(s.key, "%d records are missing", s.left)
			}
			s.dec, s.rec = nil, nil
			if len(s.pieces) > 0 && s.pieces[0].first > s.tx {
				s.tx = s.pieces[0].first
				return true, nil
			}
		}
		if len(s.pieces) == 0 {
			return false, nil
		}
		p := &s.pieces[0]
		b := p.inline
		if p.chunk != nil {
			s.key = g.l.store.Name(*p.chunk).Key()
			if b, err = g.get(ctx, p); err != nil {
				return false, err
			}
		}
		s.dec, s.left = record.NewDecoder(b, s.relations), p.records
		s.pieces = s.pieces[1:]
	}
}

// streams is a heap by transaction, then ordinal.
type streams struct {
	list []*stream
	g    chunkGetter
}

func (h *streams) Len() int      { return len(h.list) }
func (h *streams) Swap(i, j int) { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *streams) Push(x any)    { h.list = append(h.list, x.(*stream)) }

// Pop implements heap.Interface.
func (h *streams) Pop() any {
	s := h.list[len(h.list)-1]
	h.list = h.list[:len(h.list)-1]
	return s
}

// Less implements heap.Interface. A stream that is not loaded comes first, so that
// it is loaded before its transaction is decided.
func (h *streams) Less(i, j int) bool {
	a, b := h.list[i], h.list[j]
	if a.tx != b.tx {
		return a.tx < b.tx
	}
	if a.rec == nil || b.rec == nil {
		return a.rec == nil && b.rec != nil
	}
	return a.rec.Ordinal < b.rec.Ordinal
}

// add puts a stream into the heap, at its first piece.
func (h *streams) add(s *stream) {
	if len(s.pieces) > 0 {
		s.tx = s.pieces[0].first
		heap.Push(h, s)
	}
}

// top gives the stream with the least record; nil at the end. It is loaded unless
// its transaction comes after limit.
func (h *streams) top(ctx context.Context, limit uint64) (*stream, error) {
	for len(h.list) > 0 {
		s := h.list[0]
		if s.rec != nil || s.tx > limit {
			return s, nil
		}
		if err := h.advance(ctx); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// advance moves the top stream on.
func (h *streams) advance(ctx context.Context) error {
	s := h.list[0]
	ok, err := s.next(ctx, &h.g)
	if err != nil {
		return err
	}
	if !ok {
		heap.Pop(h)
		return nil
	}
	heap.Fix(h, 0)
	return nil
}

// skipTo drops all records of transactions before tx.
func (h *streams) skipTo(ctx context.Context, tx uint64) error {
	for {
		s, err := h.top(ctx, tx)
		if err != nil || s == nil || s.tx >= tx {
			return err
		}
		if err := h.advance(ctx); err != nil {
			return err
		}
	}
}
