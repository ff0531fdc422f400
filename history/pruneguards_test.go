package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// stories are what must not happen, mostly of a prune, each as one course of events; its
// error says that it did.
// TestModelCheckFindsMutants takes the guards away one by one.
var stories = map[string]func(testing.TB, faults) error{
	"what is wanted meanwhile is spared":         guardSecondLook,
	"what is left is found":                      guardLeft,
	"an undelete while it deletes is too late":   guardUndelete,
	"what a listing leaves out stays":            guardListing,
	"notes without their MAC delete nothing":     guardForged,
	"segments that no history holds stay":        guardShortHistory,
	"a lineage that opens meanwhile hears of it": guardLateLog,
	"nothing goes while an alarm is open":        guardAlarm,
	"nothing goes before every log has known":    guardAllLogs,
	"an opener keeps the key that is there":      guardKey,
}

func TestStories(t *testing.T) {
	for name, f := range stories {
		t.Run(name, func(t *testing.T) {
			if err := f(t, faults{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// hooked is a store that lets a test act before a call and leave out of a listing.
type hooked struct {
	*storetest.Memory
	before func(op storetest.Op, key string)
	hide   func(key string) bool
}

func (h *hooked) Create(ctx context.Context, key string, data []byte) error {
	h.call(storetest.OpCreate, key)
	return h.Memory.Create(ctx, key, data)
}

func (h *hooked) Remove(ctx context.Context, key string) error {
	h.call(storetest.OpRemove, key)
	return h.Memory.Remove(ctx, key)
}

func (h *hooked) call(op storetest.Op, key string) {
	if h.before != nil {
		h.before(op, key)
	}
}

func (h *hooked) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	return h.Memory.List(ctx, prefix, func(i chunkstore.Info) error {
		if h.hide != nil && h.hide(i.Key) {
			return nil
		}
		return f(i)
	})
}

// on is the pruner of a store.
func (a *aged) on(b chunkstore.Backend, f faults) *pruner {
	p := a.pruner(PruneOptions{Keep: keepWeek}, f)
	r := *p.r
	r.b = b
	p.r = &r
	p.open = func(id LineageID) *Log {
		l := quick(r.Log(p.s, id, nil))
		l.faults = f
		return l
	}
	return p
}

// deleted prunes to the end of one run.
func (a *aged) deleted(t testing.TB, f faults) error {
	a.mem.Advance(8 * day)
	r, err := a.prune(t.Context(), keepWeek, f)
	if err == nil && r.Phase != PruneDeleted {
		err = fmt.Errorf("it is %s, want deleted", r.Phase)
	}
	return err
}

func guardSecondLook(t testing.TB, f faults) error {
	a := newAged(t, 30)
	a.condemned(t)
	must(t, quick(a.repo.Log(a.secrets, a.id, nil)).AppendNote(t.Context(), Note{Kind: NotePin, Name: "p", From: a.at[10], Time: a.time()}))
	if err := a.deleted(t, f); err != nil {
		return err
	}
	if err := a.readable(t, a.at[9]); !errors.Is(err, ErrPruned) {
		return fmt.Errorf("day 9: %w", err)
	}
	return a.readable(t, a.at[10])
}

func guardLeft(t testing.TB, f faults) error {
	a := newAged(t, 30)
	a.condemned(t)
	a.mem.FailNext(storetest.OpRemove, storetest.None) // the clock's
	a.mem.FailNext(storetest.OpRemove, storetest.ErrBefore)
	if err := a.deleted(t, f); !errors.Is(err, ErrPruneLeft) {
		return fmt.Errorf("an object is left: %w", err)
	}
	return nil
}

func guardUndelete(t testing.TB, f faults) error {
	a := newAged(t, 30)
	a.condemned(t)
	a.mem.FailNext(storetest.OpRemove, storetest.None)
	a.mem.FailNext(storetest.OpRemove, storetest.ErrBefore)
	if err := a.deleted(t, faults{}); !errors.Is(err, ErrPruneLeft) {
		return fmt.Errorf("an object is left: %w", err)
	}
	if _, err := a.pruner(PruneOptions{}, f).undelete(t.Context()); !errors.Is(err, ErrTooLate) {
		return fmt.Errorf("undelete: %w", err)
	}
	return nil
}

func guardListing(t testing.TB, f faults) error {
	a := newAged(t, 30)
	a.mem.Advance(8 * day) // so that a chunk that nobody names is old
	v := a.view(t)
	b := v.Bases[len(v.Bases)-1]
	store := &hooked{Memory: a.mem, hide: func(key string) bool { return key == a.id.key(b.Position) }}
	for range 2 {
		if _, err := a.on(store, f).step(t.Context()); err != nil {
			return err
		}
		a.mem.Advance(8 * day)
	}
	return a.readable(t, a.at[30])
}

func guardShortHistory(t testing.TB, f faults) error {
	a := newAged(t, 10)
	a.forge = true
	a.more(t, 1)
	a.forge = false
	epoch := a.w.View().Head.Epoch - 1
	a.more(t, 20)
	for range 2 { // with the operator's identity, without which nobody reads a history
		p := a.pruner(PruneOptions{Keep: keepWeek}, f)
		p.s = a.secrets
		p.open = func(id LineageID) *Log {
			l := quick(a.repo.Log(a.secrets, id, nil))
			l.faults = f
			return l
		}
		if _, err := p.step(t.Context()); err != nil {
			return err
		}
		a.mem.Advance(8 * day)
	}
	segments := 0
	for at, e := range a.entries(t) {
		if at.Epoch == epoch && e.sum.Segment != nil {
			segments++
		}
	}
	if segments == 0 {
		return errors.New("the segments are gone, and no history holds what they held")
	}
	return nil
}

// forgedMerge merges an epoch into a history with other records, as many.
func (a *aged) forgedMerge(t testing.TB, epoch uint64) {
	t.Helper()
	ctx, v := t.Context(), a.w.View()
	key, err := a.log.epochKey(ctx, a.keys, epoch)
	must(t, err)
	m := &merger{log: a.log, tables: map[tableKey]*tableBuffer{}, relations: map[uint32][]uint32{}}
	for _, g := range v.Segments {
		s, err := v.Segment(ctx, g)
		must(t, err)
		for i := range s.Parts {
			p := &s.Parts[i]
			b, err := a.log.Store().Get(ctx, chunkstore.KindRecords, chunkstore.Ref{D: p.Chunk.Chunk, Gen: p.Chunk.Gen, Size: p.Chunk.Length})
			must(t, err)
			p.Inline, p.Chunk = bytes.ReplaceAll(b, []byte("xx"), []byte("yy")), nil
		}
		must(t, m.segment(ctx, g, s))
	}
	d, err := m.finish(ctx, epoch)
	must(t, err)
	d.bodyKey = &key
	must(t, a.log.reach(ctx, &d.sum, m.reach()))
	must(t, a.w.add(ctx, func(*View) (draft, error) { return d, nil }))
}

// entries are those that are there.
func (a *aged) entries(t testing.TB) map[Position]*entry {
	t.Helper()
	out := map[Position]*entry{}
	l := a.operatorLog()
	for _, k := range a.mem.Keys() {
		if id, at, ok := parseEntryKey(k); ok && id == a.id {
			e, err := l.get(t.Context(), at)
			must(t, err)
			out[at] = e
		}
	}
	return out
}

// guardForged: notes that nobody with K_prune made delete nothing.
func guardForged(t testing.TB, f faults) error {
	ctx, a := t.Context(), newAged(t, 30)
	v := a.view(t)
	n := Note{Kind: NoteCondemn, Gen: chunkstore.Gen{9}, MAC: make([]byte, 32)}
	n.Logs = []logEntries{{Log: a.id, From: v.Durable}}
	for _, b := range v.Bases {
		n.Logs[0].Entries = n.Logs[0].Entries.merge(runsOf([]Position{b.Position}))
	}
	for _, k := range a.mem.Keys() {
		if name, err := chunkstore.ParseKey(k); err == nil {
			n.Prefixes = append(n.Prefixes, [8]byte(name[:8]))
		}
	}
	must(t, a.w.Note(ctx, n))
	// The agent's own checkpoint believes it; nobody else has to.
	must(t, a.w.Note(ctx, Note{Kind: NoteDeleting, Gen: n.Gen, Entries: n.Logs[0].Entries, Kept: &Kept{From: v.Durable}, MAC: make([]byte, 32)}))
	must(t, a.w.Note(ctx, Note{Kind: NoteUnpin, Name: "p", Time: a.time()}))
	must(t, a.w.Checkpoint(ctx))
	a.mem.Advance(30 * day)
	objects := a.mem.Keys()
	all := Keep{EveryCommit: 1000 * day}
	for i := range 2 {
		r, err := a.prune(ctx, all, f)
		if err != nil {
			return err
		}
		if i == 0 {
			for _, k := range objects {
				if a.mem.Object(k) == nil {
					return fmt.Errorf("%s is gone", k)
				}
			}
			if len(r.Warnings) == 0 {
				return errors.New("nobody is warned of the forged note")
			}
		}
		a.mem.Advance(8 * day)
	}
	for _, b := range v.Bases {
		if a.mem.Object(a.id.key(b.Position)) == nil {
			return fmt.Errorf("base %s is gone", b.Position)
		}
	}
	return nil
}

// guardLateLog: a lineage whose opening stood still while the others were told, and
// which comes to life between the second look and the deletes.
func guardLateLog(t testing.TB, f faults) error {
	ctx, a := t.Context(), newAged(t, 30)
	id := a.id
	id.Lineage = record.Lineage{7}
	atRemove, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	deleting := &hooked{Memory: a.mem}
	deleting.before = func(op storetest.Op, key string) {
		if op == storetest.OpRemove && !strings.HasPrefix(key, chunkstore.ProbePrefix) {
			deleting.before = nil
			close(atRemove)
			<-goOn
		}
	}
	opening := &hooked{Memory: a.mem}
	opening.before = func(op storetest.Op, key string) {
		if op == storetest.OpCreate && key == id.key(Position{}) {
			opening.before = nil
			a.condemned(t)
			a.mem.Advance(8 * day)
			go func() {
				_, err := a.on(deleting, f).step(ctx)
				done <- err
			}()
			<-atRemove
		}
	}
	r := *a.repo
	r.b = opening
	l := quick(r.Log(a.secrets.Agent(), id, nil))
	l.faults = f
	keys := newMemKeys()
	w, err := l.Begin(ctx, nil, keys, Opening{Durable: 1000, Host: "n", Slot: "n"})
	must(t, err)
	// The same content as the first copy of the old lineage, which goes.
	text := fmt.Sprintf("%d of %s\t%d\n", 100, a.id.Lineage, 0)
	p, err := l.Store().Put(ctx, chunkstore.KindRows, []byte(text), chunkstore.Default)
	must(t, err)
	must(t, w.Base(ctx, &Base{Relation: testRelations()[0], Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: 1000, ExactFrom: 1000}, nil))
	close(goOn)
	must(t, <-done)
	if _, err := l.Store().Get(ctx, chunkstore.KindRows, p.Ref); err != nil {
		return fmt.Errorf("the new lineage's copy: %w", err)
	}
	return nil
}

func guardAlarm(t testing.TB, f faults) error {
	a := newAged(t, 30)
	a.condemned(t)
	must(t, a.w.Note(t.Context(), Note{Kind: NoteAlarm, Table: 100, Name: "public.a", From: a.at[30], Change: &MassChange{Before: 9, Changed: 9}}))
	if err := a.deleted(t, f); !errors.Is(err, ErrPruneRefused) {
		return fmt.Errorf("an alarm is open: %w", err)
	}
	return nil
}

func guardAllLogs(t testing.TB, f faults) error {
	ctx, a := t.Context(), newAged(t, 30)
	id := a.id
	id.Lineage = record.Lineage{7}
	l := quick(a.repo.Log(a.secrets.Agent(), id, nil))
	_, err := l.Begin(ctx, nil, newMemKeys(), Opening{Durable: 1000, Host: "n", Slot: "n"})
	must(t, err)
	p := a.pruner(PruneOptions{Keep: keepWeek}, f)
	_, err = p.step(ctx)
	must(t, err)
	v, err := l.Load(ctx)
	must(t, err)
	if !slices.ContainsFunc(v.Runs, func(r PruneRun) bool { return r.Gen == p.out.Run }) {
		return errors.New("the other lineage was not told")
	}
	return nil
}

// guardKey: whose epoch entry is in the log although its create failed has the key of it.
func guardKey(t testing.TB, f faults) error {
	b, ctx, keys := newBench(t), t.Context(), newMemKeys()
	l := b.agentLog(keys)
	l.faults = f
	_, err := l.Begin(ctx, nil, keys, Opening{Durable: 1000, Host: "h", Slot: "s"})
	must(t, err)
	v, err := l.Load(ctx)
	must(t, err)
	b.mem.SetFault(func(op storetest.Op, key string) storetest.Fault {
		if op == storetest.OpCreate && key == b.id.key(Position{Epoch: 1}) {
			return storetest.ErrAfter
		}
		return storetest.None
	})
	for range 2 {
		if _, err = l.Begin(ctx, v, keys, Opening{Durable: 1000, Host: "h", Slot: "s"}); err == nil {
			break
		}
		b.mem.SetFault(nil)
	}
	want, err := b.operatorLog().epochKey(ctx, nil, 1)
	must(t, err)
	if got, err := keys.Get(1); err != nil || got != want {
		return fmt.Errorf("the host holds another key than that of epoch 1: %w", err)
	}
	return nil
}
