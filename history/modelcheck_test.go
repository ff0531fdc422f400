package history

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
)

// read holds a reader's picture against the source.
func (w *world) read(ctx context.Context) error {
	v, err := w.logOf(w.repo, w.all, nil).Load(ctx)
	if errors.Is(err, ErrNoLineage) && len(w.ackedBy) == 0 {
		return nil
	}
	if err != nil {
		return broken("load: %w", err)
	}
	if v.Durable < w.acked {
		return broken("%s was acknowledged, a reader finds %s", w.acked, v.Durable)
	}
	var want []row
	for at := walStart; at < v.Durable; {
		t := w.tx(at)
		if t.end > v.Durable {
			break
		}
		want, at = append(want, t.rows...), t.end
	}
	got, err := readRows(ctx, v, 0, everything, nil)
	if err != nil {
		return broken("records: %w", err)
	}
	if !slices.Equal(plain(got), plain(want)) {
		return broken("a reader finds %d rows up to %s, the source has %d", len(got), v.Durable, len(want))
	}
	for at, table := range w.bases {
		if !slices.ContainsFunc(v.Bases, func(b BaseInfo) bool { return b.Position == at && b.Table == table }) {
			return broken("the base %s is lost", at)
		}
	}
	for name := range w.marks {
		if !slices.ContainsFunc(v.Marks, func(m Mark) bool { return m.Name == name }) {
			return broken("%s is lost", name)
		}
	}
	return w.keysHeld(v)
}

func plain(list []row) []row {
	out := slices.Clone(list)
	for i := range out {
		out[i].long = 0
	}
	return out
}

// keysHeld: who opened an epoch has its key until its segments are merged, and that
// of the last epoch anyway: it opens the digests of the tables there.
func (w *world) keysHeld(v *View) error {
	epochs := []uint64{v.Epochs[len(v.Epochs)-1].Epoch}
	for _, s := range v.Segments {
		epochs = append(epochs, s.Epoch)
	}
	for _, epoch := range slices.Compact(epochs) {
		want, err := v.log.epochKey(context.Background(), nil, epoch)
		if err != nil {
			return broken("key of epoch %d: %w", epoch, err)
		}
		for _, h := range w.hosts {
			if v.Epochs[epoch].Host == h.name && h.keys[epoch] != want {
				return broken("%s opened epoch %d and does not hold its key", h.name, epoch)
			}
		}
	}
	return nil
}

// exchange puts another valid entry in the place of one that has a follower: a
// reader must find that the chain is broken.
func (w *world) exchange(ctx context.Context) error {
	l := w.logOf(w.repo, w.all, nil)
	v, err := l.Load(ctx)
	if err != nil || v.Head.Seq < 2 || w.depth > 0 {
		return nil
	}
	at := Position{Epoch: v.Head.Epoch, Seq: v.Head.Seq - 1}
	if c := v.Checkpoint.At; !c.Before(at) {
		return nil
	}
	e, err := l.get(ctx, at)
	if err != nil || e.sum.Note == nil || e.sum.Note.Kind != NoteIncomplete {
		return nil
	}
	other, err := l.seal.build(e.header, &Summary{Note: &Note{Kind: NoteComplete, Table: 77, Until: 1}}, nil, w.all.Chunk.Seal)
	if err != nil {
		return err
	}
	w.mem.Replace(w.id.key(at), other.raw)
	_, err = l.Load(ctx)
	w.mem.Replace(w.id.key(at), e.raw)
	w.say("exchange %s: %v", at, err)
	if !errors.Is(err, chunkstore.ErrDamaged) {
		return broken("an exchanged entry %s is not found: %w", at, err)
	}
	return nil
}

// condemnedNames: no entry reaches a name that an entry before it condemned (H8).
func (w *world) condemnedNames(ctx context.Context) error {
	l := quick(w.repo.Log(w.all, w.id, nil))
	last, ok, err := l.lastEpoch(ctx)
	if err != nil || !ok {
		return err
	}
	for epoch := range last + 1 {
		run, err := l.readEpoch(ctx, Position{Epoch: epoch}, epoch < last)
		if err != nil {
			return broken("read epoch %d: %w", epoch, err)
		}
		for _, short := range run {
			e, err := l.get(ctx, short.at)
			if err != nil {
				return broken("get %s: %w", short.at, err)
			}
			for _, n := range e.sum.Reach {
				if l.store.Condemned(n) {
					return broken("entry %s reaches %s, which is condemned", e.at, n)
				}
			}
			l.condemn(&e.sum)
		}
	}
	return nil
}

// settle ends all faults, lets each host start, take over and merge, and looks at
// everything.
func (w *world) settle(ctx context.Context) error {
	w.depth = 1
	for _, h := range w.hosts {
		if err := h.start(ctx); err != nil {
			return broken("start %s: %w", h.name, err)
		}
		v, err := h.log.Load(ctx)
		if err != nil && !errors.Is(err, ErrNoLineage) {
			return broken("load: %w", err)
		}
		if h.view = v; h.begin(ctx, v) != nil {
			return broken("begin %s: %w", h.name, h.begin(ctx, v))
		}
		if err := h.segment(ctx); err != nil {
			return broken("segment of %s: %w", h.name, err)
		}
		for _, epoch := range h.writer.Unmerged() {
			err := h.writer.Merge(ctx, epoch)
			if errors.Is(err, ErrNoKey) {
				err = h.lostKey(epoch)
			}
			if err != nil {
				return broken("merge epoch %d on %s: %w", epoch, h.name, err)
			}
		}
		if err := w.read(ctx); err != nil {
			return err
		}
		current := h.writer.View().Head.Epoch
		for epoch := range h.keys {
			if epoch != current {
				return broken("%s still holds the key of epoch %d, now is %d", h.name, epoch, current)
			}
		}
	}
	if err := w.condemnedNames(ctx); err != nil {
		return err
	}
	r, err := Verify(ctx, w.repo, w.all, VerifyOptions{Operators: []age.Identity{w.op}})
	if err != nil || len(r.Damage) > 0 {
		return broken("verify: %v: %w", r.Damage, err)
	}
	if len(w.laws.broke) > 0 {
		return broken("%s", strings.Join(w.laws.broke, "; "))
	}
	return nil
}

// run plays one world.
func run(ctx context.Context, seed uint64, f faults) (w *world, err error) {
	if w, err = newWorld(seed, f); err != nil {
		return w, err
	}
	for range 50 {
		switch n := w.rng.IntN(12); {
		case n < 6:
			err = w.hosts[0].act(ctx)
		case n < 8:
			err = w.hosts[1].act(ctx)
		case n < 9:
			err = w.operator(ctx)
		case n < 10:
			err = w.exchange(ctx)
		default:
			err = w.read(ctx)
		}
		if err != nil {
			return w, err
		}
	}
	return w, w.settle(ctx)
}

// Recovery is normal code (H5): whatever fails or crashes wherever, readers see
// exactly what the source did, and nothing acknowledged is lost (H2, H7).
func TestH5_ModelCheck(t *testing.T) {
	n := uint64(200)
	if testing.Short() {
		n = 30
	}
	play := func(seed uint64) {
		if w, err := run(t.Context(), seed, faults{}); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.trace, "\n"))
		}
	}
	for seed := range n {
		play(seed)
	}
	// make soak: go on with seeds that nobody has tried.
	soak, err := time.ParseDuration(cmp.Or(os.Getenv("LIFEBOAT_SOAK"), "0s"))
	if err != nil {
		t.Fatal(err)
	}
	first := uint64(time.Now().UnixNano())
	n = 0
	for begin := time.Now(); time.Since(begin) < soak; n++ {
		play(first + n)
	}
	t.Logf("%d more seeds from %d", n, first)
}

// The model check finds every guard that is taken away.
func TestModelCheckFindsMutants(t *testing.T) {
	for name, f := range map[string]faults{
		"any chain is accepted":                   {acceptAnyPrev: true},
		"an entry is acknowledged that is not in": {ackUnwritten: true},
		"a checkpoint forgets segments":           {checkpointForgets: true},
		"a merge drops its last segment":          {dropLastSegment: true},
		"any object at the number is ours":        {existingIsOurs: true},
		"a reader forgets the segments":           {forgetSegments: true},
		"the key goes before the history is in":   {keyBeforeHistory: true},
		"a create in doubt takes another number":  {otherNumber: true},
		"condemned names are used":                {reachCondemned: true},
		"an opener replaces a key":                {replaceKey: true},
		"a takeover does not close the epoch":     {skipEnd: true},
		"a maintenance entry is not read":         {unreadMaintenance: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(2000) {
				if _, err := run(t.Context(), seed, f); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("the model check does not find it")
		})
	}
}
