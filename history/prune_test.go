package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

const day = 24 * time.Hour

// aged is a lineage of many days: each day has one epoch with one commit to each of
// two tables, every third day both are copied anew, every seventh there is a round.
type aged struct {
	*bench
	keys *memKeys
	log  *Log
	w    *Writer
	rows []row
	days int
	// forge: merges are those of a stolen host, whose histories hold something else.
	forge bool
	at    map[int]record.LSN // the newest commit of a day
}

func newAged(t testing.TB, days int) *aged {
	t.Helper()
	a := &aged{bench: newBench(t), keys: newMemKeys(), at: map[int]record.LSN{}}
	a.log = a.agentLog(a.keys)
	a.open(t, nil)
	a.more(t, days)
	return a
}

func (a *aged) open(t testing.TB, p *Parent) {
	t.Helper()
	var err error
	a.w, err = a.log.Begin(t.Context(), nil, a.keys, Opening{Durable: 1000, Slot: "s", Host: "h", Parent: p})
	must(t, err)
	a.copy(t)
	a.schema(t, 1)
	must(t, a.w.Note(t.Context(), Note{Kind: NoteReady}))
}

// copy makes a base of each table of what it holds now; the chunk's content is that.
func (a *aged) copy(t testing.TB) {
	t.Helper()
	for _, table := range []uint32{100, 101} {
		text := fmt.Sprintf("%d of %s\t%d\n", table, a.log.id.Lineage, len(a.rows))
		p, err := a.log.Store().Put(t.Context(), chunkstore.KindRows, []byte(text), chunkstore.Default)
		must(t, err)
		at := a.w.View().Durable
		must(t, a.w.Base(t.Context(), &Base{
			Relation: testRelations()[table-100], Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: at, ExactFrom: at,
			Digest: record.Digest{Count: 1}, Bytes: int64(len(text)), Time: a.time(),
		}, nil))
	}
}

func (a *aged) schema(t testing.TB, print byte) {
	t.Helper()
	p, err := a.log.Store().Put(t.Context(), chunkstore.KindBytes, []byte{print, 'x'}, chunkstore.Default)
	must(t, err)
	ext := []record.Extent{{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: 2}}
	must(t, a.w.SchemaNote(t.Context(), &Schema{Custom: ext, Plain: ext, Fingerprint: [32]byte{print}, From: a.w.View().Durable}, nil))
}

// time is the commit time of the day, in step with the store's clock.
func (a *aged) time() record.Time {
	return record.FromTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(a.days) * day))
}

func (a *aged) more(t testing.TB, days int) {
	t.Helper()
	ctx := t.Context()
	for range days {
		a.days++
		a.mem.Advance(day)
		at := a.w.View().Durable
		txs := []walTx{{end: at + 100, rows: []row{ins(100, fmt.Sprint(a.days)), ins(101, strings.Repeat("x", a.days))}}}
		for n := range txs[0].rows {
			txs[0].rows[n].end, txs[0].rows[n].ordinal = at+100, uint64(n)
		}
		a.rows = append(a.rows, txs[0].rows...)
		s, err := segmentAt(at, txs, nil)
		must(t, err)
		s.Transactions[0].Time = a.time()
		// Every day's records lie in a chunk of their own.
		p, err := a.log.Store().Put(ctx, chunkstore.KindRecords, s.Parts[0].Inline, chunkstore.Default)
		must(t, err)
		s.Parts[0].Chunk = &record.Extent{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: p.Ref.Size}
		s.Parts[0].Inline = nil
		must(t, a.w.Segment(ctx, s, SegmentMeta{SchemaCertain: s.End}))
		a.at[a.days] = s.End
		if a.days%3 == 0 {
			a.copy(t)
		}
		if a.days%7 == 0 {
			a.copy(t)
			kind := Weekly
			if a.days%28 == 0 {
				kind = Monthly
			}
			must(t, a.w.Note(ctx, Note{Kind: NoteRound, Name: kind, From: s.End, Until: s.End, Point: s.End, Time: a.time()}))
		}
		must(t, a.w.Rotate(ctx, Opening{Host: "h"}))
		for _, e := range a.w.Unmerged() {
			if a.forge {
				a.forgedMerge(t, e)
			}
			must(t, a.w.Merge(ctx, e))
		}
	}
}

// maintenance is a prune with nothing but the maintenance secrets.
func (a *aged) prune(ctx context.Context, k Keep, f faults) (*PruneReport, error) {
	return a.pruner(PruneOptions{Keep: k}, f).step(ctx)
}

func (b *bench) pruner(o PruneOptions, f faults) *pruner {
	s := b.secrets.Maintenance()
	p := newPruner(b.repo, s, o)
	p.faults = f
	p.open = func(id LineageID) *Log {
		l := quick(b.repo.Log(s, id, nil))
		l.faults = f
		return l
	}
	return p
}

func (p *pruner) step(ctx context.Context) (*PruneReport, error) { return p.out, p.apply(ctx) }

// readable checks that a position can be restored: a base of each table whose chunks
// are there, and every record from it on.
func (a *aged) readable(t testing.TB, at record.LSN) error {
	ctx := t.Context()
	v, err := quick(a.repo.Log(a.secrets, a.log.id, nil)).Load(ctx)
	if err != nil {
		return err
	}
	if v.PrunedAt(at) {
		return ErrPruned
	}
	bases := v.BasesAt(at)
	if len(bases) != 2 {
		return fmt.Errorf("%d bases", len(bases))
	}
	for _, info := range bases {
		_, got, err := tableAt(ctx, v, info, at)
		if err != nil {
			return err
		}
		want := slices.DeleteFunc(slices.Clone(a.rows), func(r row) bool {
			return r.table != info.Table || r.end <= info.RecordsFrom || r.end > at
		})
		if !slices.Equal(got, want) {
			return fmt.Errorf("table %d at %s: %v, want %v", info.Table, at, got, want)
		}
	}
	for i := range v.Schemas {
		if _, err := v.Schema(ctx, v.Schemas[i]); err != nil {
			return err
		}
	}
	return nil
}

// tableAt gives what a base of one piece holds, and the records of its table after it.
func tableAt(ctx context.Context, v *View, info BaseInfo, at record.LSN) (text []byte, rows []row, err error) {
	b, err := v.Base(ctx, info)
	if err != nil {
		return nil, nil, err
	}
	if text, err = v.Store().Get(ctx, chunkstore.KindRows, *b.Pieces[0].Rows); err != nil {
		return nil, nil, err
	}
	rows, err = readRows(ctx, v, info.RecordsFrom, at, func(t uint32) bool { return t == info.Table })
	return text, rows, err
}

func (a *aged) verify(t testing.TB) {
	t.Helper()
	r, err := Verify(t.Context(), a.repo, a.secrets, VerifyOptions{})
	must(t, err)
	if len(r.Damage) > 0 {
		t.Fatalf("verify: %v", r.Damage)
	}
}

var keepWeek = Keep{EveryCommit: 7 * day, Weekly: 4, Monthly: 3}

// What keep asks for can be restored, everything else goes, in three steps, and with
// the maintenance secrets alone.
func TestPrune(t *testing.T) {
	ctx, a := t.Context(), newAged(t, 60)
	must(t, quick(a.repo.Log(a.secrets, a.log.id, nil)).AppendNote(ctx, Note{Kind: NoteMark, Name: "m", From: a.at[10], Time: a.time()}))
	must(t, quick(a.repo.Log(a.secrets, a.log.id, nil)).AppendNote(ctx, Note{Kind: NotePin, Name: "p", From: a.at[20], Time: a.time()}))
	a.more(t, 1)
	before := len(a.mem.Keys())
	plan := a.pruner(PruneOptions{Keep: keepWeek}, faults{})
	must(t, plan.plan(ctx))
	if n := len(a.mem.Keys()); n != before || plan.out.Phase != PruneCondemned || plan.out.Chunks == 0 || plan.out.Entries == 0 {
		t.Fatalf("a dry run: %+v, %d objects, %d before", plan.out, n, before)
	}
	for i, want := range []PrunePhase{PruneCondemned, PruneWaiting, PruneWaiting} {
		r, err := a.prune(ctx, keepWeek, faults{})
		must(t, err)
		if r.Phase != want || len(r.Warnings) > 0 {
			t.Fatalf("step %d: %s, want %s; %v", i, r.Phase, want, r.Warnings)
		}
		a.verify(t)
		for d := 1; d <= a.days; d++ {
			must(t, a.readable(t, a.at[d]))
		}
		a.mem.Advance(3 * day)
	}
	r, err := a.prune(ctx, keepWeek, faults{})
	must(t, err)
	if r.Phase != PruneDeleted || len(r.Left) > 0 || r.Chunks < 30 || r.Entries < 100 {
		t.Fatalf("deleted: %+v", r)
	}
	a.verify(t)
	// Day 61 is the newest commit. The window begins with what was before day 54; rounds of days 7k: the
	// four last weeks are those of 42 to 61, the three last months hold rounds 28 and 56.
	kept := []int{10, 20, 28, 42, 49}
	for d := 1; d <= 61; d++ {
		err := a.readable(t, a.at[d])
		if d >= 53 || slices.Contains(kept, d) {
			if err != nil {
				t.Errorf("day %d: %v", d, err)
			}
		} else if !errors.Is(err, ErrPruned) {
			t.Errorf("day %d: %v, want pruned", d, err)
		}
	}
	r, err = a.prune(ctx, keepWeek, faults{})
	must(t, err)
	if r.Phase != PruneNothing {
		t.Errorf("again: %+v", r)
	}
	if n := len(a.mem.Keys()); n > before*2/3 {
		t.Errorf("%d objects of %d are left", n, before)
	}
	a.more(t, 3)
	a.verify(t)
	must(t, a.readable(t, a.at[64]))
}

// Retention alone, on what must be kept and why.
func TestRetain(t *testing.T) {
	ctx, a := t.Context(), newAged(t, 40)
	v := a.view(t)
	r := Retain(v, keepWeek)
	if r.All != "" || r.From != a.at[32] || len(r.Points) < 2 {
		t.Fatalf("from %s with %v, want %s", r.From, r.Points, a.at[32])
	}
	must(t, quick(a.repo.Log(a.secrets, a.log.id, nil)).AppendNote(ctx, Note{Kind: NoteHold, Name: "court", Time: a.time()}))
	if r := Retain(a.view(t), keepWeek); r.All == "" || len(r.Why) < len(v.Bases)+len(v.Histories) {
		t.Errorf("under a hold: %+v", r)
	}
	// A base, a schema and a drop that claim to be old displace nothing.
	forged := v.clone()
	last := v.Epochs[len(v.Epochs)-1].Position
	forged.Bases = append(forged.Bases, BaseInfo{Position: Position{Epoch: last.Epoch, Seq: 77}, Table: 100, RecordsFrom: r.From, ExactFrom: r.From})
	forged.Schemas = append(forged.Schemas, SchemaInfo{Position: Position{Epoch: last.Epoch, Seq: 78}, From: r.From})
	for at, why := range r.Why {
		if Retain(forged, keepWeek).Why[at] == "" {
			t.Errorf("%s is kept no more (%s)", at, why)
		}
	}
}

func (a *aged) view(t testing.TB) *View {
	t.Helper()
	v, err := quick(a.repo.Log(a.secrets, a.log.id, nil)).Load(t.Context())
	must(t, err)
	return v
}

// condemned brings a prune to just before it deletes.
func (a *aged) condemned(t testing.TB) {
	t.Helper()
	r, err := a.prune(t.Context(), keepWeek, faults{})
	must(t, err)
	if r.Phase != PruneCondemned {
		t.Fatalf("%+v", r)
	}
	a.mem.Advance(8 * day)
}

// An undelete counts until the deleting begins, and then is too late.
func TestPruneUndelete(t *testing.T) {
	ctx, a := t.Context(), newAged(t, 30)
	a.condemned(t)
	if gen, err := a.pruner(PruneOptions{}, faults{}).undelete(ctx); err != nil || gen == (chunkstore.Gen{}) {
		t.Fatalf("undelete: %v %v", gen, err)
	}
	r, err := a.prune(ctx, keepWeek, faults{})
	must(t, err)
	if r.Phase != PruneCondemned {
		t.Fatalf("a prune after an undelete: %+v", r)
	}
	for d := 1; d <= 30; d++ {
		must(t, a.readable(t, a.at[d]))
	}
	a.mem.Advance(8 * day)
	a.mem.FailNext(storetest.OpRemove, storetest.None) // the clock's
	a.mem.FailNext(storetest.OpRemove, storetest.ErrBefore)
	if _, err := a.prune(ctx, keepWeek, faults{}); !errors.Is(err, ErrPruneLeft) {
		t.Fatalf("a delete that failed: %v", err)
	}
	if _, err := a.pruner(PruneOptions{}, faults{}).undelete(ctx); !errors.Is(err, ErrTooLate) {
		t.Fatalf("undelete while it deletes: %v", err)
	}
	a.verify(t)
	r, err = a.prune(ctx, keepWeek, faults{})
	must(t, err)
	if r.Phase != PruneDeleted || len(r.Left) > 0 {
		t.Fatalf("gone on: %+v", r)
	}
	a.verify(t)
}

// A crash before and after each durable step of a prune, at each of its calls: the next
// ones go on, nothing that stays is ever missing, and in the end all that may go is gone.
func TestPruneCrashes(t *testing.T) {
	ctx := t.Context()
	base := newAged(t, 24)
	clean := *base
	clean.fork(t)
	clean.finish(t)
	want := len(clean.mem.Keys())
	for _, fault := range []storetest.Fault{storetest.Crash, storetest.CrashAfter, storetest.ErrBefore, storetest.ErrAfter, storetest.LostReply} {
		for at, broke := 0, true; broke; at += 1 + at/3 {
			if testing.Short() && at > 4 {
				break
			}
			a := *base
			a.fork(t)
			n, left := 0, 1
			broke = false
			a.mem.SetFault(func(op storetest.Op, _ string) storetest.Fault {
				if op != storetest.OpCreate && op != storetest.OpRemove {
					return storetest.None
				}
				if n++; n <= at || left == 0 {
					return storetest.None
				}
				left--
				broke = true
				return fault
			})
			for range 2 { // condemn, then delete
				_, _ = a.prune(ctx, keepWeek, faults{})
				if a.mem.Crashed() {
					a.mem.Restart()
				}
				a.verify(t)
				for d := 17; d <= 24; d++ {
					if err := a.readable(t, a.at[d]); err != nil {
						t.Fatalf("fault %d at %d: day %d: %v", fault, at, d, err)
					}
				}
				a.mem.Advance(8 * day)
			}
			a.mem.SetFault(nil)
			a.finish(t)
			if got := len(a.mem.Keys()); got > want+4 { // a note more, or the clock's object
				t.Fatalf("fault %d at %d: %d objects are left, %d after a clean prune", fault, at, got, want)
			}
		}
	}
}

// fork gives the bench a store of its own.
func (a *aged) fork(t testing.TB) {
	t.Helper()
	b := *a.bench
	b.mem = a.mem.Clone(t)
	var err error
	b.repo, err = Open(t.Context(), b.mem)
	must(t, err)
	a.bench = &b
}

// finish prunes until there is nothing more to do.
func (a *aged) finish(t testing.TB) {
	t.Helper()
	for range 6 {
		r, err := a.prune(t.Context(), keepWeek, faults{})
		must(t, err)
		if r.Phase == PruneNothing {
			a.verify(t)
			return
		}
		a.mem.Advance(8 * day)
	}
	t.Fatal("the prune has no end")
}

// A lineage that nobody follows is at rest although prunes write into it.
func TestForgetWhatPrunesWrote(t *testing.T) {
	ctx, a := t.Context(), newAged(t, 40)
	o := PruneOptions{Keep: keepWeek, Forget: []LineageID{a.id}}
	a.mem.Advance(6 * day)
	_, err := a.prune(ctx, keepWeek, faults{})
	must(t, err)
	warned := 0
	for range 20 { // daily; the run under way was begun without its name
		a.mem.Advance(day)
		r, err := a.pruner(o, faults{}).step(ctx)
		must(t, err)
		warned += len(r.Warnings)
		if r.Phase == PruneDeleted && len(r.Warnings) > 0 && len(a.view(t).Points) == 0 {
			t.Errorf("its points went with a run that did not name it")
		}
	}
	v := a.view(t)
	if warned == 0 || warned > 9 {
		t.Errorf("%d warnings", warned)
	}
	if v.Pruned != v.Durable || len(v.Points) > 0 {
		t.Errorf("%s and %v are left", v.First, v.Points)
	}
}
