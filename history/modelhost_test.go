package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// host is one machine: its key directory outlives its process.
type host struct {
	proc
	ln     *lineage
	keys   map[uint64]chunkstore.Secret
	repo   *Repository
	log    *Log
	view   *View // loaded, for a Begin that did not happen yet
	writer *Writer
}

// Create is a step. A chunk that was removed meanwhile may come back by one who knows
// nothing of it: no entry will name it.
func (h *host) Create(ctx context.Context, key string, data []byte) error {
	broke := len(h.w.laws.broke)
	err := h.proc.Create(ctx, key, data)
	name, perr := chunkstore.ParseKey(key)
	if perr == nil && (h.log == nil || !h.log.Store().Condemned(name)) {
		h.w.laws.broke = h.w.laws.broke[:broke]
	}
	return err
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
	h.writer, h.view, h.log = nil, nil, nil
	var err error
	if h.repo, err = Open(ctx, h); err != nil {
		return err
	}
	h.log = h.w.logOf(h.repo, h.w.all.Agent(), h.ln.id, hostKeys{h})
	return nil
}

// act does one random thing on a host. Its error is of the model; what the code
// under test returns is judged here.
func (h *host) act(ctx context.Context) error {
	if h.dead {
		return h.start(ctx)
	}
	h.arm(9)
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
		v, lerr := h.ln.reader().Load(ctx)
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
	if h.dead || failed(err) {
		if h.writer != nil {
			h.dead = true
		}
		return nil
	}
	return broken("%s: %w", h.name, err)
}

func (h *host) begin(ctx context.Context, v *View) error {
	o := Opening{Durable: walStart, Host: h.name, Slot: "s", Parent: h.ln.parent}
	if v != nil {
		o.Durable, o.Parent = v.Durable, nil
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
	ln := h.ln
	if who := ln.ackedBy[v.Head]; who != "" && who != h.name {
		return broken("entry %s was acknowledged to %s and to %s", v.Head, who, h.name)
	}
	ln.ackedBy[v.Head] = h.name
	ln.acked = max(ln.acked, v.Durable)
	if v.Ready && ln.ready == 0 {
		ln.ready = v.First
	}
	return nil
}

// write does one random call of the writer, until the lineage is ready mostly what makes
// it so.
func (h *host) write(ctx context.Context) (what string, err error) {
	v := h.writer.View()
	switch n := h.w.rng.IntN(24); {
	case !v.Ready && n < 12:
		return "first copies", h.firstCopies(ctx)
	case n < 8:
		return "segment", h.segment(ctx)
	case n < 10:
		return "base", h.base(ctx, 100+uint32(h.w.rng.IntN(3)))
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
		d := v.Durable
		d += record.LSN(h.w.rng.IntN(int(99 - (d-walStart)%100)))
		return "position", h.acked(h.writer.Note(ctx, Note{Kind: NotePosition, Durable: d}))
	case n < 19:
		return "incomplete", h.acked(h.writer.Note(ctx, Note{Kind: NoteIncomplete, Table: 100, From: v.Durable}))
	case n < 21:
		return "schema", h.schema(ctx)
	case n < 22 && h.w.rng.IntN(3) == 0:
		return "alarm", h.alarm(ctx)
	default:
		return "round", h.round(ctx)
	}
}

// firstCopies makes one of what is missing until all can be restored.
func (h *host) firstCopies(ctx context.Context) error {
	v := h.writer.View()
	if len(v.Schemas) == 0 {
		return h.schema(ctx)
	}
	for table := uint32(100); table < 103; table++ {
		if !slices.ContainsFunc(v.Bases, func(b BaseInfo) bool { return b.Table == table }) {
			return h.base(ctx, table)
		}
	}
	return h.acked(h.writer.Note(ctx, Note{Kind: NoteReady}))
}

// round copies every table, with segments between, and notes the sparse point.
func (h *host) round(ctx context.Context) error {
	if !h.writer.View().Ready {
		return nil
	}
	for table := uint32(100); table < 103; table++ {
		if err := h.base(ctx, table); err != nil {
			return err
		}
		if h.w.rng.IntN(2) == 0 {
			if err := h.segment(ctx); err != nil {
				return err
			}
		}
	}
	v := h.writer.View()
	r := Round{Kind: []string{Weekly, Monthly}[h.w.rng.IntN(2)], From: v.Durable, Point: v.Durable, Time: v.DurableTime}
	for _, b := range v.BasesAt(r.Point) {
		r.From, r.Until = min(r.From, b.RecordsFrom), max(r.Until, b.ExactFrom)
	}
	if r.Time == 0 {
		return nil
	}
	err := h.writer.Note(ctx, Note{Kind: NoteRound, Name: r.Kind, From: r.From, Until: r.Until, Point: r.Point, Time: r.Time})
	if err == nil {
		h.ln.rounds = append(h.ln.rounds, r)
	}
	return h.acked(err)
}

func (h *host) alarm(ctx context.Context) error {
	err := h.writer.Note(ctx, Note{Kind: NoteAlarm, Table: 100, Name: "public.a", From: h.writer.View().Durable, Change: &MassChange{}})
	if err == nil {
		for _, a := range h.writer.View().Alarms {
			h.ln.alarms[a.At] = true
		}
	}
	return h.acked(err)
}

func (h *host) schema(ctx context.Context) error {
	for {
		p, err := h.log.Store().Put(ctx, chunkstore.KindBytes, h.w.pool[h.w.rng.IntN(len(h.w.pool))], chunkstore.Default)
		if err != nil {
			return err
		}
		ext := []record.Extent{{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: uint64(p.Ref.Size)}}
		err = h.writer.SchemaNote(ctx, &Schema{Custom: ext, Plain: ext, From: h.writer.View().Durable}, nil)
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue
		}
		return h.acked(err)
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
		t := h.ln.tx(at)
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
			h.ln.acked = max(h.ln.acked, s.End)
		}
		return h.acked(err)
	}
}

// base copies a table. What it holds comes from few texts, so that chunks are shared
// among bases and lineages.
func (h *host) base(ctx context.Context, table uint32) error {
	rows := fmt.Sprintf("%d\tx\n", h.w.rng.IntN(4))
	for {
		p, err := h.log.Store().Put(ctx, chunkstore.KindRows, []byte(rows), chunkstore.Default)
		if err != nil {
			return err
		}
		d := h.writer.View().Durable
		f := baseFact{table: table, from: d, exact: d, text: rows}
		if !h.writer.View().Ready {
			f.exact += 10
		}
		err = h.writer.Base(ctx, &Base{
			Relation: testRelations()[table-100], Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: f.from, ExactFrom: f.exact,
			Digest: record.Digest{Count: 1}, Bytes: int64(len(rows)), Time: record.FromTime(h.w.clock),
		}, []chunkstore.Name{p.Name})
		var c *ErrCondemned
		if errors.As(err, &c) {
			continue
		}
		if err == nil {
			h.ln.bases[h.writer.View().Head] = f
		}
		return h.acked(err)
	}
}
