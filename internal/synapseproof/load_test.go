package synapseproof

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
)

// The measure of TestSynapseUnderLoad.
const (
	loadTime = 60 * time.Second // of the load, at least
	kills    = 4                // of the agent, while the load goes on
	exact    = 12               // points that are restored
)

// background is a load that runs beside a test.
type background struct {
	end     context.CancelFunc
	working chan struct{} // closed after the first steps
	result  chan *homeserver.Result
}

// underLoad begins a load on the lab's homeserver.
func (l *lab) underLoad(load homeserver.Load) *background {
	ctx, cancel := context.WithCancel(l.t.Context())
	b := &background{end: cancel, working: make(chan struct{}), result: make(chan *homeserver.Result, 1)}
	l.t.Cleanup(cancel)
	begun := sync.OnceFunc(func() { close(b.working) })
	load.Enough = func(done map[string]int) bool {
		if done["message"] > 0 {
			begun()
		}
		return false
	}
	go func() {
		defer begun()
		r, err := load.Run(ctx, l.admin)
		if err != nil {
			l.t.Error(err)
		}
		b.result <- r
	}()
	return b
}

// stop ends the load and gives what it did.
func (b *background) stop(t testing.TB) *homeserver.Result {
	t.Helper()
	b.end()
	r := <-b.result
	if r == nil {
		t.FailNow()
	}
	return r
}

// TestSynapseUnderLoad is the promise, on a homeserver: Lifeboat is attached while
// people talk and an admin purges, its agent is killed again and again, the
// homeserver notices nothing, and any commit equals physical recovery.
func TestSynapseUnderLoad(t *testing.T) {
	rng := rand.New(rand.NewPCG(testpg.Seed(t), 1))
	l := newLab(t)
	l.child.Tuning.MergeEvery = 8 * time.Second
	l.child.Tuning.RefreshMin = 64 << 10
	oracle := testpg.Begin(t, l.cluster)
	load := l.underLoad(homeserver.Load{Seed: rng.Uint64(), Users: 8, Purge: 4 * time.Second})
	<-load.working
	over := time.After(loadTime)
	l.attach()
	k := l.start()
	l.ready()
	for range kills {
		<-time.After(time.Second + time.Duration(rng.Int64N(int64(5*time.Second))))
		if k.Ended() {
			t.Fatalf("the agent ended by itself with %d:\n%s", k.Code(), k.Tail(25))
		}
		k.Kill()
		k = l.start()
	}
	<-over
	did := load.stop(t)
	l.healthy(l.server)
	for _, f := range did.Failures {
		t.Errorf("a client failed: %s", f)
	}

	l.mark("end")
	l.settled()
	l.verify()
	l.mark("verified")
	k.Stop(t)

	v := l.view()
	plans, tried, refused := l.points(rng, v, exact)
	tables := l.prove(oracle, plans)
	for _, i := range v.Incompletes {
		t.Logf("incomplete: %s (%s, %s): %s", i.Name, i.From, i.Until, i.Reason)
	}
	if len(refused) > 0 {
		t.Logf("the first refused: %v", refused[0])
	}
	t.Logf("%d steps %v, refused by the homeserver %v; %d kills; %d epochs, %d histories, %d segments, %d bases; of %d points tried %d exact (%d tables)",
		did.Total(), did.Done, did.Refused, kills, len(v.Epochs), len(v.Histories), len(v.Segments), len(v.Bases), tried, len(plans), tables)
	l.enough(did, v, len(plans))
}

// enough holds the test against itself: a load that did not do what it is for
// proves nothing.
func (l *lab) enough(did *homeserver.Result, v *history.View, points int) {
	l.t.Helper()
	for _, kind := range []string{
		"message", "edit", "redaction", "reaction", "thread", "join", "to-device", "claim keys", "receipt", "read marker",
		"upload", "account data", "state", "login", "create room", "purge history", "delete room", "regenerate directory",
	} {
		if did.Done[kind] == 0 {
			l.t.Errorf("the load has no %s", kind)
		}
	}
	if points < 10 {
		l.t.Errorf("%d points were exact, want 10 at least", points)
	}
	tables := map[uint32]bool{}
	for _, b := range v.Bases {
		tables[b.Table] = true
	}
	if len(v.Bases) <= len(tables) {
		l.t.Errorf("no table was copied twice: no digest was held against what the records predict")
	}
	if len(v.Histories) < 2 {
		l.t.Errorf("%d merges, want 2 at least", len(v.Histories))
	}
}
