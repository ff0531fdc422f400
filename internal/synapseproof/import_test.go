package synapseproof

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/internal/archivetest"
	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
	"lifeboat.im/lifeboat/synapse/archive"
)

// TestImportIsTheHomeserver: under load and beside people, a commit is exported and
// imported. Row for row it is what a restore to that commit makes, and clients go on from
// it as from one.
func TestImportIsTheHomeserver(t *testing.T) {
	rng := rand.New(rand.NewPCG(testpg.Seed(t), 11))
	l := newLab(t, func(o *homeserver.Options) { o.Extra = map[string]any{"max_event_delay_duration": "24h"} })
	l.attach()
	k := l.start()
	l.ready()
	load := l.underLoad(homeserver.Load{Seed: rng.Uint64(), Users: 4, Purge: 2 * time.Second, Settled: true})
	<-load.working
	p := newPast(t, l)
	p.before()
	did := load.stop(t)
	for _, f := range did.Failures {
		t.Errorf("a client failed: %s", f)
	}
	// What builds the user directory makes tables and drops them; a point among them is
	// inexact.
	if err := l.admin.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.settled()
	start := l.mark("before the purge")
	p.after()
	l.mark("after")
	l.settled()
	k.Stop(t)
	if err := l.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	at := "lsn:" + l.firstInsert(start, "scheduled_tasks").String()
	a := l.export(at)
	r := l.restoreTo(at)
	a.judged(r.Database)
	bare := a.importAs(synapse.Raw)
	oneTime := 0
	testpg.CompareTables(t, r.DSN, bare.DSN, func(_, table string) bool {
		if table == "e2e_one_time_keys_json" {
			oneTime++
		}
		return table == "e2e_one_time_keys_json"
	})
	if have := bare.Query(t, "SELECT count(*) FROM e2e_one_time_keys_json")[0][0]; oneTime == 0 || have != "0" {
		t.Errorf("%s one-time keys came through the archive", have)
	}

	db := a.importAs("")
	p.boots, p.gone = 0, []string{"delayed events"} // no archive knows that one was sent since
	p.boot(t, db.DSN)
}

// packed is an archive of the lab's homeserver.
type packed struct {
	lab  *lab
	file string
	read mspf.ReadOptions
}

// export writes the archive of a target, encrypted, as lifeboat export does.
func (l *lab) export(at string) *packed { l.t.Helper(); return l.exportAs("server.tar.zst.age", at) }

// exportAs writes it in the form that the name says, and lets Verify and the independent
// reader look at it; change, if any, edits the options.
func (l *lab) exportAs(name, at string, change ...func(*archive.Options)) *packed {
	l.t.Helper()
	must := func(err error) {
		l.t.Helper()
		if err != nil {
			l.t.Fatal(err)
		}
	}
	ctx := l.t.Context()
	target, err := restore.ParseTarget(at, time.Now())
	must(err)
	v := l.view()
	point, err := target.Resolve(ctx, v)
	must(err)
	plan, err := restore.NewPlan(ctx, v, point, l.restoreOptions())
	must(err)
	d, err := spill.Open(l.dir)
	must(err)
	defer func() { must(d.Close()) }()
	spool, err := plan.Spool(ctx, l.operator, d, nil)
	must(err)
	o := archive.Options{Archive: spool.Archive(), Floors: spool.Floors()}
	o.Archive.Source, o.Archive.ServerName, err = archive.Origin(ctx, spool.Public())
	must(err)
	o.SigningKeys, err = synapse.ReadSigningKeys(filepath.Join(l.server.Options().Dir, "signing.key"))
	must(err)
	for _, f := range change {
		f(&o)
	}
	c, err := archive.Contents(ctx, spool.Public(), d, o)
	must(err)
	must(spool.AddDatabase(c))
	id, err := age.GenerateX25519Identity()
	must(err)
	a := &packed{lab: l, file: filepath.Join(l.t.TempDir(), name), read: mspf.ReadOptions{Identities: []age.Identity{id}}}
	w := mspf.WriteOptions{Plaintext: true}
	if strings.HasSuffix(name, ".age") {
		w = mspf.WriteOptions{Recipients: []age.Recipient{id.Recipient()}}
	}
	_, err = mspf.Write(ctx, a.file, *c, w)
	must(err)
	archivetest.Check(l.t, a.file, a.read)
	return a
}

// importAs makes a database of the archive, which verify has nothing to say against.
func (a *packed) importAs(mode synapse.Mode) *testpg.Database {
	t := a.lab.t
	t.Helper()
	began := time.Now()
	i, err := restore.PlanImport(t.Context(), a.file, restore.ImportOptions{Read: a.read, Mode: mode, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range i.Notes {
		if i.Mode == synapse.Raw {
			t.Errorf("verify says of the archive: %s", n)
		}
	}
	d := testpg.Shared(t, a.lab.cluster.Major).Database(t)
	report, err := i.Into(t.Context(), d.DSN, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Verified || slices.ContainsFunc(report.Tables, func(r restore.TableReport) bool { return r.Proof != restore.ProofArchive }) {
		t.Errorf("the import says of itself: %+v", report)
	}
	t.Logf("imported as %s: %d rows in %d tables, %.1fs", i.Mode, i.Rows, len(i.Tables), time.Since(began).Seconds())
	return d
}
