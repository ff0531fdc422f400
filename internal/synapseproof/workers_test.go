package synapseproof

import (
	"math/rand/v2"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/synapse"
)

// TestWorkers: a homeserver of several processes, an event persister, a federation
// sender and a generic worker beside the main one. They write positions of their
// own into stream_positions, and wait for each other by the ids that sequences
// give; so capture under load is one half, and the other is that after a rollback
// all of them boot, twice, and a client finds what it must find. The sender has
// nobody to send to here.
func TestWorkers(t *testing.T) {
	l := newLab(t, func(o *homeserver.Options) {
		testpg.Need(t, "Valkey", o.Install.Redis != "", "tools")
		o.Workers = true
		o.Extra = map[string]any{"max_event_delay_duration": "24h"}
	})
	rng := rand.New(rand.NewPCG(testpg.Seed(t), 5))
	oracle := testpg.Begin(t, l.cluster)
	l.attach()
	k := l.start()
	l.ready()
	load := l.underLoad(homeserver.Load{Seed: rng.Uint64(), Users: 6, Purge: 3 * time.Second})
	<-load.working
	<-time.After(15 * time.Second)
	did := load.stop(t)
	for _, f := range did.Failures {
		t.Errorf("a client failed: %s", f)
	}
	p := newPast(t, l)
	p.before()
	start := l.mark("before the purge")
	p.after()
	l.mark("after")
	l.settled()
	l.verify()
	if rows := l.db.Query(t, "SELECT count(*) FROM stream_positions WHERE instance_name = 'persister'"); rows[0][0] == "0" {
		t.Error("the persister has no position: it wrote no event")
	}
	k.Stop(t)
	if err := l.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.healthy(l.server)
	t.Logf("%d steps %v, refused by the homeserver %v", did.Total(), did.Done, did.Refused)

	plans, tried, _ := l.points(rng, l.view(), 3)
	if len(plans) < 3 {
		t.Errorf("only %d of %d commits can be restored exactly, want 3", len(plans), tried)
	}
	l.prove(oracle, plans)

	at := l.firstInsert(start, "scheduled_tasks")
	r := l.restoreTo("lsn:"+at.String(), rollback)
	if r.report.Mode != synapse.Rollback {
		t.Errorf("the mode was %q", r.report.Mode)
	}
	t.Run("first boot", func(t *testing.T) { p.boot(t, r.DSN) })
	t.Run("second boot", func(t *testing.T) { p.boot(t, r.DSN) })
}
