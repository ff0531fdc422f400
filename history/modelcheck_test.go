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

func plain(list []row) []row {
	out := slices.Clone(list)
	for i := range out {
		out[i].long = 0
	}
	return out
}

// keysHeld: who opened an epoch has its key until its segments are merged, and that
// of the last epoch anyway: it opens the digests of the tables there.
func (ln *lineage) keysHeld(v *View) error {
	host := func(epoch uint64) string {
		i := slices.IndexFunc(v.Epochs, func(e EpochInfo) bool { return e.Epoch == epoch })
		return v.Epochs[i].Host
	}
	epochs := []uint64{v.Epochs[len(v.Epochs)-1].Epoch}
	for _, s := range v.Segments {
		epochs = append(epochs, s.Epoch)
	}
	for _, epoch := range slices.Compact(epochs) {
		want, err := v.log.epochKey(context.Background(), nil, epoch)
		if err != nil {
			return broken("key of epoch %d: %w", epoch, err)
		}
		for _, h := range ln.hosts {
			if host(epoch) == h.name && h.keys[epoch] != want {
				return broken("%s opened epoch %d and does not hold its key", h.name, epoch)
			}
		}
	}
	return nil
}

// exchange puts another valid entry in the place of one that has a follower: a
// reader must find that the chain is broken.
func (ln *lineage) exchange(ctx context.Context) error {
	w, l := ln.w, ln.reader()
	v, err := l.Load(ctx)
	if err != nil || v.Head.Seq < 2 {
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
	w.mem.Replace(ln.id.key(at), other.raw)
	_, err = l.Load(ctx)
	w.mem.Replace(ln.id.key(at), e.raw)
	w.say("exchange %s: %v", at, err)
	if !errors.Is(err, chunkstore.ErrDamaged) {
		return broken("an exchanged entry %s is not found: %w", at, err)
	}
	return nil
}

// condemnedNames: no entry reaches a name that an entry before it condemned (H8).
func (ln *lineage) condemnedNames(ctx context.Context) error {
	l := ln.reader()
	return ln.entries(ctx, func(e *entry) error {
		for _, n := range e.sum.Reach {
			if l.store.Condemned(n) {
				return broken("entry %s reaches %s, which is condemned", e.at, n)
			}
		}
		l.condemn(&e.sum)
		return nil
	})
}

// settle ends all faults, lets each host start, take over and merge, and looks at
// everything.
func (w *world) settle(ctx context.Context) error {
	w.still = true
	for len(w.frozen) > 0 {
		if err := w.thaw(0); err != nil {
			return err
		}
	}
	for _, ln := range w.lines {
		if err := ln.settle(ctx); err != nil {
			return err
		}
	}
	if err := w.pruneAll(ctx); err != nil {
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

func (ln *lineage) settle(ctx context.Context) error {
	for _, h := range ln.hosts {
		if err := h.start(ctx); err != nil {
			return broken("start %s: %w", h.name, err)
		}
		v, err := h.log.Load(ctx)
		if err != nil && !errors.Is(err, ErrNoLineage) {
			return broken("load: %w", err)
		}
		h.view = v
		if err := h.begin(ctx, v); err != nil {
			return broken("begin %s: %w", h.name, err)
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
		if err := ln.read(ctx); err != nil {
			return err
		}
		current := h.writer.View().Head.Epoch
		for epoch := range h.keys {
			if epoch != current {
				return broken("%s still holds the key of epoch %d, now is %d", h.name, epoch, current)
			}
		}
	}
	return ln.condemnedNames(ctx)
}

// pruneAll prunes without faults until nothing may go: then no chunk is left that no
// entry names, and all that was promised is there.
func (w *world) pruneAll(ctx context.Context) error {
	for _, ln := range w.lines {
		if v, err := ln.reader().Load(ctx); err == nil {
			for _, a := range v.Alarms {
				if err := ln.reader().AppendNote(ctx, Note{Kind: NoteAcknowledge, Alarm: &a.At}); err != nil {
					return broken("acknowledge: %w", err)
				}
			}
			clear(ln.alarms)
		}
	}
	for i := 0; ; i++ {
		w.advance(8 * day)
		m := w.maint
		m.dead, m.at, m.law, m.before = false, 0, nil, nil
		m.pruner = newPruner(w.repo, w.all.Maintenance(), PruneOptions{Keep: modelKeep})
		m.pruner.r = &Repository{}
		*m.pruner.r = *w.repo
		m.pruner.r.b = m
		m.pruner.faults = w.faults
		m.pruner.open = func(id LineageID) *Log { return w.logOf(m.pruner.r, m.pruner.s, id, nil) }
		if err := m.prune(ctx); err != nil {
			return broken("prune at the end: %w", err)
		}
		for _, ln := range w.lines {
			if err := ln.read(ctx); err != nil {
				return err
			}
		}
		if m.pruner.out.Phase == PruneNothing {
			return w.leftovers(ctx)
		}
		if i > 9 {
			return broken("the prune has no end: %+v", m.pruner.out)
		}
	}
}

func (w *world) leftovers(ctx context.Context) error {
	reached := map[string]bool{}
	for _, ln := range w.lines {
		err := ln.entries(ctx, func(e *entry) error {
			for _, n := range e.sum.Reach {
				reached[n.Key()] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	void := w.voidReach(ctx)
	for _, k := range w.mem.Keys() {
		if strings.HasPrefix(k, "chunk/") && !reached[k] && !void[k] {
			return broken("%s is left and nothing names it", k)
		}
	}
	return nil
}

// voidReach is what entries past an end name: they say nothing, and nobody takes away
// from under them.
func (w *world) voidReach(ctx context.Context) map[string]bool {
	out := map[string]bool{}
	for _, ln := range w.lines {
		l := ln.reader()
		for _, k := range w.mem.Keys() {
			if id, at, ok := parseEntryKey(k); ok && id == ln.id {
				if e, err := l.get(ctx, at); err == nil {
					for _, n := range e.sum.Reach {
						out[n.Key()] = true
					}
				}
			}
		}
	}
	return out
}

// turn is one operation of the scheduler.
func (w *world) turn(ctx context.Context) error {
	if len(w.frozen) > 0 && w.rng.IntN(6) == 0 {
		return w.thaw(w.rng.IntN(len(w.frozen)))
	}
	ln := w.lines[len(w.lines)-1]
	if w.rng.IntN(4) == 0 {
		ln = w.lines[w.rng.IntN(len(w.lines))]
	}
	n := w.rng.IntN(24)
	if w.narrow && n >= 15 && n < 22 {
		n = 0
	}
	switch {
	case n < 12:
		h := ln.hosts[min(w.rng.IntN(3), 1)]
		if h.parked || ln.atRest {
			return nil
		}
		return w.play(&h.proc, func() error { return h.act(ctx) })
	case n < 14:
		return w.operator(ctx)
	case n < 15:
		return ln.exchange(ctx)
	case n < 16:
		return w.oversee(ctx)
	case n < 18:
		w.advance(time.Duration(w.rng.IntN(96)) * time.Hour)
		return nil
	case n < 21:
		if w.maint.parked {
			return nil
		}
		return w.play(&w.maint.proc, func() error { return w.maint.act(ctx) })
	case n < 22 && w.rng.IntN(10) == 0:
		w.adopt()
		return nil
	default:
		return ln.read(ctx)
	}
}

// run plays one world.
func run(ctx context.Context, seed uint64, f faults) (w *world, err error) {
	if w, err = newWorld(seed, f); err != nil {
		return w, err
	}
	defer w.end()
	for range modelTurns {
		if err := w.turn(ctx); err != nil {
			return w, err
		}
	}
	return w, w.settle(ctx)
}

// end lets go of what stands still.
func (w *world) end() {
	w.still = true
	for len(w.frozen) > 0 {
		w.frozen[0].dead = true
		_ = w.thaw(0)
	}
}

// modelTurns are the operations of one world.
const modelTurns = 100

// Recovery is normal code (H5): whatever fails or crashes wherever, readers see
// exactly what the source did, and nothing acknowledged is lost (H2, H7).
func TestH5_ModelCheck(t *testing.T) {
	n := uint64(60)
	if testing.Short() {
		n = 15
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

// The model check, or one of the stories, finds every guard that is taken away.
func TestModelCheckFindsMutants(t *testing.T) {
	for name, m := range map[string]struct {
		faults
		story string // that finds it; empty: the random worlds do
	}{
		"any chain is accepted":                   {faults{acceptAnyPrev: true}, ""},
		"an entry is acknowledged that is not in": {faults{ackUnwritten: true}, ""},
		"a checkpoint forgets segments":           {faults{checkpointForgets: true}, ""},
		"a merge drops its last segment":          {faults{dropLastSegment: true}, ""},
		"any object at the number is ours":        {faults{existingIsOurs: true}, ""},
		"a reader forgets the segments":           {faults{forgetSegments: true}, ""},
		"the key goes before the history is in":   {faults{keyBeforeHistory: true}, ""},
		"a create in doubt takes another number":  {faults{otherNumber: true}, ""},
		"condemned names are used":                {faults{reachCondemned: true}, ""},
		"an opener replaces a key":                {faults{replaceKey: true}, "an opener keeps the key that is there"},
		"a takeover does not close the epoch":     {faults{skipEnd: true}, ""},
		"a maintenance entry is not read":         {faults{unreadMaintenance: true}, ""},

		"retention forgets the sparse points":   {faults{dropPoints: true}, ""},
		"retention drops the window's bases":    {faults{dropWindowBase: true}, ""},
		"a prune knows no grace":                {faults{noGrace: true}, ""},
		"young orphans are condemned":           {faults{youngOrphans: true}, ""},
		"a prune goes on in spite of an alarm":  {faults{skipAlarm: true}, "nothing goes while an alarm is open"},
		"a prune condemns in one log only":      {faults{condemnOneLog: true}, "nothing goes before every log has known"},
		"a new lineage does not look twice":     {faults{bareBegin: true}, "a lineage that opens meanwhile hears of it"},
		"a prune does not look again":           {faults{noSecondLook: true}, "what is wanted meanwhile is spared"},
		"a prune believes one listing":          {faults{trustListing: true}, "what a listing leaves out stays"},
		"an undelete counts too late":           {faults{undeleteTooLate: true}, "an undelete while it deletes is too late"},
		"a prune does not look at what is left": {faults{unseenFailure: true}, "what is left is found"},
		"segments go without being compared":    {faults{shortHistory: true}, "segments that no history holds stay"},
		"a note counts without its MAC":         {faults{forgedNotes: true}, "notes without their MAC delete nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			if m.story != "" {
				err := stories[m.story](t, m.faults)
				if t.Log(err); err == nil {
					t.Error("its story does not find it")
				}
				return
			}
			for seed := range uint64(1000) {
				if _, err := run(t.Context(), seed, m.faults); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("the model check does not find it")
		})
	}
}
