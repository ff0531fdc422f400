package synapseproof

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/secondreader"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// lab is a homeserver under backup. In the order of a test:
//
//	l := newLab(t)               cluster, database, booted Synapse (l.server), an admin (l.admin), a repository
//	l.attach()                   publication, slot, lineage; the homeserver goes on
//	k := l.start()               the agent, a child process: k.Kill, k.Stop
//	l.ready()                    every table has its base
//	at := l.mark("before")       all committed so far is durable; a restore point
//	db := l.restoreTo("before:lsn:…")    a database of its own on the shared cluster
//	s := l.bootOn(db.DSN)        Synapse with the same name, keys and media, on that database
//
// Everything ends with the test. What a homeserver must never do is checked then:
// an answer of 500 and above, an entry at ERROR (see [lab.healthy]).
type lab struct {
	t        testing.TB
	cluster  *testpg.Cluster
	db       *testpg.Database
	dir      string // homeserver/, repo/, state/, restored-N/
	server   *homeserver.Server
	admin    *homeserver.Client
	repo     *history.Repository
	operator *history.Secrets // the operator's identity is in this process only
	child    childConfig
	boots    int // of bootOn
}

// newLab makes a lab, whose homeserver has done what a new database begins with in
// the background; change, if any, edits the options of the homeserver before
// its first boot (another Install, Federation, Extra).
func newLab(t testing.TB, change ...func(*homeserver.Options)) *lab {
	t.Helper()
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	install, err := homeserver.Find(root)
	testpg.Need(t, "Synapse", err == nil, "tools")
	bin := filepath.Dir(testpg.Bin(t, testpg.Newest, "pg_dump"))
	l := &lab{t: t, cluster: testpg.Start(t, testpg.Newest, nil), dir: t.TempDir()}
	if keep := os.Getenv("LIFEBOAT_KEEP"); keep != "" { // for whoever looks for a bug
		if l.dir, err = os.MkdirTemp(keep, t.Name()+"-"); err != nil {
			t.Fatal(err)
		}
		t.Logf("homeserver, repository, state and logs stay in %s", l.dir)
	}
	l.db = l.cluster.Database(t)
	o := homeserver.Options{Dir: filepath.Join(l.dir, "homeserver"), Install: install, DSN: l.db.DSN}
	for _, f := range change {
		f(&o)
	}
	l.server = l.boot(o)
	if l.admin, err = l.server.Register(t.Context(), "admin", "the admin's password", true); err != nil {
		t.Fatal(err)
	}
	if err := l.admin.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.child = childConfig{
		Repo: filepath.Join(l.dir, "repo"), State: filepath.Join(l.dir, "state"),
		Source: agent.SourceOptions{
			Slot: l.db.Name, Publication: l.db.Name, DSN: l.db.DSN, PgBin: bin, SchemaQuiet: 100 * time.Millisecond,
		},
		Tuning: agent.Tuning{RPO: 50 * time.Millisecond, WALBudget: -1},
	}
	l.create()
	return l
}

// create makes the repository and the agent's state.
func (l *lab) create() {
	l.t.Helper()
	disk, err := fs.Create(l.child.Repo)
	if err != nil {
		l.t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		l.t.Fatal(err)
	}
	l.repo, l.operator, err = history.Create(l.t.Context(), disk, history.CreateOptions{Recipients: []string{id.Recipient().String()}})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := agent.SaveSecrets(l.child.State, l.operator); err != nil {
		l.t.Fatal(err)
	}
	identity := filepath.Join(l.dir, "operator.age")
	if err := os.WriteFile(identity, []byte(id.String()+"\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { secondreader.Hold(l.t, l.child.Repo, identity) })
}

// boot starts a homeserver that ends with the test; if the test failed, the end of
// its log is shown.
func (l *lab) boot(o homeserver.Options) *homeserver.Server {
	l.t.Helper()
	s, err := homeserver.Start(l.t.Context(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		s.Kill()
		l.healthy(s)
	})
	return s
}

// healthy checks what every homeserver of a lab is held to, at its end and whenever
// a test asks: not one answer of 500 and above, nothing at ERROR.
func (l *lab) healthy(s *homeserver.Server) {
	l.t.Helper()
	for _, f := range s.Faults() {
		l.t.Errorf("%s: a fault: %s", filepath.Base(s.Options().Dir), f)
	}
	for _, e := range s.Errors() {
		l.t.Errorf("%s: its log: %.2000s", filepath.Base(s.Options().Dir), e)
	}
}

// options are the agent's, for a call in this process.
func (l *lab) options() agent.Options {
	return agent.Options{Source: l.child.source(), Tuning: l.child.Tuning, State: l.child.State}
}

func (l *lab) secrets() *history.Secrets {
	l.t.Helper()
	s, err := agent.LoadSecrets(l.child.State)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// attach makes the source ready, as lifeboat attach does.
func (l *lab) attach() {
	l.t.Helper()
	if _, err := agent.Attach(l.t.Context(), l.repo, l.secrets(), l.options(), false); err != nil {
		l.t.Fatal(err)
	}
}

// start starts the agent as a child process.
func (l *lab) start() *child {
	l.t.Helper()
	return testpg.StartChild(l.t, l.dir, "agent", childEnv, l.child)
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
	log, err := agent.OpenLog(l.t.Context(), l.repo, l.operator, l.child.State)
	if err != nil {
		return nil, err
	}
	return log.Load(l.t.Context())
}

// until waits for the log to be as ok says.
func (l *lab) until(d time.Duration, what string, ok func(v *history.View) bool) {
	l.t.Helper()
	testpg.WaitFor(l.t, d, what, func() bool {
		v, err := l.load()
		if err != nil {
			if errors.Is(err, history.ErrNoLineage) {
				return false
			}
			l.t.Fatal(err)
		}
		return ok(v)
	})
}

// ready waits until every table has its base.
func (l *lab) ready() {
	l.t.Helper()
	l.until(2*time.Minute, "the first bases", func(v *history.View) bool { return v.Ready })
}

// settled waits until every table of the source is captured and exact at the
// newest position.
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

// mark waits until everything committed so far is durable, and gives the position.
func (l *lab) mark(name string) record.LSN {
	l.t.Helper()
	at, err := agent.Mark(l.t.Context(), l.repo, l.secrets(), l.options(), name)
	if err != nil {
		l.t.Fatal(err)
	}
	return at
}

// verify holds the repository against itself, byte by byte, and the newest state in
// it against the running source.
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
	all, err := agent.VerifyLive(l.t.Context(), l.repo, l.operator, l.options())
	if err != nil {
		l.t.Fatal(err)
	}
	held := 0
	for _, r := range all {
		switch {
		case r.OK:
			held++
		case r.Left: // the two unlogged tables, which a crash of PostgreSQL empties too
		default:
			l.t.Errorf("verify --live: %s: %s", r.Table, r.Why)
		}
	}
	if held < 100 {
		l.t.Errorf("verify --live held %d tables, a homeserver has more", held)
	}
}

// restored is a database that holds a restore.
type restored struct {
	*testpg.Database
	plan   *restore.Plan
	report *restore.Report
}

// restoreTo restores a target (what --at takes: "lsn:…", "before:lsn:…", "mark:…",
// a time) into a database of its own on the shared cluster. change, if any, edits
// the options of the restore; without it the restore is raw, and a point that is
// not exact ends the test.
func (l *lab) restoreTo(at string, change ...func(*restore.Options)) *restored {
	l.t.Helper()
	ctx := l.t.Context()
	target, err := restore.ParseTarget(at, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	v := l.view()
	point, err := target.Resolve(ctx, v)
	if err != nil {
		l.t.Fatal(err)
	}
	o := l.restoreOptions()
	for _, f := range change {
		f(&o)
	}
	r := &restored{Database: testpg.Shared(l.t, l.cluster.Major).Database(l.t)}
	if r.plan, err = restore.NewPlan(ctx, v, point, o); err != nil {
		l.t.Fatalf("plan %s: %v", at, err)
	}
	if r.report, err = r.plan.Materialise(ctx, r.DSN, l.operator, nil); err != nil {
		l.t.Fatalf("restore %s: %v", at, err)
	}
	return r
}

func (l *lab) restoreOptions() restore.Options {
	return restore.Options{PgRestore: l.child.Source.PgBin, Workers: 2, Mode: synapse.Raw}
}

// bootOn boots the lab's homeserver on another database: the same name, secrets,
// signing key and a copy of its media, in a folder of its own. The source may go on
// running beside it, unless they federate (one port in both names): then stop it
// first. Clients move by [homeserver.Client.On].
func (l *lab) bootOn(dsn string) *homeserver.Server {
	l.t.Helper()
	l.boots++
	o := l.server.Options()
	o.From, o.DSN = o.Dir, dsn
	o.Dir = filepath.Join(l.dir, "restored-"+strconv.Itoa(l.boots))
	return l.boot(o)
}
