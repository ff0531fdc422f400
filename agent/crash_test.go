package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/testpg"
)

// gated is newBench on its own server, with a gate before the store.
func gated(t *testing.T, sql ...string) (*bench, *gate) {
	var g *gate
	b := newBench(t, testpg.Start(t, 18, nil), func(inner chunkstore.Backend) chunkstore.Backend {
		g = newGate(inner)
		return g
	}, sql...)
	return b, g
}

// TestGapSurvivesACrash: run --new-base that dies right after its epoch entry has
// named the gap already.
func TestGapSurvivesACrash(t *testing.T) {
	b, g := gated(t, "CREATE TABLE k (id serial PRIMARY KEY, v text)", "INSERT INTO k (v) VALUES ('first')")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.mark("before")
	stop()
	b.db.Exec(t, "SELECT pg_drop_replication_slot('"+b.db.Name+"')", "INSERT INTO k (v) VALUES ('in the gap')")
	ctx, crash := context.WithCancel(t.Context())
	g.mu.Lock()
	g.fail = func(key string) (before, after bool) {
		if strings.HasPrefix(key, "log/") && strings.HasSuffix(key, "/0000000000") {
			return false, false // the epoch itself
		}
		if v := b.view(); !v.Ended && v.Head.Seq == 0 { // it is open: nothing more is written
			crash()
			return true, false
		}
		return false, false
	}
	g.mu.Unlock()
	o := b.o
	o.NewBase = true
	_ = Run(ctx, b.repo, b.agentSecrets(), o)
	g.mu.Lock()
	g.fail = nil
	g.mu.Unlock()
	b.run()
	testpg.WaitFor(t, 2*time.Minute, "the gap to be named and closed", func() bool {
		v := b.view()
		return len(v.Incompletes) == 1 && v.Incompletes[0].Until > v.Incompletes[0].From
	})
	b.mark("after")
	b.wantLive()
}

// TestDroppedBeforeItsFirstCopy: a new table that vanished while no agent ran, before
// it was ever copied, does not stay incomplete for ever.
func TestDroppedBeforeItsFirstCopy(t *testing.T) {
	b, g := gated(t, "CREATE TABLE k (id serial PRIMARY KEY, v text)")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "CREATE TABLE brief (id int PRIMARY KEY)", "INSERT INTO brief VALUES (1)")
	g.mu.Lock()
	g.fail = func(key string) (before, after bool) { return strings.HasPrefix(key, "chunk/"), false } // no copy succeeds
	g.mu.Unlock()
	b.db.Exec(t, "INSERT INTO k (v) VALUES ('traffic')")
	testpg.WaitFor(t, 2*time.Minute, "the new table to be named", func() bool { return len(openIncompletes(b.view())) > 0 })
	stop()
	b.db.Exec(t, "DROP TABLE brief")
	g.mu.Lock()
	g.fail = nil
	g.mu.Unlock()
	b.run()
	testpg.WaitFor(t, 2*time.Minute, "its interval to be closed", func() bool { return len(openIncompletes(b.view())) == 0 })
}

// runWhileWritten runs the agent until it ends by itself, and writes all the while.
func (b *bench) runWhileWritten(sql string) (err error) {
	b.t.Helper()
	done := make(chan error, 1)
	go func() { done <- Run(b.t.Context(), b.repo, b.agentSecrets(), b.o) }()
	testpg.WaitFor(b.t, 2*time.Minute, "run to end", func() bool {
		b.db.Exec(b.t, sql)
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	return err
}

// TestBudgetWithoutStore: the source's disk does not fill because the store is away.
func TestBudgetWithoutStore(t *testing.T) {
	b, g := gated(t, "CREATE TABLE k (id serial PRIMARY KEY, v text)")
	b.attach()
	b.db.Exec(t, "INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
	g.mu.Lock()
	g.fail = func(string) (before, after bool) { return true, false }
	g.mu.Unlock()
	b.o.Tuning.WALBudget = 1 << 20
	err := b.runWhileWritten("INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 100)")
	if !errors.Is(err, ErrSourceLost) || !strings.Contains(err.Error(), "wal_budget") {
		t.Errorf("run without a store: %v, want the slot given up", err)
	}
	if n := len(b.db.Query(t, "SELECT 1 FROM pg_replication_slots")); n != 0 {
		t.Errorf("%d slots left", n)
	}
}
