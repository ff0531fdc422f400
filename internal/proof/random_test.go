package proof

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// random is how hard a random test is.
type random struct {
	major int
	// kills of the agent, each after a random moment, half of them within a second,
	// the others within life; restarts of the server, spread among them.
	kills    int
	life     time.Duration
	restarts []string
	// points that are restored, and how many of them must be exact.
	points, exact int
}

// TestRandomLoad is the proof of the promise: a mixed load on PostgreSQL 18, the
// agent killed, the server restarted, the store failing, and any commit equal to
// physical recovery.
func TestRandomLoad(t *testing.T) {
	t.Parallel()
	random{
		major: testpg.Newest, kills: 22, life: 9 * time.Second, restarts: []string{"fast", "immediate", "immediate"},
		points: 26, exact: 21,
	}.run(t)
}

// TestRandomLoad15 is the same on PostgreSQL 15, shorter.
func TestRandomLoad15(t *testing.T) {
	t.Parallel()
	random{major: testpg.Oldest, kills: 6, life: 6 * time.Second, restarts: []string{"immediate"}, points: 5, exact: 3}.run(t)
}

// run plays it once, or with LIFEBOAT_SOAK=30m again and again for that time, each
// time with other choices.
func (r random) run(t *testing.T) {
	soak := soakTime(t)
	if soak == 0 {
		r.once(t)
		return
	}
	for begin, n := time.Now(), 1; time.Since(begin) < soak && !t.Failed(); n++ {
		t.Run(strconv.Itoa(n), r.once)
	}
}

func (r random) once(t *testing.T) {
	rng := rand.New(rand.NewPCG(testpg.Seed(t), uint64(r.major)))
	l := newLab(t, r.major, testpg.LoadSchema)
	l.child.Tuning.MergeEvery = 4 * time.Second
	l.child.Tuning.RefreshMin = 64 << 10
	oracle := testpg.Begin(t, l.cluster)
	list := listen(t, l.db) // before the load: PostgreSQL makes slots that cannot be followed (cdc.ErrUndecodable)
	loading, stop := context.WithCancel(t.Context())
	defer stop()
	counts := make(chan testpg.Counts, 1)
	go func() { counts <- phases(loading, l.db.DSN, rng.Uint64()) }()
	l.attach()
	killed := r.kill(l, rng)
	k := l.start(nil)
	l.until(2*time.Minute, "merges and a copy anew", func(v *history.View) bool { return len(v.Histories) >= 3 && refreshed(v) > 0 })
	stop()
	c := <-counts
	for _, f := range c.Failures {
		t.Errorf("a statement of the application failed: %s", f)
	}

	l.mark("end")
	l.settled()
	l.mark("settled")
	l.live()
	k.Stop(t)
	l.verify()

	v := l.view()
	all := commits(t, v)
	held := list.hold(t, v)
	points, share := r.mix(l, v, choose(rng, v, all, 5*r.points))
	got := l.prove(oracle, points)
	l.prune(v, got.held)
	again := refreshed(v)
	c.Failures = nil
	t.Logf("%d kills; load %+v; %d commits (%d held one by one) in %d epochs, %d histories, %d segments, %d bases of which %d are refreshes; %d points exact (%d tables), %d refused; %d%% of all commits are exact",
		killed, c, len(all), held, len(v.Epochs), len(v.Histories), len(v.Segments), len(v.Bases), again, got.exact, got.tables, got.refused, share)
	for what, ok := range map[string]bool{
		"kills": killed >= r.kills, "histories": len(v.Histories) >= 3, "refreshes": again > 0, "exact points": got.exact >= r.exact,
	} {
		if !ok {
			t.Errorf("too few %s", what)
		}
	}
}

// mix takes points at random, so that the agreed number is exact and the others lie
// inside incomplete intervals, if there are any. It also gives the share of commits,
// in percent, that are exact.
func (r random) mix(l *lab, v *history.View, all []point) (out []point, share int) {
	var exact, inside []point
	for _, p := range all {
		is := true
		l.plan(v, p, &is)
		if is {
			exact = append(exact, p)
		} else {
			inside = append(inside, p)
		}
	}
	share = 100 * len(exact) / max(1, len(all))
	rng := rand.New(rand.NewPCG(uint64(len(all)), uint64(r.major)))
	rng.Shuffle(len(inside), func(i, j int) { inside[i], inside[j] = inside[j], inside[i] })
	rng.Shuffle(len(exact), func(i, j int) { exact[i], exact[j] = exact[j], exact[i] })
	inside = inside[:min(len(inside), r.points-r.exact)]
	out = append(inside, exact[:min(len(exact), r.points-len(inside))]...)
	slices.SortFunc(out, func(a, b point) int { return cmp.Compare(a.want, b.want) })
	return out, share
}

// phases loads the database until ctx ends; now and then tables come and go.
func phases(ctx context.Context, dsn string, seed uint64) testpg.Counts {
	var sum testpg.Counts
	for i := uint64(0); ctx.Err() == nil; i++ {
		load := testpg.Load{Seed: seed%1e9 + i, Clients: 4, Rate: 100, Replica: true, Prepared: true, Settled: i%2 == 0}
		d := 15 * time.Second
		if !load.Settled {
			d = time.Second
		}
		phase, cancel := context.WithTimeout(ctx, d)
		c := load.Run(phase, dsn)
		cancel()
		sum.Commits += c.Commits
		sum.Rollbacks += c.Rollbacks
		sum.Statements += c.Statements
		sum.Prepared += c.Prepared
		sum.Truncates += c.Truncates
		sum.Created += c.Created
		sum.Dropped += c.Dropped
		sum.Large += c.Large
		sum.Reconnects += c.Reconnects
		sum.Failures = append(sum.Failures, c.Failures...)
	}
	return sum
}

// kill runs agents one after the other on a store that fails, and kills each; the
// server is restarted now and then.
func (r random) kill(l *lab, rng *rand.Rand) (killed int) {
	l.t.Helper()
	k := l.start(nil)
	l.ready()
	restarts := slices.Clone(r.restarts)
	for killed < r.kills {
		within := r.life
		if rng.IntN(2) == 0 {
			within = time.Second
		}
		die := time.After(time.Duration(rng.Int64N(int64(within))))
		if n := len(restarts); n > 0 && killed >= r.kills*(len(r.restarts)-n+1)/(len(r.restarts)+1) {
			l.cluster.Restart(l.t, restarts[0])
			restarts = restarts[1:]
		}
		select {
		case <-die:
			k.Kill()
			killed++
		case <-k.Done:
			switch {
			case k.Code() == -1: // the store's fault was a kill
				killed++
			case k.Code() != exitLater && !strings.Contains(k.Tail(3), errInjected.Error()):
				l.t.Errorf("the agent ended with %d:\n%s", k.Code(), k.Tail(10))
			}
		}
		k = l.start(func(c *childConfig) {
			c.Faults = faults{Seed: rng.Uint64(), Before: 5, After: 5, Read: 1, Kill: 1}
		})
	}
	k.Kill()
	return killed
}

// refreshed counts the bases of tables that had one.
func refreshed(v *history.View) int {
	n, seen := 0, map[uint32]bool{}
	for _, b := range v.Bases {
		if seen[b.Table] {
			n++
		}
		seen[b.Table] = true
	}
	return n
}
