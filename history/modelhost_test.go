package history

import (
	"context"
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// host is one machine: its key directory outlives its process.
type host struct {
	w    *world
	name string
	keys map[uint64]chunkstore.Secret
	// The process: dead until it is started again.
	dead   bool
	steps  int
	at     int // the step at which kind happens
	kind   int
	repo   *Repository
	log    *Log
	view   *View // loaded, for a Begin that did not happen yet
	writer *Writer
}

// The ways in which one step goes wrong.
const (
	failBefore = iota
	failAfter
	loseReply
	crashBefore
	crashAfter
	outage
	letOther
	kinds
)

// step does one call of the store or the key directory.
func (h *host) step(f func() error, create bool) error {
	if h.dead {
		return errDead
	}
	h.steps++
	if h.steps < h.at || (h.steps > h.at && h.kind != outage) || h.at == 0 {
		return f()
	}
	switch h.kind {
	case failBefore:
		return errFault
	case failAfter:
		_ = f()
		return errFault
	case loseReply:
		err := f()
		if err == nil && create {
			return chunkstore.ErrExists
		}
		return err
	case crashBefore:
		h.dead = true
		return errDead
	case crashAfter:
		_ = f()
		h.dead = true
		return errDead
	case outage:
		if h.steps == h.at && h.w.rng.IntN(2) == 0 {
			_ = f()
		}
		return errFault
	}
	if err := h.w.other(h); err != nil {
		return err
	}
	return f()
}

func (h *host) Create(ctx context.Context, key string, data []byte) error {
	return h.step(func() error { return h.w.mem.Create(ctx, key, data) }, true)
}

func (h *host) Get(ctx context.Context, key string) (b []byte, err error) {
	err = h.step(func() (err error) { b, err = h.w.mem.Get(ctx, key); return err }, false)
	return b, err
}

func (h *host) Stat(ctx context.Context, key string) (i chunkstore.Info, err error) {
	err = h.step(func() (err error) { i, err = h.w.mem.Stat(ctx, key); return err }, false)
	return i, err
}

func (h *host) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	return h.step(func() error { return h.w.mem.List(ctx, prefix, f) }, false)
}

// hostKeys are the host's epoch keys, each call a step.
type hostKeys struct{ *host }

func (k hostKeys) Put(epoch uint64, s chunkstore.Secret) error {
	return k.step(func() error { k.keys[epoch] = s; return nil }, false)
}

func (k hostKeys) Get(epoch uint64) (s chunkstore.Secret, err error) {
	err = k.step(func() error {
		var ok bool
		if s, ok = k.keys[epoch]; !ok {
			return ErrNoKey
		}
		return nil
	}, false)
	return s, err
}

func (k hostKeys) Remove(epoch uint64) error {
	return k.step(func() error { delete(k.keys, epoch); return nil }, false)
}

// start brings up a host's process.
func (h *host) start(ctx context.Context) error {
	h.dead, h.at, h.steps = false, 0, 0
	h.writer, h.view = nil, nil
	var err error
	if h.repo, err = Open(ctx, h); err != nil {
		return err
	}
	h.log = h.w.logOf(h.repo, h.w.all.Agent(), hostKeys{h})
	return nil
}

// arm decides whether and how something goes wrong in the next operation.
func (h *host) arm() {
	h.steps, h.at = 0, 0
	if h.w.rng.IntN(3) == 0 {
		h.at, h.kind = 1+h.w.rng.IntN(9), h.w.rng.IntN(kinds)
		if h.kind == letOther && h.w.depth > 0 {
			h.at = 0
		}
	}
}

// act does one random thing on a host. Its error is of the model; what the code
// under test returns is judged here.
func (h *host) act(ctx context.Context) error {
	if h.dead {
		return h.start(ctx)
	}
	h.arm()
	var what string
	var err error
	switch {
	case h.writer == nil && h.view == nil:
		what = "load"
		h.view, err = h.log.Load(ctx)
		if errors.Is(err, ErrNoLineage) {
			what = "begin the lineage"
			err = h.begin(ctx, nil)
		}
	case h.writer == nil:
		what = "begin"
		err = h.begin(ctx, h.view)
	default:
		what, err = h.write(ctx)
	}
	h.w.say("%s %s: %v", h.name, what, err)
	return h.judge(ctx, err)
}

// judge says whether an error may be, and what it does to the process.
func (h *host) judge(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, errModel) {
		return err
	}
	if errors.Is(err, ErrFenced) {
		epoch, ended := uint64(0), false
		if h.writer != nil {
			epoch = h.writer.View().Head.Epoch
		} else if h.view != nil {
			epoch = h.view.Head.Epoch
		}
		v, lerr := h.w.logOf(h.w.repo, h.w.all, nil).Load(ctx)
		if lerr != nil {
			return broken("load after fencing: %w", lerr)
		}
		ended = v.Ended && v.Head.Epoch == epoch
		first := h.view == nil && h.writer == nil // begin of the lineage
		if !ended && v.Head.Epoch <= epoch && !first {
			return broken("%s was fenced in epoch %d by nobody: %w", h.name, epoch, err)
		}
		h.dead = true
		return nil
	}
	if h.writer != nil && !h.dead {
		// The writer is in doubt and stays so.
		inDoubt := h.writer.dead != nil
		if e := h.writer.Note(ctx, Note{Kind: NoteComplete, Table: 1, Until: 1}); inDoubt && e == nil {
			return broken("%s writes on after %w", h.name, err)
		}
	}
	if h.dead || errors.Is(err, errFault) || errors.Is(err, errDead) {
		if h.writer != nil {
			h.dead = true
		}
		return nil
	}
	return broken("%s: %w", h.name, err)
}

func (h *host) begin(ctx context.Context, v *View) error {
	o := Opening{Durable: walStart, Host: h.name, Slot: "s"}
	if v != nil {
		o.Durable = v.Durable
	}
	w, err := h.log.Begin(ctx, v, hostKeys{h}, o)
	if err != nil {
		return err
	}
	h.writer, h.view = w, nil
	return h.ack()
}

// ack notes that the host was told that its head is durable.
func (h *host) ack() error {
	v := h.writer.View()
	w := h.w
	if who := w.ackedBy[v.Head]; who != "" && who != h.name {
		return broken("entry %s was acknowledged to %s and to %s", v.Head, who, h.name)
	}
	w.ackedBy[v.Head] = h.name
	w.acked = max(w.acked, v.Durable)
	return nil
}

// write does one random call of the writer.
func (h *host) write(ctx context.Context) (what string, err error) {
	switch n := h.w.rng.IntN(20); {
	case n < 8:
		return "segment", h.segment(ctx)
	case n < 10:
		return "base", h.base(ctx)
	case n < 12:
		return "rotate", h.acked(h.writer.Rotate(ctx, Opening{Host: h.name, Slot: "s"}))
	case n < 15:
		list := h.writer.Unmerged()
		if len(list) == 0 {
			return "merge nothing", nil
		}
		epoch := list[h.w.rng.IntN(len(list))]
		err := h.writer.Merge(ctx, epoch)
		if errors.Is(err, ErrNoKey) {
			return "merge without the key", h.lostKey(epoch)
		}
		if _, held := h.keys[epoch]; held && err == nil {
			return "merge", broken("the key of epoch %d is held after its merge", epoch)
		}
		return fmt.Sprint("merge ", epoch), err
	case n < 16:
		return "checkpoint", h.acked(h.writer.Checkpoint(ctx))
	case n < 17:
		_, err := h.writer.Probe(ctx)
		return "probe", err
	case n < 18:
		d := h.writer.View().Durable
		d += record.LSN(h.w.rng.IntN(int(99 - (d-walStart)%100)))
		return "position", h.acked(h.writer.Note(ctx, Note{Kind: NotePosition, Durable: d}))
	default:
		return "incomplete", h.acked(h.writer.Note(ctx, Note{Kind: NoteIncomplete, Table: 100, From: h.writer.View().Durable}))
	}
}

func (h *host) acked(err error) error {
	if err != nil {
		return err
	}
	return h.ack()
}

// lostKey says whether a host may be without the key of an epoch.
func (h *host) lostKey(epoch uint64) error {
	for _, e := range h.writer.View().Epochs {
		if e.Epoch == epoch && e.Host == h.name {
			return broken("%s opened epoch %d and has lost its key", h.name, epoch)
		}
	}
	return nil
}

// segment writes the next one to three transactions of the source.
func (h *host) segment(ctx context.Context) error {
	at := h.writer.View().Durable
	var txs []walTx
	for range 1 + h.w.rng.IntN(3) {
		t := h.w.tx(at)
		txs, at = append(txs, t), t.end
	}
	for {
		s, reach, err := h.w.build(ctx, h.log.Store(), h.writer.View().Durable, txs)
		if err != nil {
			return err
		}
		err = h.writer.Segment(ctx, s, SegmentMeta{Reach: reach})
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue // put again, under the next generation
		}
		if err == nil {
			h.w.acked = max(h.w.acked, s.End)
		}
		return h.acked(err)
	}
}

func (h *host) base(ctx context.Context) error {
	rels := testRelations()
	rel := rels[h.w.rng.IntN(len(rels))]
	rows := []byte(fmt.Sprintf("%d\tx\n", h.w.rng.IntN(4)))
	for {
		p, err := h.log.Store().Put(ctx, chunkstore.KindRows, rows, chunkstore.Default)
		if err != nil {
			return err
		}
		d := h.writer.View().Durable
		err = h.writer.Base(ctx, &Base{
			Relation: rel, Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: d, ExactFrom: d + 10,
			Digest: record.Digest{Count: 1}, Bytes: int64(len(rows)),
		}, []chunkstore.Name{p.Name})
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue
		}
		if err == nil {
			h.w.bases[h.writer.View().Head] = rel.OID
		}
		return h.acked(err)
	}
}
