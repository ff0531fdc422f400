package proof

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/secondreader"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// lab is one database in a cluster of its own, one repository, and the agent's
// configuration. The operator's identity is in this process only.
type lab struct {
	t        testing.TB
	cluster  *testpg.Cluster
	db       *testpg.Database
	dir      string
	repo     *history.Repository
	operator *history.Secrets
	child    childConfig
	agent    *child // the one started last
}

// soakTime is how long a random test goes on; 0: once.
func soakTime(t testing.TB) time.Duration {
	t.Helper()
	s := os.Getenv("LIFEBOAT_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newLab(t testing.TB, major int, schema ...string) *lab {
	t.Helper()
	bin := filepath.Dir(testpg.Bin(t, testpg.Newest, "pg_dump"))
	l := &lab{t: t, cluster: testpg.Start(t, major, nil), dir: t.TempDir()}
	if keep := os.Getenv("LIFEBOAT_KEEP"); keep != "" { // for whoever looks for a bug
		var err error
		if l.dir, err = os.MkdirTemp(keep, t.Name()+"-"); err != nil {
			t.Fatal(err)
		}
		t.Logf("repository, state and logs stay in %s", l.dir)
	}
	l.db = l.cluster.Database(t)
	l.db.Exec(t, schema...)
	l.child = childConfig{
		Repo: filepath.Join(l.dir, "repo"), State: filepath.Join(l.dir, "state"),
		Source: agent.SourceOptions{
			Slot: l.db.Name, Publication: l.db.Name, DSN: l.db.DSN, PgBin: bin, SchemaQuiet: 100 * time.Millisecond,
		},
		Tuning: agent.Tuning{RPO: 50 * time.Millisecond, WALBudget: -1},
	}
	disk, err := fs.Create(l.child.Repo)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	l.repo, l.operator, err = history.Create(t.Context(), disk, history.CreateOptions{Recipients: []string{id.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "operator.age"), []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { secondreader.Hold(t, l.child.Repo, filepath.Join(l.dir, "operator.age")) })
	if os.Getenv("LIFEBOAT_KEEP") != "" {
		b, err := l.operator.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.dir, "operator.secrets"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := agent.SaveSecrets(l.child.State, l.operator); err != nil {
		t.Fatal(err)
	}
	return l
}

// options are the agent's, for a call in this process.
func (l *lab) options() agent.Options {
	o := agent.Options{Source: l.child.Source, Tuning: l.child.Tuning, State: l.child.State}
	o.Source.DSN = l.cluster.DSN(l.db.Name)
	return o
}

func (l *lab) secrets() *history.Secrets {
	l.t.Helper()
	s, err := agent.LoadSecrets(l.child.State)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) attach() {
	l.t.Helper()
	if _, err := agent.Attach(l.t.Context(), l.repo, l.secrets(), l.options(), false); err != nil {
		l.t.Fatal(err)
	}
}

// start starts the agent as a child; change, if any, edits its configuration.
func (l *lab) start(change func(*childConfig)) *child {
	l.t.Helper()
	c := l.child
	c.Source.DSN = l.cluster.DSN(l.db.Name) // a restart may have moved the port
	if change != nil {
		change(&c)
	}
	l.agent = testpg.StartChild(l.t, l.dir, "agent", childEnv, c)
	return l.agent
}

// view is the picture of an operator.
func (l *lab) view() *history.View {
	l.t.Helper()
	v, err := l.load()
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func (l *lab) load() (*history.View, error) {
	log, err := agent.OpenLog(context.Background(), l.repo, l.operator, l.child.State)
	if err != nil {
		return nil, err
	}
	return log.Load(context.Background())
}

// until waits for the log to be as ok says. An agent that has ended will not make it so.
func (l *lab) until(d time.Duration, what string, ok func(v *history.View) bool) {
	l.t.Helper()
	testpg.WaitFor(l.t, d, what, func() bool {
		ended := l.agent != nil && l.agent.Ended()
		v, err := l.load()
		if err != nil {
			if errors.Is(err, history.ErrNoLineage) && !ended {
				return false
			}
			l.t.Fatal(err)
		}
		done := ok(v)
		if !done && ended {
			l.t.Fatalf("%s: the agent ended with %d:\n%s", what, l.agent.Code(), l.agent.Tail(25))
		}
		return done
	})
}

func (l *lab) ready() {
	l.t.Helper()
	l.until(2*time.Minute, "the first bases", func(v *history.View) bool { return v.Ready })
}

// mark waits until everything committed so far is durable.
func (l *lab) mark(name string) record.LSN {
	l.t.Helper()
	at, err := agent.Mark(l.t.Context(), l.repo, l.secrets(), l.options(), name)
	if err != nil {
		l.t.Fatal(err)
	}
	return at
}

// settled waits until every table of the source is captured and exact at the
// newest position, so that what was copied late is proven too.
func (l *lab) settled() {
	l.t.Helper()
	l.until(2*time.Minute, "every incomplete interval to close", func(v *history.View) bool {
		for _, i := range v.Incompletes {
			if i.Until == 0 {
				return false
			}
		}
		return true
	})
}

// verify holds the repository against itself, byte by byte, and against the
// running source.
func (l *lab) verify() {
	l.t.Helper()
	r, err := history.Verify(l.t.Context(), l.repo, l.operator, history.VerifyOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range r.Damage {
		l.t.Errorf("verify: %s", d)
	}
	for _, m := range l.view().Mismatches {
		l.t.Errorf("mismatch: %+v", m)
	}
}

// live holds the newest state in the log against the running source.
func (l *lab) live() {
	l.t.Helper()
	all, err := agent.VerifyLive(l.t.Context(), l.repo, l.operator, l.options())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range all {
		if !r.OK {
			l.t.Errorf("verify --live: %s: %s", r.Table, r.Why)
		}
	}
}
