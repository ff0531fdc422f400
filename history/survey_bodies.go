package history

import (
	"context"
	"crypto/sha256"
	"fmt"

	"lifeboat.im/lifeboat/record"
)

// compareBodies reads a history and the segments that it replaces, for who holds the
// keys, and wants the same records in the same order.
func (s *surveyed) compareBodies(ctx context.Context, h HistoryInfo, list []Position) error {
	whole := &View{ID: s.id, log: s.log, State: State{Histories: []HistoryInfo{h}}}
	parts := &View{ID: s.id, log: s.log}
	for _, at := range list {
		parts.Segments = append(parts.Segments, s.entries[at].sum.Segment.info(at, s.entries[at].size))
	}
	a, err := digestOf(ctx, whole, h.End)
	if err != nil {
		return err
	}
	b, err := digestOf(ctx, parts, h.End)
	if err != nil {
		return err
	}
	if a != b {
		return damaged(s.id.key(h.Position), "its records are not those of the segments of epoch %d", h.KeyEpoch)
	}
	return nil
}

// digestOf is a hash over all transactions and records of a picture, the chunks of long
// lines by what they hold and not by their generation.
func digestOf(ctx context.Context, v *View, until record.LSN) (out [sha256.Size]byte, err error) {
	sum := sha256.New()
	write := func(x any) error {
		b, err := record.Marshal(x)
		if err == nil {
			_, err = fmt.Fprintf(sum, "%d ", len(b))
		}
		sum.Write(b)
		return err
	}
	err = v.walk(ctx, 0, until, visitor{
		tx: func(t *record.Transaction) error { return write(t) },
		record: func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			c := *r
			c.Relation = 0
			c.Old, c.New = plainGens(c.Old), plainGens(c.New)
			if err := write(rel); err != nil {
				return err
			}
			_, err := sum.Write(record.AppendRecord(nil, &c))
			return err
		},
	})
	copy(out[:], sum.Sum(nil))
	return out, err
}

func plainGens(l record.Line) record.Line {
	if len(l.Extents) == 0 {
		return l
	}
	c := record.Line{Extents: append([]record.Extent(nil), l.Extents...)}
	for i := range c.Extents {
		c.Extents[i].Gen = [16]byte{}
	}
	return c
}
