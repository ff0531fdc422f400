package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/secondreader"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

func TestMain(m *testing.M) {
	childMain()
	testpg.Main(m)
}

// bench is one database, one repository and the means to run the agent on them.
type bench struct {
	t        testing.TB
	db       *testpg.Database
	dir      string
	backend  chunkstore.Backend
	repo     *history.Repository
	operator *history.Secrets
	identity *age.X25519Identity
	o        Options
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(string(b[:len(b)-1]))
	return len(b), nil
}

// newBench makes a database with sql run in it, and an empty repository. wrap, if
// any, stands between repository and disk.
func newBench(t testing.TB, c *testpg.Cluster, wrap func(chunkstore.Backend) chunkstore.Backend, sql ...string) *bench {
	t.Helper()
	b := &bench{t: t, db: c.Database(t), dir: t.TempDir()}
	b.db.Exec(t, sql...)
	disk, err := fs.Create(filepath.Join(b.dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	b.backend = disk
	if wrap != nil {
		b.backend = wrap(disk)
	}
	if b.identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	b.repo, b.operator, err = history.Create(t.Context(), b.backend, history.CreateOptions{Recipients: []string{b.identity.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(b.dir, "identity")
	if err := os.WriteFile(identity, []byte(b.identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { secondreader.Hold(t, filepath.Join(b.dir, "repo"), identity) })
	state := filepath.Join(b.dir, "state")
	if err := SaveSecrets(state, b.operator); err != nil {
		t.Fatal(err)
	}
	b.o = Options{
		Source: SourceOptions{
			Slot: b.db.Name, Publication: b.db.Name, DSN: b.db.DSN, PgBin: filepath.Dir(testpg.Bin(t, 18, "pg_dump")), SchemaQuiet: 100 * time.Millisecond,
		},
		Tuning: Tuning{RPO: 50 * time.Millisecond, WALBudget: -1},
		State:  state, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}
	return b
}

func (b *bench) agentSecrets() *history.Secrets {
	s, err := LoadSecrets(b.o.State)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) attach() {
	b.t.Helper()
	if _, err := Attach(b.t.Context(), b.repo, b.agentSecrets(), b.o, false); err != nil {
		b.t.Fatal(err)
	}
}

// run starts the agent; the function it gives stops it and wants no error.
func (b *bench) run() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, b.repo, b.agentSecrets(), b.o) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("run: %v", err)
			}
		case <-time.After(2 * time.Minute):
			b.t.Error("run did not end within two minutes of SIGTERM")
		}
	}
	b.t.Cleanup(stop)
	return stop
}

func (b *bench) view() *history.View {
	b.t.Helper()
	log, err := OpenLog(b.t.Context(), b.repo, b.operator, b.o.State)
	if err != nil {
		b.t.Fatal(err)
	}
	v, err := log.Load(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *bench) waitReady() {
	b.t.Helper()
	testpg.WaitFor(b.t, 2*time.Minute, "first bases", func() bool {
		log, err := OpenLog(b.t.Context(), b.repo, b.operator, b.o.State)
		if err != nil {
			return false
		}
		v, err := log.Load(b.t.Context())
		return err == nil && v.Ready
	})
}

// mark waits until everything committed so far is durable, and gives the position.
func (b *bench) mark(name string) record.LSN {
	b.t.Helper()
	at, err := Mark(b.t.Context(), b.repo, b.agentSecrets(), b.o, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return at
}

// TestWalk follows three tables through inserts, updates, deletes and a truncate,
// and checks the digest that the log carries against the live tables.
func TestWalk(t *testing.T) {
	b := newBench(
		t, testpg.Shared(t, 18), nil,
		"CREATE TABLE keyed (id int PRIMARY KEY, v text)",
		"CREATE TABLE bag (a int, b text)",
		"CREATE TABLE wide (id serial PRIMARY KEY, big text)",
		"CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
		"INSERT INTO keyed SELECT i, 'v' || i FROM generate_series(1, 1000) i",
		"INSERT INTO bag SELECT i % 10, 'same' FROM generate_series(1, 100) i",
	)
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(
		t, "UPDATE keyed SET v = v || '!' WHERE id % 3 = 0", "DELETE FROM keyed WHERE id % 7 = 0",
		"DELETE FROM bag WHERE a = 3", "INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL)",
		"INSERT INTO wide (big) SELECT repeat(md5(i::text), 3000) FROM generate_series(1, 50) i",
		"UPDATE wide SET id = id + 1000 WHERE id % 2 = 0",
		"TRUNCATE bag", "INSERT INTO bag VALUES (1, 'after')",
	)
	b.mark("end")
	res, err := VerifyLive(t.Context(), b.repo, b.operator, b.o)
	if err != nil {
		t.Fatal(err)
	}
	if len(res) != 4 {
		t.Errorf("verify --live looked at %d tables, want 4", len(res))
	}
	for _, r := range res {
		if unlogged := r.Table == "public.fleeting"; r.Left != unlogged || r.OK == unlogged {
			t.Errorf("verify --live: %+v", r)
		}
	}
	stop()
	stop = b.run()
	b.db.Exec(t, "INSERT INTO keyed VALUES (-1, 'restarted')")
	b.mark("restarted")
	v := b.view()
	if len(v.Marks) != 2 {
		t.Errorf("%d marks, want 2", len(v.Marks))
	}
	stop()
	if _, err := Detach(t.Context(), b.repo, b.agentSecrets(), b.o, false); err != nil {
		t.Fatal(err)
	}
	left := b.db.Query(t, "SELECT count(*) FROM pg_class WHERE relreplident = 'f' AND relnamespace = 'public'::regnamespace")
	if left[0][0] != "0" {
		t.Errorf("detach left %s tables with our identity", left[0][0])
	}
}

// TestErrors names the refusals that a caller tells apart.
func TestErrors(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id int PRIMARY KEY)")
	if err := Run(t.Context(), b.repo, b.agentSecrets(), b.o); !errors.Is(err, ErrNotAttached) {
		t.Errorf("run before attach: %v, want ErrNotAttached", err)
	}
	b.attach()
	b.attach() // again changes nothing
	other := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id int PRIMARY KEY)")
	o := b.o
	o.Source.DSN = other.db.DSN
	if err := Run(t.Context(), b.repo, b.agentSecrets(), o); !errors.Is(err, ErrForeignSource) {
		t.Errorf("run on another database: %v, want ErrForeignSource", err)
	}
	b.db.Exec(t, "SELECT pg_drop_replication_slot('"+b.db.Name+"')")
	if err := Run(t.Context(), b.repo, b.agentSecrets(), b.o); !errors.Is(err, ErrSourceLost) {
		t.Errorf("run without its slot: %v, want ErrSourceLost", err)
	}
}
