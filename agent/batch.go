package agent

import (
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// batch is a segment that is being filled: at its front at most one large
// transaction, whose records lie in chunks, then small ones, inline.
type batch struct {
	rels    []record.Relation
	index   map[*record.Relation]uint32
	txs     []record.Transaction
	parts   []record.Part // the chunks of the large transaction at the front
	reach   []chunkstore.Name
	changes []record.Change
	// buf and secret are the inline records; secret relations apart (design §4).
	buf, secret             []byte
	bufRecords, secretCount uint64
	end                     record.LSN
	first                   time.Time
	// states are the tables' digests at end, set when the batch is closed.
	states []history.TableState
}

func newBatch() *batch { return &batch{index: map[*record.Relation]uint32{}} }

// inherit makes an empty batch in which every relation keeps its number, so that
// records of the open transaction stay valid.
func (b *batch) inherit() *batch {
	n := newBatch()
	n.rels = append(n.rels, b.rels...)
	for r, i := range b.index {
		n.index[r] = i
	}
	for i := range n.rels {
		n.changes = append(n.changes, record.Change{Relation: uint32(i)})
	}
	return n
}

func (b *batch) empty() bool { return len(b.txs) == 0 }

func (b *batch) size() int { return len(b.buf) + len(b.secret) }

// relation gives the number of a relation within the batch.
func (b *batch) relation(r *record.Relation) uint32 {
	if i, ok := b.index[r]; ok {
		return i
	}
	i := uint32(len(b.rels))
	b.rels = append(b.rels, *r)
	b.index[r] = i
	b.changes = append(b.changes, record.Change{Relation: i})
	return i
}

// segment gives the finished segment, for commits after start.
func (b *batch) segment(start record.LSN) *record.Segment {
	s := &record.Segment{Start: start, End: b.end, Transactions: b.txs, Parts: b.parts}
	if b.bufRecords > 0 {
		s.Parts = append(s.Parts, record.Part{Inline: b.buf, Records: b.bufRecords})
	}
	if b.secretCount > 0 {
		s.Parts = append(s.Parts, record.Part{Inline: b.secret, Records: b.secretCount, Secret: true})
	}
	s.Relations = b.rels
	for i := range b.changes {
		c := &b.changes[i]
		if c.Bytes > 0 || c.Reset || !c.Digest.IsZero() {
			s.Changes = append(s.Changes, *c)
		}
	}
	return s
}
