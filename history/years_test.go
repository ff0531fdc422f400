package history

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// rows calls base for each table that there was at a point, and row for its rows and
// then for what its records do to them; neither an old nor a new line is a truncate.
func (y *life) rows(b *branch, at record.LSN, base func(*record.Relation), row func(oid uint32, old, now []byte)) error {
	ctx := y.t.Context()
	v, err := y.repo.Log(y.secrets, b.id, nil).Load(ctx)
	if err != nil {
		return err
	}
	if v.PrunedAt(at) || v.First == 0 || at < v.First && v.Pruned == 0 {
		return errPruned
	}
	for _, i := range v.Incompletes {
		if i.Covers(at) {
			return fmt.Errorf("%s: %w", i.Name, errIncomplete)
		}
	}
	for _, info := range v.BasesAt(at) {
		x, err := v.Base(ctx, info)
		if err != nil {
			return err
		}
		base(&x.Relation)
		for _, p := range x.Pieces {
			lines, err := v.Store().Get(ctx, chunkstore.KindRows, *p.Rows)
			if err != nil {
				return err
			}
			for len(lines) > 0 {
				n := bytes.IndexByte(lines, '\n')
				row(info.Table, nil, lines[:n])
				lines = lines[n+1:]
			}
		}
		only := func(oid uint32) bool { return oid == info.Table }
		err = v.Records(ctx, info.RecordsFrom, at, only, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			if x.Snapshot.Sees(t.XID) {
				return nil
			}
			if !rel.SameShape(&x.Relation) {
				return fmt.Errorf("%s has another shape", rel)
			}
			row(rel.OID, r.Old.Text, r.New.Text)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var (
	errPruned     = errors.New("pruned")
	errIncomplete = errors.New("incomplete")
)

// readable reads what a restore to a point needs.
func (y *life) readable(b *branch, at record.LSN) error {
	return y.rows(b, at, func(*record.Relation) {}, func(uint32, []byte, []byte) {})
}

// check restores a moment and holds every table against the source's.
func (y *life) check(b *branch, m moment, why string) {
	y.t.Helper()
	got := map[uint32]*bag{}
	err := y.rows(b, m.at, func(rel *record.Relation) { got[rel.OID] = &bag{} }, func(oid uint32, old, now []byte) {
		s := got[oid]
		if old == nil && now == nil {
			*s = bag{}
		}
		if old != nil {
			s.sub(old)
		}
		if now != nil {
			s.add(now)
		}
	})
	if err != nil {
		y.t.Fatalf("day %d: restore %s of %s at %s (%s): %v", y.day, why, b.id, m.at, m.time, err)
	}
	y.restored++
	for oid, want := range m.sums {
		if got[oid] == nil || *got[oid] != want {
			y.t.Fatalf("day %d: restore %s of %s at %s (%s): table %d is %v, want %v", y.day, why, b.id, m.at, m.time, oid, got[oid], want)
		}
	}
	if len(got) != len(m.sums) {
		y.t.Fatalf("day %d: restore %s at %s: %d tables, want %d", y.day, why, m.at, len(got), len(m.sums))
	}
}

// checkPoints restores every older point of a lineage that is left, those that must be
// and its newest commit, and sees that a moment which was pruned says so.
func (y *life) checkPoints(b *branch) (n int) {
	y.t.Helper()
	v, err := y.repo.Log(y.secrets, b.id, nil).Load(y.t.Context())
	must(y.t, err)
	for _, p := range v.Points {
		m, ok := b.newest(p.At)
		if !ok || m.at != p.At {
			y.t.Fatalf("day %d: the oracle does not know the point %v", y.day, p)
		}
		y.check(b, m, p.Why+" "+p.Name)
		n++
	}
	for _, a := range b.due(y.plan.keep) {
		if !b.forgotten && !slices.ContainsFunc(v.Points, func(p KeptPoint) bool { return p.At == a.m.at }) {
			y.check(b, a.m, "asked for: "+a.why+" "+a.name)
		}
	}
	if m, ok := b.newest(v.Durable); ok && !b.forgotten {
		y.check(b, m, "the newest commit")
	}
	pruned := slices.DeleteFunc(slices.Clone(b.moments), func(m moment) bool { return !v.PrunedAt(m.at) })
	for _, m := range pruned[:min(len(pruned), 5)] {
		if err := y.readable(b, m.at); !errors.Is(err, errPruned) {
			y.t.Fatalf("day %d: the pruned commit %s: %v", y.day, m.at, err)
		}
		y.gone++
	}
	return n
}

// cost is what a restore reads.
type cost struct {
	requests int64
	bytes    int64
}

func (y *life) cost(at record.LSN) cost {
	y.t.Helper()
	gets, read := y.m.gets.Load(), y.m.read.Load()
	must(y.t, y.readable(y.branch, at))
	return cost{y.m.gets.Load() - gets, y.m.read.Load() - read}
}

// year is what was measured in one.
type year struct {
	weeks, stored, objects, live int64 // sums over the weeks, of data: what lasts is not in it
	whole                        int64 // with what lasts
	made                         int64 // objects stored
	checkpoint, load, restore    int64 // the largest, in bytes, requests, bytes
	listed                       int   // the most epochs that a picture lists
	lasting, lastingBytes        int64 // that came
	epochs, prunes               int
}

// mean is the weekly mean.
func (n *year) mean(sum int64) float64 { return float64(sum) / float64(max(n.weeks, 1)) }

// week measures after the weekly prune.
func (y *life) week(n *year) {
	y.t.Helper()
	var objects, stored int64
	must(y.t, y.m.Memory.List(y.t.Context(), "", func(i chunkstore.Info) error {
		objects++
		stored += i.Size
		return nil
	}))
	n.weeks++
	n.whole += stored
	n.stored += stored - y.m.lastingBytes.Load()
	n.objects += objects - y.m.lasting.Load()
	n.live += y.live()
	before := y.m.requests()
	v, err := y.repo.Log(y.secrets, y.branch.id, nil).Load(y.t.Context())
	must(y.t, err)
	n.load, n.listed = max(n.load, y.m.requests()-before), max(n.listed, len(v.Epochs))
}

// halfYear restores all points and prints a line.
func (y *life) halfYear(n *year, took time.Duration) {
	y.t.Helper()
	points := y.checkPoints(y.branch)
	for _, b := range y.past {
		points += y.checkPoints(b)
	}
	v, err := y.repo.Log(y.secrets, y.branch.id, nil).Load(y.t.Context())
	must(y.t, err)
	newest := y.cost(v.Durable)
	oldest := newest
	if len(v.Points) > 0 {
		oldest = y.cost(v.Points[0].At)
	}
	n.restore = max(n.restore, newest.bytes, oldest.bytes)
	var objects, stored int64
	must(y.t, y.m.Memory.List(y.t.Context(), "", func(i chunkstore.Info) error {
		objects++
		stored += i.Size
		return nil
	}))
	const k = 1 << 10
	y.t.Logf("%5d %9d %8d %7d %8d %8d %8d %7d %6d %6d %6d/%6d %6d/%6d %6d %6s", y.day, y.changes, objects, y.live()/k, stored/k, y.m.lastingBytes.Load()/k,
		y.m.made.Load(), y.epochs, len(v.Epochs), len(v.Bases), newest.requests, newest.bytes/k, oldest.requests, oldest.bytes/k, points, took.Round(time.Second))
}

// verify looks at everything.
func (y *life) verify() {
	y.t.Helper()
	r, err := Verify(y.t.Context(), y.repo, y.secrets, VerifyOptions{})
	must(y.t, err)
	if len(r.Damage) > 0 || len(r.Strange) > 0 {
		y.t.Fatalf("day %d: verify: %d damages: %v, strange: %v", y.day, len(r.Damage), r.Damage[:min(len(r.Damage), 10)], r.Strange)
	}
}

// years are 365 days.
const yearDays = 365

// lived plays a life and gives what each year was like.
func lived(t *testing.T, p lifePlan) (*life, []year) {
	y, began := newLife(t, p), time.Now()
	t.Logf("%5s %9s %8s %7s %8s %8s %8s %7s %6s %6s %13s %13s %6s %6s", "day", "changes", "objects", "live K", "stored K", "lasts K", "PUTs", "epochs", "listed", "bases", "newest: n/K", "oldest: n/K", "points", "took")
	years := make([]year, (p.days+yearDays-1)/yearDays)
	var made, lasting, lastingBytes int64
	epochs, pruned := 0, 0
	for y.day < p.days {
		y.oneDay()
		n := &years[(y.day-1)/yearDays]
		if y.day%7 == 0 {
			y.prune()
			y.week(n)
			y.check(y.branch, y.randomMoment(), "a random commit")
		}
		if y.day%182 == 0 || y.day == p.days {
			y.halfYear(n, time.Since(began))
		}
		if y.day%yearDays == 0 || y.day == p.days {
			n.made, n.epochs, n.prunes, n.checkpoint = y.m.made.Load()-made, y.epochs-epochs, y.pruned-pruned, y.m.largest.Swap(0)
			n.lasting, n.lastingBytes = y.m.lasting.Load()-lasting, y.m.lastingBytes.Load()-lastingBytes
			made, epochs, pruned = y.m.made.Load(), y.epochs, y.pruned
			lasting, lastingBytes = y.m.lasting.Load(), y.m.lastingBytes.Load()
			y.verify()
		}
	}
	t.Logf("%d changes in %d commits, %d epochs, %d copies, %d crashes, %d lineages, %d prunes that deleted, %d refused, %d restores, took %s",
		y.changes, y.xid-1000, y.epochs, y.bases, y.crashes, len(y.past)+1, y.pruned, y.refused, y.restored, time.Since(began).Round(time.Second))
	t.Logf("%4s %8s %8s %6s %8s %7s %7s %6s %6s %8s %10s %9s", "year", "stored K", "live K", "ratio", "objects", "PUTs/d", "chkpt", "load", "listed", "restore", "lasting", "lasting K")
	for i, n := range years {
		if n.weeks > 0 {
			t.Logf("%4d %8.0f %8.0f %6.2f %8.0f %7d %7d %6d %6d %8d %10d %9d", i+1, n.mean(n.whole)/1024, n.mean(n.live)/1024, float64(n.whole)/float64(n.live),
				n.mean(n.objects), n.made/yearDays, n.checkpoint, n.load, n.listed, n.restore, n.lasting, n.lastingBytes>>10)
		}
	}
	return y, years
}

// TestTenYears plays the life of a repository on a store with a clock of its own: 400
// days in each run, ten years of 100 M changes in `make soak`. What is stored follows what
// lives; what a reader has to read does not know how old the repository is.
func TestTenYears(t *testing.T) {
	p := lifePlan{days: 400, perDay: 4, changes: 1_000_000, keep: Keep{EveryCommit: 14 * day, Weekly: 8, Monthly: 12}, seed: 6, adopt: []int{200, 700, 2000}}
	if testing.Short() {
		p.days, p.changes = 100, 100_000
	}
	if os.Getenv("LIFEBOAT_SOAK") != "" {
		p.days, p.perDay, p.changes = 10*yearDays, 12, 100_000_000
	}
	y, years := lived(t, p)
	if y.changes < p.changes {
		t.Errorf("%d changes", y.changes)
	}
	for i := range years {
		// The last epoch is found by some tries and read, a checkpoint in it or before it, the
		// rest of its epoch. Everything else is in the checkpoint.
		if n := &years[i]; n.load > 60 {
			t.Errorf("year %d: a picture took %d requests", i+1, n.load)
		} else if n.checkpoint > 48<<10 {
			t.Errorf("year %d: a checkpoint of %d bytes", i+1, n.checkpoint)
		} else if n.listed > 200 {
			t.Errorf("year %d: a picture lists %d epochs", i+1, n.listed)
		}
	}
	if y.crashes == 0 || y.restored == 0 || len(years) > 1 && (y.pruned == 0 || y.refused == 0 || y.gone == 0 || len(y.past) == 0) {
		t.Errorf("%d crashes, %d restores, %d prunes, %d refused, %d commits that were gone, %d adoptions", y.crashes, y.restored, y.pruned, y.refused, y.gone, len(y.past))
	}
	if len(years) == 10 {
		for _, bad := range flat(&years[3], &years[9]) {
			t.Errorf("years 4 and 10: %s", bad)
		}
	}
}

// flat compares two years in which there is one lineage, no other is kept any more, and
// all of the sparse points that keep asks for are there.
func flat(a, b *year) (bad []string) {
	say := func(format string, x ...any) { bad = append(bad, fmt.Sprintf(format, x...)) }
	// What is stored are the distinct rows and records of the kept points. The records of the
	// window and the rows that change between the points are as many in each year. Rows that
	// only come and stay lie in one chunk for all points, but for a table that was altered:
	// its lines are others after it, and it happens to each twice a year. So what is stored
	// may grow by what lives in up to four shapes.
	const shapes, noise = 4, 1.1
	grown := b.mean(b.live) - a.mean(a.live)
	if was, now := a.mean(a.stored), b.mean(b.stored); now > was*noise+shapes*grown {
		say("%.0f bytes are stored, %.0f were; %.0f more live", now, was, grown)
	}
	// A chunk holds 512 rows, which are 4 KiB or more when sealed.
	if was, now := a.mean(a.objects), b.mean(b.objects); now > was*noise+shapes*grown/(4<<10) {
		say("%.0f objects are stored, %.0f were; %.0f more bytes live", now, was, grown)
	}
	// With all that lasts, for each live byte.
	if was, now := float64(a.whole)/float64(a.live), float64(b.whole)/float64(b.live); now > was*1.2 {
		say("%.2f bytes are stored for each that lives, %.2f were", now, was)
	}
	// A picture lists what is kept; of each prune it holds some numbers for ever.
	if n := a.checkpoint*5/4 + 6*64*int64(b.prunes); b.checkpoint > n {
		say("a checkpoint of %d bytes, %d were the largest", b.checkpoint, a.checkpoint)
	}
	// The first and last entries of epochs and notes stay for ever, so they must not get
	// larger or more with age. A note of a prune is in every log.
	if b.lasting > a.lasting*5/4 || b.lastingBytes > a.lastingBytes*5/4 {
		say("in a year %d entries and %d bytes came to stay, %d and %d did", b.lasting, b.lastingBytes, a.lasting, a.lastingBytes)
	}
	if float64(b.made) > float64(a.made)*noise+shapes*grown/(4<<10) {
		say("%d objects were stored in a year, %d were", b.made, a.made)
	}
	return bad
}

// Each of the laws of flat can be broken.
func TestFlat(t *testing.T) {
	// Years 4 and 10 as they were, rounded.
	a := year{weeks: 52, stored: 52 * 57_000_000, objects: 52 * 3460, live: 52 * 3_300_000, whole: 52 * 61_000_000, made: 18_600, checkpoint: 14_000, lasting: 1280, lastingBytes: 1_060_000, prunes: 26}
	b := year{weeks: 52, stored: 52 * 62_000_000, objects: 52 * 3740, live: 52 * 6_400_000, whole: 52 * 73_000_000, made: 18_900, checkpoint: 16_000, lasting: 1350, lastingBytes: 1_240_000, prunes: 26}
	if bad := flat(&a, &b); len(bad) > 0 {
		t.Fatal(bad)
	}
	for i, grow := range []func(*year){
		func(n *year) { n.stored += n.stored / 3 },
		func(n *year) { n.objects *= 2 },
		func(n *year) { n.whole *= 2 },
		func(n *year) { n.checkpoint *= 2 },
		func(n *year) { n.lasting += n.lasting / 3 },
		func(n *year) { n.lastingBytes += n.lastingBytes / 3 },
		func(n *year) { n.made += n.made / 3 },
	} {
		c := b
		if grow(&c); len(flat(&a, &c)) != 1 {
			t.Errorf("%d: %v", i, flat(&a, &c))
		}
	}
}
