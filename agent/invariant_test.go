package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

func (b *bench) confirmed() record.LSN {
	b.t.Helper()
	rows := b.db.Query(b.t, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '"+b.o.Source.Slot+"'")
	l, err := record.ParseLSN(rows[0][0])
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

// wantLive fails unless every table of the source is what the repository predicts.
func (b *bench) wantLive() {
	b.t.Helper()
	res, err := VerifyLive(b.t.Context(), b.repo, b.operator, b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range res {
		if !r.OK {
			b.t.Errorf("%s (%d rows): %s", r.Table, r.Rows, r.Why)
		}
	}
}

// TestG1_ChunksEntryConfirm holds the order: with the store shut or failing, the
// slot never moves past what is durable, and a failed create, persisted or not,
// loses and doubles nothing.
func TestG1_ChunksEntryConfirm(t *testing.T) {
	var g *gate
	b := newBench(t, testpg.Shared(t, 18), func(d chunkstore.Backend) chunkstore.Backend {
		g = newGate(d)
		return g
	}, "CREATE TABLE k (id serial PRIMARY KEY, v text)")
	b.attach()
	stop := b.run()
	b.waitReady()
	before := b.mark("before")
	g.shut()
	b.db.Exec(t, "INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
	testpg.WaitFor(t, 2*time.Minute, "a create that waits", func() bool { return g.waiting() > 0 })
	if at := b.confirmed(); at > before {
		t.Errorf("confirmed %s while nothing after %s is durable", at, before)
	}
	for i := range 8 {
		n := 0
		g.mu.Lock()
		g.fail = func(key string) (bool, bool) {
			if n++; n > 2 || !strings.HasPrefix(key, "log/") && i%4 < 2 {
				return false, false
			}
			return i%2 == 0, i%2 == 1
		}
		g.mu.Unlock()
		if i == 0 {
			g.reopen()
		}
		b.db.Exec(t, fmt.Sprintf("INSERT INTO k (v) VALUES ('round %d')", i))
		b.mark(fmt.Sprintf("round %d", i))
	}
	b.wantLive()
	stop()
	if got, want := b.confirmed(), b.view().Durable; got > want {
		t.Errorf("confirmed %s, durable %s", got, want)
	}
}

// TestG2_NoStateThatMatters: without the epoch keys, and then without the whole
// state directory but for what the operator's key brings back, the agent goes on.
func TestG2_NoStateThatMatters(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id serial PRIMARY KEY, v text)", "INSERT INTO k (v) VALUES ('first')")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "INSERT INTO k (v) VALUES ('before the loss')")
	b.mark("before")
	stop()
	id, err := Lineage(b.o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b.o.State); err != nil {
		t.Fatal(err)
	}
	if err := SaveSecrets(b.o.State, b.operator); err != nil {
		t.Fatal(err)
	}
	if err := saveLineage(b.o.State, id); err != nil {
		t.Fatal(err)
	}
	b.db.Exec(t, "UPDATE k SET v = v || ' and after'")
	stop = b.run()
	b.mark("after")
	testpg.WaitFor(t, 2*time.Minute, "the re-copy", func() bool {
		v := b.view()
		return len(v.Bases) >= 2 && len(openIncompletes(v)) == 0
	})
	b.wantLive()
	stop()
}

func openIncompletes(v *history.View) (open []history.Incomplete) {
	for _, i := range v.Incompletes {
		if i.Until == 0 {
			open = append(open, i)
		}
	}
	return open
}

// TestG3_MemoryBounded: while nobody takes batches, the stream's goroutine waits
// instead of holding more, and goes on without a loss.
func TestG3_MemoryBounded(t *testing.T) {
	const limit, commits = 1 << 10, 2000
	c := newCapture(nil, chunkstore.Secret{}, 0, limit, (&Options{}).defaults().Log, time.Now)
	c.stream = new(cdc.Stream)
	rel := &record.Relation{OID: 7, Schema: "public", Name: "t", Columns: []record.Column{}, Identity: record.Full}
	c.tables[7] = &table{oid: 7, rel: rel, known: true}
	st := &streamTable{msg: cdc.StreamRelation{OID: 7, Schema: "public", Name: "t", Replident: 'f'}}
	st.table, st.from, st.rel = c.tables[7], rel, rel
	c.seen[7] = st
	done := make(chan error, 1)
	go func() {
		for i := range commits {
			at := record.LSN(i*10 + 1)
			err := c.Begin(record.XID(i+1), at, 0)
			if err == nil {
				err = c.Truncate([]uint32{7}, 0)
			}
			if err == nil {
				err = c.Commit(at, at+5, 0)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	held := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := c.cur.size()
		for _, b := range c.ready {
			n += b.size()
		}
		return n
	}
	testpg.WaitFor(t, 2*time.Minute, "the stream to wait", func() bool { return held() >= 2*limit })
	seen := 0
	for seen < commits {
		if h := held(); h > 2*limit+100 {
			t.Fatalf("%d bytes held, want at most two batches of %d", h, limit)
		}
		if b, _ := c.take(0, true); b != nil {
			seen += len(b.txs)
			if err := b.segment(0).Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if seen != commits {
		t.Errorf("%d transactions taken, want %d", seen, commits)
	}
}

// TestG4_FirstPermanentErrorEndsRun: an error that does not go away ends Run at
// once, a passing one does not.
func TestG4_FirstPermanentErrorEndsRun(t *testing.T) {
	c := testpg.Start(t, 18, nil)
	b := newBench(t, c, nil, "CREATE TABLE k (id serial PRIMARY KEY)")
	b.attach()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, b.repo, b.agentSecrets(), b.o) }()
	b.waitReady()
	c.Restart(t, "immediate")
	b.db.Exec(t, "INSERT INTO k DEFAULT VALUES")
	b.mark("after the restart")
	select {
	case err := <-done:
		t.Fatalf("run ended at a restart of the server: %v", err)
	default:
	}
	b.db.Exec(t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots",
		"DO $$ BEGIN FOR i IN 1..100 LOOP BEGIN PERFORM pg_drop_replication_slot('"+b.o.Source.Slot+"'); EXIT; EXCEPTION WHEN object_in_use THEN PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots; PERFORM pg_sleep(0.02); END; END LOOP; END $$")
	select {
	case err := <-done:
		if !errors.Is(err, ErrSourceLost) {
			t.Errorf("run ended with %v, want ErrSourceLost", err)
		}
	case <-time.After(2 * time.Minute):
		t.Error("run goes on without its slot")
	}
}

// TestG5_PlantedFaultsAreFound: a row that was dropped, doubled or altered on its
// way into the log, and a line of a base that was exchanged, are found by the next
// copy: noted, shown by status, and the new copy is exact again.
func TestG5_PlantedFaultsAreFound(t *testing.T) {
	for _, f := range []struct {
		name  string
		plant plant
	}{
		{"dropped", plant{row: onMark(func([]byte) int { return 0 })}},
		{"doubled", plant{row: onMark(func([]byte) int { return 2 })}},
		{"altered", plant{row: onMark(func(l []byte) int {
			copy(l[bytes.Index(l, []byte("MARK")):], "mark")
			return 1
		})}},
		{"base", plant{line: func(_ string, line []byte) {
			if i := bytes.Index(line, []byte("first")); i >= 0 {
				copy(line[i:], "wrong")
			}
		}}},
		{"none", plant{}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id serial PRIMARY KEY, v text)", "INSERT INTO k (v) VALUES ('first')")
			b.attach()
			b.o.plant = f.plant
			stop := b.run()
			b.waitReady()
			b.db.Exec(t, "INSERT INTO k (v) VALUES ('MARK'), ('clean')", "UPDATE k SET v = v || '.' WHERE v = 'clean'")
			b.mark("faulty")
			b.db.Exec(t, "INSERT INTO k (v) VALUES ('later')") // the next copy is exact after the mark only
			stop()
			b.o.plant = plant{}
			b.o.Tuning.RefreshEvery = time.Millisecond
			b.run()
			testpg.WaitFor(t, 2*time.Minute, "the next copy", func() bool { return len(b.view().Bases) >= 2 })
			b.o.Tuning.RefreshEvery = 0
			found := func() bool { return len(b.view().Mismatches) > 0 }
			if first := b.view().Bases[0]; first.Proved {
				t.Errorf("the first base counts as proved: %+v", first)
			}
			if second := b.view().Bases[1]; second.Proved != (f.name == "none") {
				t.Errorf("the second copy: %+v", second)
			}
			if f.name == "none" {
				if p := b.view().Proofs(); len(p) != 1 || p[0].ProvedAt == 0 || p[0].ProvedTime == 0 {
					t.Errorf("proofs %+v", p)
				}
				if found() {
					t.Errorf("a mismatch without a fault: %+v", b.view().Mismatches)
				}
				return
			}
			testpg.WaitFor(t, 2*time.Minute, "the mismatch", found)
			r, err := Status(t.Context(), b.repo, b.agentSecrets(), b.o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Mismatches) == 0 || !strings.Contains(r.Mismatches[0], "public.k") {
				t.Errorf("status says %q, want the table named", r.Mismatches)
			}
			b.wantLive()
			var inexact *restore.IncompleteError
			if _, err := b.restoreAt("mark:faulty", restore.Options{}); !errors.As(err, &inexact) {
				t.Errorf("restore where a copy contradicted the records: %v, want the table named", err)
			}
		})
	}
}

func onMark(f func(line []byte) int) func(string, record.Op, []byte) int {
	return func(_ string, op record.Op, line []byte) int {
		if op == record.Insert && bytes.Contains(line, []byte("MARK")) {
			return f(line)
		}
		return 1
	}
}

// TestStopWithoutStore: SIGTERM while the store refuses does not end as if all was
// durable, and what was received comes again.
func TestStopWithoutStore(t *testing.T) {
	var g *gate
	b := newBench(t, testpg.Shared(t, 18), func(d chunkstore.Backend) chunkstore.Backend {
		g = newGate(d)
		return g
	}, "CREATE TABLE k (id serial PRIMARY KEY)")
	b.attach()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	b.o.Tuning.RPO = time.Hour
	go func() { done <- Run(ctx, b.repo, b.agentSecrets(), b.o) }()
	b.waitReady()
	g.mu.Lock()
	g.fail = func(string) (bool, bool) { return true, false }
	g.mu.Unlock()
	b.db.Exec(t, "INSERT INTO k DEFAULT VALUES")
	at := b.db.Query(t, "SELECT pg_current_wal_flush_lsn()")[0][0]
	testpg.WaitFor(t, 2*time.Minute, "the commit to be sent", func() bool {
		return b.db.Query(t, "SELECT count(*) FROM pg_stat_replication WHERE sent_lsn >= '"+at+"'")[0][0] != "0"
	})
	cancel()
	select {
	case err := <-done:
		if err == nil || !errors.Is(err, ErrLater) {
			t.Errorf("run ended with %v, want an error that says that something was not durable", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("run did not end")
	}
	g.mu.Lock()
	g.fail = nil
	g.mu.Unlock()
	b.o.Tuning.RPO = 50 * time.Millisecond
	b.run()
	b.mark("again")
	b.wantLive()
}
