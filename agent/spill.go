package agent

import (
	"context"
	"errors"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

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
	c.progress()
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
		c.progress()
	})
}
