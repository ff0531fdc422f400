package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// renewTries bounds how often one batch is renewed: each time a prune must have
// condemned names that were new a moment ago.
const renewTries = 8

// segment appends the batch's segment. Names in it that a prune has condemned
// meanwhile are replaced at once (protocol §7): the chunks are opened and put again
// under the next generation. A crash in between leaves orphans; PostgreSQL sends
// the transactions again.
func (f *flusher) segment(ctx context.Context, b *batch, seqs []record.Sequence) error {
	for try := 0; ; try++ {
		seg := b.segment(f.durable)
		seg.Sequences = seqs
		err := f.a.writer.Segment(ctx, seg, history.SegmentMeta{Reach: b.reach, SchemaCertain: f.a.schemaCertain()})
		if !condemned(err) || try == renewTries {
			return err
		}
		f.a.log.Info("a prune condemned chunks of what is about to be stored: they are put again", "err", err.Error())
		if err := f.a.renew(ctx, b); err != nil {
			return fmt.Errorf("renew condemned chunks: %w", err)
		}
	}
}

// condemned reports that an entry was refused because of names that are condemned.
func condemned(err error) bool {
	var c *history.ErrCondemned
	return errors.As(err, &c)
}

// renew puts every condemned chunk of a batch again.
func (a *agent) renew(ctx context.Context, b *batch) error {
	r := renewal{store: a.store, relations: len(b.rels)}
	var err error
	if b.buf, _, err = r.run(ctx, b.buf, false); err != nil {
		return err
	}
	if b.secret, _, err = r.run(ctx, b.secret, true); err != nil {
		return err
	}
	for i := range b.parts {
		if err := r.part(ctx, &b.parts[i]); err != nil {
			return err
		}
	}
	b.reach = slices.DeleteFunc(b.reach, func(n chunkstore.Name) bool {
		return a.store.Condemned(n) || slices.Contains(r.gone, n)
	})
	b.reach = append(b.reach, r.fresh...)
	return nil
}

// renewal is one pass over a batch.
type renewal struct {
	store     *chunkstore.Store
	relations int
	fresh     []chunkstore.Name // put anew
	gone      []chunkstore.Name // replaced, though not condemned: what they point to was
}

// part renews the chunk of a part and the long lines of its records.
func (r *renewal) part(ctx context.Context, p *record.Part) error {
	old := chunkstore.Ref{D: p.Chunk.Chunk, Gen: p.Chunk.Gen, Size: p.Chunk.Length}
	plain, err := r.store.Get(ctx, chunkstore.KindRecords, old)
	if err != nil {
		return err
	}
	plain, changed, err := r.run(ctx, plain, p.Secret)
	if err != nil || !changed && !r.store.Condemned(r.store.Name(old)) {
		return err
	}
	ref, err := r.put(ctx, chunkstore.KindRecords, plain, p.Secret)
	if err != nil {
		return err
	}
	r.gone = append(r.gone, r.store.Name(old))
	p.Chunk = &record.Extent{Chunk: ref.D, Gen: ref.Gen, Length: ref.Size}
	return nil
}

// run gives a run of records whose long lines point to nothing condemned.
func (r *renewal) run(ctx context.Context, b []byte, secret bool) (out []byte, changed bool, err error) {
	if len(b) == 0 {
		return b, false, nil
	}
	d := record.NewDecoder(b, r.relations)
	last, any := uint64(0), false
	for {
		tx, rec, err := d.Next()
		if err != nil {
			return nil, false, err
		}
		if rec == nil {
			break
		}
		if !any || tx != last {
			out, last, any = record.AppendTransaction(out, tx), tx, true
		}
		for _, l := range []*record.Line{&rec.Old, &rec.New} {
			c, err := r.line(ctx, l, secret)
			if err != nil {
				return nil, false, err
			}
			changed = changed || c
		}
		out = record.AppendRecord(out, rec)
	}
	if !changed {
		return b, false, nil
	}
	return out, true, nil
}

// line puts the condemned pieces of a long line again.
func (r *renewal) line(ctx context.Context, l *record.Line, secret bool) (changed bool, err error) {
	for i := range l.Extents {
		e := &l.Extents[i]
		old := chunkstore.Ref{D: e.Chunk, Gen: e.Gen}
		if !r.store.Condemned(r.store.Name(old)) {
			continue
		}
		plain, err := r.store.Get(ctx, chunkstore.KindBytes, old)
		if err != nil {
			return false, err
		}
		ref, err := r.put(ctx, chunkstore.KindBytes, plain, secret)
		if err != nil {
			return false, err
		}
		e.Gen, changed = ref.Gen, true
	}
	return changed, nil
}

func (r *renewal) put(ctx context.Context, kind chunkstore.Kind, plain []byte, secret bool) (chunkstore.Ref, error) {
	level := chunkstore.Fast
	if secret {
		level = chunkstore.Stored
	}
	p, err := r.store.Put(ctx, kind, plain, level)
	if err == nil {
		r.fresh = append(r.fresh, p.Name)
	}
	return p.Ref, err
}
