package agent

import (
	"context"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/testpg"
)

// reads counts what is read from a backend.
type reads struct {
	chunkstore.Backend
	n atomic.Int64
}

// Get counts and passes on.
func (r *reads) Get(ctx context.Context, key string) ([]byte, error) {
	r.n.Add(1)
	return r.Backend.Get(ctx, key)
}

// TestProgress: the watchdog is fed while the agent works or has proven that there
// is nothing to do, and not while the store or the source hangs.
func TestProgress(t *testing.T) {
	var g *gate
	store := &reads{}
	b := newBench(t, testpg.Start(t, 18, nil), func(inner chunkstore.Backend) chunkstore.Backend {
		g = newGate(inner)
		store.Backend = g
		return store
	}, "CREATE TABLE k (id serial PRIMARY KEY, v text)")
	b.db.Exec(t, "ALTER SYSTEM SET wal_sender_timeout = '4s'", "SELECT pg_reload_conf()")
	var fed atomic.Int64
	b.o.Progress = func() { fed.Add(1) }
	grows := func(n *atomic.Int64, by int64, what string) {
		t.Helper()
		from := n.Load()
		testpg.WaitFor(t, 2*time.Minute, what, func() bool { return n.Load() >= from+by })
	}
	still := func(what string) {
		t.Helper()
		from := fed.Load()
		began := time.Now()
		testpg.WaitFor(t, 2*time.Minute, "three seconds: several looks at the store and answers of the source", func() bool { return time.Since(began) > 3*time.Second })
		if n := fed.Load(); n != from {
			t.Errorf("%s, and yet progress was reported %d times", what, n-from)
		}
	}
	b.attach()
	b.run()
	b.waitReady()
	b.mark("quiet") // everything that the beginning brings is done
	grows(&fed, 3, "an idle agent to say that it lives")

	g.shut()
	b.db.Exec(t, "INSERT INTO k (v) VALUES ('waits')")
	testpg.WaitFor(t, 2*time.Minute, "a flush to wait for the store", func() bool { return g.waiting() > 0 })
	still("the store hangs")
	g.reopen()
	grows(&fed, 1, "the flush")

	// A walsender that is stopped keeps its connection: only its silence tells.
	pid, err := strconv.Atoi(b.db.Query(t, "SELECT pid FROM pg_stat_replication")[0][0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	grows(&store.n, 2, "the repository to be asked")
	still("the source hangs")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	grows(&fed, 1, "the source to be heard again")

	// A transaction that never seems to end is progress as it arrives. It commits on
	// the server at once; its parts are stored one by one.
	from := fed.Load()
	b.db.Exec(t, "INSERT INTO k (v) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 8000) n")
	b.mark("large")
	if n := fed.Load() - from; n < 6 {
		t.Errorf("progress was reported %d times during 8 MB of one transaction, want one for each part", n)
	}
}
