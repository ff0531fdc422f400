package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/restore"
)

// childEnv names the environment variable that makes the test binary an agent.
const childEnv = "LIFEBOAT_TEST_AGENT"

// childConfig is what a child needs to run the agent.
type childConfig struct {
	Repo, State, DSN, Slot, PgBin string
}

// childMain runs the agent when the environment asks for it.
func childMain() {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	var c childConfig
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = runChild(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild(c childConfig) error {
	disk, err := fs.Open(c.Repo)
	if err != nil {
		return err
	}
	repo, err := history.Open(context.Background(), disk)
	if err != nil {
		return err
	}
	s, err := LoadSecrets(c.State)
	if err != nil {
		return err
	}
	return Run(context.Background(), repo, s, Options{
		Source: SourceOptions{DSN: c.DSN, Slot: c.Slot, Publication: c.Slot, PgBin: c.PgBin, SchemaQuiet: 100 * time.Millisecond},
		Tuning: Tuning{RPO: 50 * time.Millisecond, WALBudget: -1}, State: c.State,
	})
}

// child starts the agent in a process of its own, which ends with the test.
func (b *bench) child() *exec.Cmd {
	b.t.Helper()
	text, err := json.Marshal(childConfig{
		Repo: filepath.Join(b.dir, "repo"), State: b.o.State, DSN: b.o.Source.DSN, Slot: b.o.Source.Slot, PgBin: b.o.Source.PgBin,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = testLog{b.t}, testLog{b.t}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// client runs statements one after the other until done, and remembers the longest
// and whatever failed.
type client struct {
	mu      sync.Mutex
	longest time.Duration
	slowest string
	count   int
	failed  error
	stop    context.CancelFunc
	done    chan struct{}
}

func (b *bench) client(next func(i int) string) *client {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{stop: cancel, done: make(chan struct{})}
	conn, err := pgx.Connect(ctx, b.db.DSN)
	if err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		defer conn.Close(context.Background())
		for i := 0; ctx.Err() == nil; i++ {
			sql := next(i)
			began := time.Now()
			_, err := conn.Exec(context.Background(), sql)
			took := time.Since(began)
			c.mu.Lock()
			c.count++
			if took > c.longest {
				c.longest, c.slowest = took, sql
			}
			if err != nil && c.failed == nil {
				c.failed = fmt.Errorf("%s: %w", sql, err)
			}
			c.mu.Unlock()
		}
	}()
	b.t.Cleanup(c.end)
	return c
}

func (c *client) end() {
	c.stop()
	<-c.done
}

// want fails the test when a statement failed.
func (c *client) want(t *testing.T) {
	t.Helper()
	c.end()
	if c.failed != nil {
		t.Errorf("a statement of the application failed: %v", c.failed)
	}
	t.Logf("%d statements, the longest %v: %s", c.count, c.longest, c.slowest)
}

// blocked watches how long sessions of the application wait for sessions of ours;
// the function it gives ends it and says the longest.
func (b *bench) blocked() (longest func() time.Duration) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, b.db.DSN)
	if err != nil {
		b.t.Fatal(err)
	}
	var most time.Duration
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close(context.Background())
		since := map[int32]time.Time{}
		for ctx.Err() == nil {
			rows, err := conn.Query(ctx, `SELECT w.pid FROM pg_stat_activity w JOIN pg_stat_activity o ON o.pid = ANY (pg_blocking_pids(w.pid))
				WHERE w.wait_event_type = 'Lock' AND w.application_name NOT LIKE 'lifeboat%' AND o.application_name LIKE 'lifeboat%'`)
			if err != nil {
				return
			}
			pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
			if err != nil {
				return
			}
			now := time.Now()
			for pid, from := range since {
				most = max(most, now.Sub(from))
				if !slices.Contains(pids, pid) {
					delete(since, pid)
				}
			}
			for _, pid := range pids {
				if _, ok := since[pid]; !ok {
					since[pid] = now
				}
			}
		}
	}()
	b.t.Cleanup(cancel)
	return func() time.Duration {
		cancel()
		<-done
		return most
	}
}

// TestAlteredWhileWeWork: clients alter two tables in either order, and write,
// while the agent attaches, copies and dumps. None is ever a deadlock's victim,
// none waits long, and the end is exact.
func TestAlteredWhileWeWork(t *testing.T) {
	b := newBench(
		t, testpg.Start(t, 18, nil), nil, "CREATE TABLE tick (id serial PRIMARY KEY)",
		"CREATE TABLE a (id serial PRIMARY KEY, v text)", "CREATE TABLE b (id serial PRIMARY KEY, v text)",
		"INSERT INTO a (v) SELECT repeat('a', 500) FROM generate_series(1, 60000)", "INSERT INTO b (v) SELECT repeat('b', 500) FROM generate_series(1, 60000)",
	)
	alter := func(first, second string) func(int) string {
		return func(i int) string {
			if i%20 < 15 {
				return fmt.Sprintf("INSERT INTO %s (v) VALUES ('new'); SELECT pg_sleep(0.01)", first)
			}
			return fmt.Sprintf("BEGIN; ALTER TABLE %s ALTER v SET STATISTICS %d; ALTER TABLE %s ALTER v SET STATISTICS %d; COMMIT", first, i%100, second, i%100)
		}
	}
	// One client at a time alters, or they would deadlock with each other.
	var turn sync.Mutex
	one := b.client(func(i int) string {
		turn.Lock()
		defer turn.Unlock()
		if i%2 == 0 {
			return alter("a", "b")(i / 2)
		}
		return alter("b", "a")(i / 2)
	})
	two := b.client(func(int) string {
		return "UPDATE a SET v = v || '.' WHERE id % 997 = 3; SELECT pg_sleep(0.02)"
	})
	longest := b.blocked()
	b.attach()
	stop := b.run()
	testpg.WaitFor(t, 2*time.Minute, "some altering beside the agent", func() bool {
		one.mu.Lock()
		defer one.mu.Unlock()
		return one.count > 400
	})
	one.want(t)
	two.want(t)
	if d := longest(); d > 1500*time.Millisecond {
		t.Errorf("a session of the application waited %v for one of ours", d)
	}
	b.waitReady()
	b.settled()
	b.mark("end")
	want := b.twin()
	stop()
	db, err := b.restoreAt("mark:end", restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	testpg.CompareTables(t, want.DSN, db.DSN, nil)
}

// TestAbsentStandby: a commit that waits for a synchronous standby is in the WAL
// and invisible. It is there while the slot is made, and again while a table is
// copied; nothing of ours hangs, and no row is lost or doubled.
func TestAbsentStandby(t *testing.T) {
	c := testpg.Start(t, 18, nil)
	b := newBench(t, c, nil, "CREATE TABLE tick (id serial PRIMARY KEY)", "CREATE TABLE bag (v text)", "INSERT INTO bag VALUES ('before')")
	hang := func(sql string) (cancel func()) {
		t.Helper()
		c.SetConf(t, "synchronous_standby_names", "absent")
		conn := testpg.Connect(t, b.db.DSN)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = conn.Exec(context.Background(), "SET synchronous_commit = on; SELECT pg_sleep(1); "+sql) // the checkpointer must have heard of the standby
		}()
		testpg.WaitFor(t, 2*time.Minute, "a commit that waits for the standby", func() bool {
			return len(b.db.Query(t, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database() AND application_name NOT LIKE 'lifeboat%'")) > 0
		})
		return func() {
			b.db.Query(t, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
			<-done
			c.SetConf(t, "synchronous_standby_names", "")
		}
	}
	// The slot is made while a commit waits: it comes when the wait has ended.
	release := hang("INSERT INTO bag VALUES ('around the slot')")
	attached := make(chan error, 1)
	go func() {
		_, err := Attach(context.Background(), b.repo, b.agentSecrets(), b.o, false)
		attached <- err
	}()
	testpg.WaitFor(t, 2*time.Minute, "attach to ask for the slot", func() bool {
		return len(b.db.Query(t, "SELECT 1 FROM pg_replication_slots")) > 0
	})
	release()
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	// A commit waits while the agent starts: the stream brings it, and no snapshot
	// sees it, so no copy may count yet.
	release = hang("INSERT INTO bag VALUES ('around the start')")
	stop := b.run()
	testpg.WaitFor(t, 2*time.Minute, "the commit in the log", func() bool { return len(b.view().Segments) > 0 })
	if n := len(b.view().Bases); n > 0 {
		t.Errorf("%d copies counted while a commit that the stream had brought was invisible", n)
	}
	release()
	b.waitReady()
	b.wantLive()
	release = hang("INSERT INTO bag VALUES ('around the copy')")
	b.db.Exec(t, "SET synchronous_commit = off", "ALTER TABLE bag ALTER v SET STATISTICS 10", "INSERT INTO tick DEFAULT VALUES")
	testpg.WaitFor(t, 2*time.Minute, "a copy beside the invisible commit", func() bool {
		n := 0
		for _, base := range b.view().Bases {
			if base.Name == "public.bag" {
				n++
			}
		}
		return n >= 2
	})
	release()
	b.db.Exec(t, "INSERT INTO bag VALUES ('after')")
	b.settled()
	b.mark("end")
	b.wantLive()
	want := b.twin()
	stop()
	db, err := b.restoreAt("mark:end", restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	testpg.CompareTables(t, want.DSN, db.DSN, nil)
}

// TestStoppedInACopy: an agent that stands still in the middle of a copy, holding
// its lock, is put out of the application's way, and finishes when it goes on.
func TestStoppedInACopy(t *testing.T) {
	b := newBench(
		t, testpg.Start(t, 18, nil), nil, "CREATE TABLE tick (id serial PRIMARY KEY)",
		"CREATE TABLE big (id serial PRIMARY KEY, v text)", "INSERT INTO big (v) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 150000) i",
	)
	b.attach()
	child := b.child()
	testpg.WaitFor(t, 2*time.Minute, "the copy of the big table", func() bool {
		return len(b.db.Query(t, "SELECT 1 FROM pg_stat_progress_copy WHERE relid = 'big'::regclass AND tuples_processed > 1000")) > 0
	})
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// tcp_user_timeout (5 s) frees it when the watcher itself stands still.
	if _, err := b.db.Try(t, "SET lock_timeout = '1min'; ALTER TABLE big ADD COLUMN more int"); err != nil {
		t.Errorf("ALTER TABLE beside a stopped agent: %v", err)
	}
	b.db.Exec(t, "INSERT INTO big (v, more) VALUES ('while it stood', 1)")
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	b.waitReady()
	b.mark("end")
	b.wantLive()
}

// TestBudgetAndNewBase: a slot that keeps more WAL than allowed is given up, the
// reason is said, and a new base names the gap and goes on.
func TestBudgetAndNewBase(t *testing.T) {
	c := testpg.Start(t, 18, nil)
	b := newBench(t, c, nil, "CREATE TABLE k (id serial PRIMARY KEY, v text)", "INSERT INTO k (v) VALUES ('first')")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.mark("before")
	stop()
	b.db.Exec(t, "INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
	b.o.Tuning.WALBudget = 1 << 20
	b.o.Tuning.RPO = time.Hour // it keeps up with nothing
	err := b.runWhileWritten("INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 100)")
	if err == nil || !strings.Contains(err.Error(), "wal_budget") || !strings.Contains(err.Error(), "--new-base") {
		t.Fatalf("run over its budget: %v, want it to give the slot up and say so", err)
	}
	if n := len(b.db.Query(t, "SELECT 1 FROM pg_replication_slots")); n != 0 {
		t.Errorf("%d slots left", n)
	}
	b.o.Tuning = Tuning{RPO: 50 * time.Millisecond, WALBudget: -1}
	b.o.NewBase = true
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "the new base", func() bool {
		for _, i := range b.view().Incompletes {
			if i.Until > i.From && strings.Contains(i.Reason, "slot was lost") {
				return true
			}
		}
		return false
	})
	b.o.NewBase = false
	b.db.Exec(t, "INSERT INTO k (v) VALUES ('after')")
	b.mark("after")
	b.wantLive()
	stop()
	for _, mark := range []string{"before", "after"} {
		if _, err := b.restoreAt("mark:"+mark, restore.Options{}); err != nil {
			t.Errorf("restore at %s: %v", mark, err)
		}
	}
}
