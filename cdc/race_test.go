package cdc

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// application is a client that must never notice us: no statement of it fails, and
// none waits for a session of ours longer than harm.
type application struct {
	t       testing.TB
	conn    *pgx.Conn
	mu      sync.Mutex
	longest time.Duration // that it waited for us
	waits   time.Duration // in the statement under way, as the server says
	count   int
}

// harm is the longest that a statement may wait for us.
const harm = 1500 * time.Millisecond

func newApplication(t testing.TB, d *testpg.Database) *application {
	a := &application{t: t, conn: testpg.Connect(t, d.DSN)}
	conn, done := testpg.Connect(t, d.DSN), make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		a.watch(t.Context(), conn)
	}()
	return a
}

// watch asks the server how long the application has been waiting for us: what a
// statement takes is the machine's speed as well.
func (a *application) watch(ctx context.Context, conn *pgx.Conn) {
	for pause(ctx, 20*time.Millisecond) == nil {
		var ms int64
		err := conn.QueryRow(ctx, `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - w.waitstart) * 1000), 0)::int8 FROM pg_locks w
			WHERE NOT w.granted AND w.pid = $1 AND EXISTS (SELECT FROM pg_stat_activity o
				WHERE o.pid = ANY (pg_blocking_pids(w.pid)) AND o.application_name LIKE 'lifeboat%')`, int32(a.conn.PgConn().PID())).Scan(&ms)
		if err != nil {
			if ctx.Err() == nil {
				a.t.Errorf("watch the application: %v", err)
			}
			return
		}
		a.mu.Lock()
		a.waits = max(a.waits, time.Duration(ms)*time.Millisecond)
		a.mu.Unlock()
	}
}

// exec runs a statement and gives how long it waited for us.
func (a *application) exec(sql string) time.Duration {
	a.mu.Lock()
	a.waits = 0
	a.mu.Unlock()
	_, err := a.conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	a.longest = max(a.longest, a.waits)
	if err != nil {
		a.t.Errorf("the application's %s: %v", sql, err)
	}
	if a.waits > harm {
		a.t.Errorf("the application's %s waited %s for us", sql, a.waits)
	}
	return a.waits
}

// again calls f until it says something else than to try again later.
func again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrYield) && !errors.Is(err, ErrChanged) || ctx.Err() != nil {
			return err
		}
	}
}

func TestC5_WriterOpenAcrossEnter(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE settled (id int)", "ALTER TABLE settled REPLICA IDENTITY FULL")
		s := sourceOf(t, d, "")
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"t", "settled"} {
			app, other := newApplication(t, d), newApplication(t, d)
			app.exec("BEGIN")
			app.exec("INSERT INTO " + name + " (id) VALUES (1)")
			done := make(chan error)
			go func() { done <- s.Enter(t.Context(), tableOf(t, s, name)) }()
			for running := true; running; {
				select {
				case err := <-done:
					if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrYield) {
						t.Errorf("Enter beside an open writer of %s: %v", name, err)
					}
					running = false
				default:
					other.exec("SELECT count(*) FROM " + name)
					other.exec("INSERT INTO " + name + " (id) VALUES (2)")
					other.exec("DELETE FROM " + name + " WHERE id = 2")
				}
			}
			if tableOf(t, s, name).InPublication {
				t.Errorf("%s entered beside an open writer", name)
			}
			app.exec("COMMIT")
			if err := s.Enter(t.Context(), tableOf(t, s, name)); err != nil {
				t.Errorf("Enter after the writer: %v", err)
			}
		}
	})
}

// A client that alters two tables in either order, while we enter, leave, copy and
// dump them: it is never a deadlock's victim and hardly waits.
func TestC6_ClientAltersTwoTables(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE b (id int PRIMARY KEY, v text)",
		"INSERT INTO a SELECT g, repeat('x', 1000) FROM generate_series(1, 3000) g", "INSERT INTO b SELECT * FROM a")
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var wg sync.WaitGroup
	var mu sync.Mutex
	did := map[string]int{}
	ours := func(name string, f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := again(ctx, f)
				if err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				if err == nil {
					mu.Lock()
					did[name]++
					mu.Unlock()
				}
			}
		})
	}
	for _, name := range []string{"a", "b"} {
		look := func(f func(x Table) error) func() error {
			return func() error {
				cat, err := s.Catalog(ctx)
				if err != nil {
					return err
				}
				return f(*cat.Lookup("public", name))
			}
		}
		ours("enter "+name, look(func(x Table) error {
			if x.InPublication {
				return s.Leave(ctx, x)
			}
			return s.Enter(ctx, x)
		}))
		ours("restore "+name, func() error { return s.RestoreIdentity(ctx, "public", name, 'd', "") })
		ours("copy "+name, look(func(x Table) error {
			var b bag
			_, err := s.Copy(ctx, x, CopyOptions{Workers: 2, spanBlocks: 100}, b.sink)
			return err
		}))
	}
	ours("dump", func() error { _, err := s.DumpSchema(ctx, dumpOptions(t)); return err })
	ours("sequences", func() error { _, err := s.Sequences(ctx); return err })
	wg.Go(func() { noWaitUnderLock(ctx, t, d) })
	app := newApplication(t, d)
	for i := 0; ctx.Err() == nil; i++ {
		first, second := "a", "b"
		if i%2 == 1 {
			first, second = second, first
		}
		app.exec("BEGIN")
		app.exec("ALTER TABLE " + first + " ADD x int DEFAULT 1")
		app.exec("UPDATE " + first + " SET v = 'y' WHERE id = 5")
		app.exec("ALTER TABLE " + second + " ADD x int DEFAULT 1")
		app.exec("ALTER TABLE " + first + " DROP x")
		app.exec("ALTER TABLE " + second + " DROP x")
		app.exec("COMMIT")
		// A pause of the size of a request, so that we get at the tables at all.
		app.exec(map[bool]string{true: "SELECT pg_sleep(0.8)", false: "SELECT pg_sleep(0.05)"}[i%8 == 7])
	}
	wg.Wait()
	t.Logf("the application ran %d statements and waited %s at most; we did %v", app.count, app.longest, did)
	if strings.Contains(d.Log(5000), "deadlock detected") {
		t.Error("the server detected a deadlock")
	}
	for _, name := range []string{"a", "b"} { // and once it is quiet, all goes through
		if err := again(t.Context(), func() error { return s.Enter(t.Context(), tableOf(t, s, name)) }); err != nil {
			t.Error(err)
		}
	}
}

// noWaitUnderLock samples the locks of our sessions: none waits while it holds one
// of a table, and none waits long (pg_dump locks as it likes, but briefly).
func noWaitUnderLock(ctx context.Context, t testing.TB, d *testpg.Database) {
	conn := testpg.Connect(t, d.DSN)
	for ctx.Err() == nil {
		var held, long int
		err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE a.application_name !~ 'dump' AND w.since < clock_timestamp() - interval '20 ms' AND EXISTS (SELECT FROM pg_locks h
				WHERE h.pid = w.pid AND h.granted AND h.locktype = 'relation' AND h.relation >= 16384)),
			count(*) FILTER (WHERE w.since < clock_timestamp() - interval '600 ms')
			FROM (SELECT pid, min(waitstart) AS since FROM pg_locks WHERE NOT granted GROUP BY pid) w JOIN pg_stat_activity a USING (pid)
			WHERE a.application_name LIKE 'lifeboat%'`).Scan(&held, &long)
		if err != nil {
			t.Error(err)
			return
		}
		if held > 0 || long > 0 {
			t.Errorf("%d sessions of ours wait under a lock, %d wait long", held, long)
		}
	}
}

// A client that alters two tables while pg_dump runs again and again.
func TestC6_ClientAltersBesideDumps(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE a (id int PRIMARY KEY)", "DO $$ BEGIN FOR i IN 1..100 LOOP EXECUTE 'CREATE TABLE m' || i || ' (id int PRIMARY KEY, v text)'; END LOOP; END $$", "CREATE TABLE b (id int PRIMARY KEY)")
	s := sourceOf(t, d, "")
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	var dumps, tries int
	done := make(chan struct{})
	o := dumpOptions(t)
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; tries++ {
			_, err := s.DumpSchema(ctx, o)
			switch {
			case err == nil:
				dumps++
			case ctx.Err() == nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrYield) && !errors.Is(err, ErrChanged):
				t.Errorf("dump: %v", err)
			}
		}
	}()
	app := newApplication(t, d)
	for i := 0; ctx.Err() == nil; i++ {
		first, second := "a", "b"
		if i%2 == 1 {
			first, second = second, first
		}
		app.exec("SELECT pg_sleep(0.02 + random() * " + map[bool]string{true: "1.2", false: "0.3"}[i%5 == 0] + ")")
		app.exec("BEGIN")
		app.exec("ALTER TABLE " + first + " ADD x int")
		app.exec("ALTER TABLE " + second + " ADD x int")
		app.exec("ALTER TABLE " + first + " DROP x")
		app.exec("ALTER TABLE " + second + " DROP x")
		app.exec("COMMIT")
	}
	<-done
	t.Logf("%d of %d dumps came through beside %d statements", dumps, tries, app.count)
	if strings.Contains(d.Log(5000), "deadlock detected") {
		t.Error("the server detected a deadlock")
	}
	if err := again(t.Context(), func() error { _, err := s.DumpSchema(t.Context(), o); return err }); err != nil {
		t.Errorf("dump when it is quiet: %v", err)
	}
}

// Somebody else holds the publication: Enter must not wait for it under the table's
// lock.
func TestC6_PublicationLocked(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (id int)")
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	tab := tableOf(t, s, "t")
	d.Exec(t, "BEGIN", "ALTER PUBLICATION lifeboat ADD TABLE other")
	app := newApplication(t, d)
	done := make(chan error)
	go func() { done <- s.Enter(t.Context(), tab) }()
	for running := true; running; {
		select {
		case err := <-done:
			if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrYield) {
				t.Errorf("Enter beside a locked publication: %v", err)
			}
			running = false
		default:
			if took := app.exec("SELECT count(*) FROM t"); took > 500*time.Millisecond {
				t.Errorf("a reader waited %s", took)
			}
		}
	}
	d.Exec(t, "COMMIT")
	if err := s.Enter(t.Context(), tab); err != nil {
		t.Error(err)
	}
}

// The reader of a copy stands still and an ALTER waits for it.
func TestWatcherFreesAStalledCopy(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 50000) g")
		s := sourceOf(t, d, "")
		app := newApplication(t, d)
		stalled, altered := make(chan struct{}), make(chan struct{})
		var once sync.Once
		b := bag{each: func(int) error {
			once.Do(func() { close(stalled) })
			<-altered
			return nil
		}}
		done := make(chan error)
		tab := tableOf(t, s, "t")
		go func() {
			_, err := s.Copy(t.Context(), tab, CopyOptions{Workers: 2, spanBlocks: 100}, b.sink)
			done <- err
		}()
		<-stalled
		took := app.exec("ALTER TABLE t ADD x int")
		close(altered)
		if err := <-done; !errors.Is(err, ErrYield) {
			t.Errorf("the copy: %v", err)
		}
		if took > s.deadlock {
			t.Errorf("ALTER waited %s", took)
		}
		t.Logf("ALTER waited %s", took)
	})
}

// A stopped agent reads nothing and watches nothing: the server's own timeout ends
// its session.
func TestServerFreesAStoppedAgent(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 50000) g")
	s := sourceOf(t, d, "")
	c, err := s.open(t.Context(), "copy", sessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.shut()
	if _, err := c.simple(t.Context(), "BEGIN; LOCK TABLE public.t IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	c.Frontend().SendQuery(&pgproto3.Query{String: "COPY public.t TO STDOUT"})
	if err := c.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := d.Try(t, "SET lock_timeout = '1min'; ALTER TABLE t ADD x int"); err != nil { // tcp_user_timeout is 5 s
		t.Errorf("ALTER beside a stopped agent: %v", err)
	}
	t.Logf("ALTER waited %s", time.Since(start))
}

// Commits wait for a standby that is not there; ours do not.
func TestAbsentSynchronousStandby(t *testing.T) {
	c := testpg.Start(t, testpg.Newest, nil)
	d := c.Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int)", "INSERT INTO t VALUES (1, 'x')")
	s := sourceOf(t, d, "")
	c.SetConf(t, "synchronous_standby_names", "missing")
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if err := s.CreatePublication(ctx); err != nil {
		t.Fatal(err)
	}
	tab := tableOf(t, s, "t")
	if err := s.Enter(ctx, tab); err != nil {
		t.Fatal(err)
	}
	x, err := s.Now(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// A commit of the application hangs: delivered one day, and not yet visible.
	hang := testpg.Connect(t, d.DSN)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = hang.Exec(ctx, "SET application_name = 'hanging'; INSERT INTO t VALUES (2, 'y')", pgx.QueryExecModeSimpleProtocol)
	}()
	testpg.WaitFor(t, 2*time.Minute, "a commit that hangs", func() bool {
		return len(d.Query(t, "SELECT FROM pg_stat_activity WHERE application_name = 'hanging' AND wait_event = 'SyncRep'")) == 1
	})
	var b bag
	tab = tableOf(t, s, "t")
	got, err := s.Copy(ctx, tab, CopyOptions{NotBefore: x.Snapshot.XMax}, b.sink)
	if err != nil || len(b.lines) != 1 {
		t.Errorf("copy beside it: %d lines, %v", len(b.lines), err)
	} else if got.Snapshot.Sees(x.Snapshot.XMax) {
		t.Errorf("snapshot %s sees the hanging commit", got.Snapshot)
	}
	var after record.XID = got.Snapshot.XMax + 1
	if _, err := s.Copy(ctx, tab, CopyOptions{NotBefore: after}, b.sink); !errors.Is(err, ErrSnapshotTooOld) || !strings.Contains(err.Error(), "SyncRep") {
		t.Errorf("copy that may not count: %v", err)
	}
	for err = ErrBusy; errors.Is(err, ErrBusy); _, err = s.DumpSchema(ctx, dumpOptions(t)) {
	}
	if err != nil {
		t.Error(err)
	}
	if err := s.Leave(ctx, tab); !errors.Is(err, ErrBusy) && err != nil {
		t.Error(err)
	}
	c.SetConf(t, "synchronous_standby_names", "")
	<-gone
}
