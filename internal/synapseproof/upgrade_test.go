package synapseproof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// TestUpgradeUnderRun upgrades an old Synapse to the newest one while the agent
// follows: a hundred changes of the schema, rewrites in the background, and people
// who write. The homeserver notices nothing; commits before and after are exact;
// each one between is exact, or inside an interval that is named.
func TestUpgradeUnderRun(t *testing.T) {
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	old, err := homeserver.FindOld(root)
	testpg.Need(t, "the old Synapse", err == nil, "tools")
	newest, err := homeserver.Find(root)
	testpg.Need(t, "Synapse", err == nil, "tools")
	l := newLab(t, func(o *homeserver.Options) {
		o.Install = old
		// Work in the background pauses a second between its steps, for the sake of
		// servers larger than this one.
		o.Extra = map[string]any{"background_updates": map[string]any{"sleep_duration_ms": 20, "min_batch_size": 100}}
	})
	oracle := testpg.Begin(t, l.cluster)
	room, err := l.admin.CreateRoom(t.Context(), homeserver.Room{Name: "hall", Public: true})
	if err != nil {
		t.Fatal(err)
	}
	l.attach()
	k := l.start()
	l.ready()
	begin := l.mark("begin")
	chat(t, l.server, l.admin, room, 3*time.Second, nil)
	if err := l.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := l.tables()
	stopped := l.mark("stopped")

	o := l.server.Options()
	o.Install = newest
	begun := time.Now()
	upgraded := l.boot(o)
	booted := time.Since(begun)
	chat(t, upgraded, l.admin.On(upgraded), room, time.Minute, func() bool {
		return l.db.Query(t, "SELECT count(*) FROM background_updates")[0][0] == "0"
	})
	t.Logf("the new Synapse booted in %.1f s, its work in the background ended after %.1f s", booted.Seconds(), time.Since(begun).Seconds())
	l.settled()
	t.Logf("every table is exact again after %.1f s", time.Since(begun).Seconds())
	done := l.mark("done")
	chat(t, upgraded, l.admin.On(upgraded), room, 2*time.Second, nil)
	if err := upgraded.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := l.mark("end")
	l.settled()
	l.verify()
	k.Stop(t)

	added := slices.DeleteFunc(l.tables(), func(name string) bool { return slices.Contains(before, name) })
	if len(added) < 10 {
		t.Errorf("the upgrade made only the tables %q: it was none", added)
	}
	h := &holder{lab: l, oracle: oracle, rng: rand.New(rand.NewPCG(testpg.Seed(t), 83)), view: l.view()}
	h.split("before", begin, stopped, 2, 0, true)
	h.split("during", stopped, done, 3, 2, false)
	h.split("after", done, end, 1, 0, true)
	h.hold(end, false)
	for _, name := range added {
		if !h.restored[name] {
			t.Errorf("the new table %s is not in the newest restore", name)
		}
	}
}

// tables gives the logged tables of Synapse that the database has.
func (l *lab) tables() (all []string) {
	l.t.Helper()
	rows := l.db.Query(l.t, "SELECT 'public.' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relpersistence = 'p'")
	for _, r := range rows {
		all = append(all, r[0])
	}
	return all
}

// chat is one person who writes, answers and reads for at most a time, or until
// enough says so. No request may fail.
func chat(t testing.TB, s *homeserver.Server, c *homeserver.Client, room string, most time.Duration, enough func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	since := ""
	for n := 0; ; n++ {
		if enough != nil && enough() {
			return
		}
		select {
		case <-ctx.Done():
			if enough != nil {
				t.Errorf("%v were not enough for the work in the background", most)
			}
			return
		case <-tick.C:
		}
		id, err := c.Say(t.Context(), room, fmt.Sprintf("message %d", n))
		if err == nil && n%4 == 0 {
			_, err = c.Send(t.Context(), room, "m.reaction", map[string]any{
				"m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": id, "key": "+"},
			})
		}
		if err == nil && n%5 == 0 {
			var u *homeserver.Update
			if u, err = c.Sync(t.Context(), since, 0); err == nil {
				since = u.Next
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", s.Name(), err)
		}
	}
}

// holder holds restores against PostgreSQL's own recovery to the same commit.
type holder struct {
	*lab
	oracle   *testpg.Oracle
	rng      *rand.Rand
	view     *history.View
	restored map[string]bool // the tables of the newest restore
}

// split plans a restore of every commit in (from, to]; then it restores and holds
// some of those that are exact, and some of those that are refused, by consent,
// without the tables that the refusal names. all says that none may be refused.
func (h *holder) split(what string, from, to record.LSN, exact, refused int, all bool) {
	h.t.Helper()
	begin := time.Now()
	var yes, no []record.LSN
	err := h.view.Commits(h.t.Context(), from, to, false, func(c record.Transaction, _ []history.Touch) error {
		var incomplete *restore.IncompleteError
		_, err := restore.NewPlan(h.t.Context(), h.view, h.point(c.End), h.restoreOptions())
		switch {
		case err == nil:
			yes = append(yes, c.End)
		case errors.As(err, &incomplete):
			no = append(no, c.End)
			for _, i := range incomplete.Tables {
				if i.Table == "" || i.Reason == "" {
					h.t.Errorf("commit %s is refused for a table without name or reason: %+v", c.End, i)
				}
			}
		default:
			return fmt.Errorf("plan %s: %w", c.End, err)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Logf("%s: %d commits are exact, %d lie in a named interval (planned in %.1f s)", what, len(yes), len(no), time.Since(begin).Seconds())
	if all && len(no) > 0 || len(yes)+len(no) == 0 {
		h.t.Errorf("%s: %d commits of %d are not exact", what, len(no), len(yes)+len(no))
	}
	some := append(h.some(yes, exact), h.some(no, refused)...)
	slices.SortFunc(some, cmp.Compare) // the oracle goes forward cheaply
	for _, at := range some {
		h.hold(at, slices.Contains(no, at))
	}
}

func (h *holder) some(all []record.LSN, n int) (out []record.LSN) {
	for _, i := range h.rng.Perm(len(all))[:min(n, len(all))] {
		out = append(out, all[i])
	}
	return out
}

func (h *holder) point(at record.LSN) restore.Point {
	h.t.Helper()
	target, err := restore.ParseTarget("lsn:"+at.String(), time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := target.Resolve(h.t.Context(), h.view)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// hold restores a commit and compares every table that is promised: all, or with
// consent all that the plan does not name as incomplete.
func (h *holder) hold(at record.LSN, consent bool) {
	h.t.Helper()
	begin := time.Now()
	r := h.restoreTo("lsn:"+at.String(), func(o *restore.Options) { o.AcceptIncomplete = consent })
	skip := map[string]bool{}
	for _, i := range r.plan.Incomplete {
		skip[i.Table] = true
	}
	h.restored = map[string]bool{}
	for _, t := range r.report.Tables {
		h.restored[t.Table] = true
	}
	took := time.Since(begin)
	c := h.oracle.At(h.t, at)
	left := func(schema, table string) bool { return skip[schema+"."+table] || schema == "lifeboat" }
	diff, err := testpg.Differences(h.t.Context(), c.DSN(h.db.Name), r.DSN, left)
	if errors.Is(err, testpg.ErrLocked) {
		c = h.oracle.Promote(h.t)
		diff, err = testpg.Differences(h.t.Context(), c.DSN(h.db.Name), r.DSN, left)
	}
	if err != nil {
		h.t.Fatalf("compare %s: %v", at, err)
	}
	for _, d := range diff {
		h.t.Errorf("at %s, recovery is the first, the restore the second: %s", at, d)
	}
	h.t.Logf("%s: %d tables, %d left out; restored in %.1f s, held in %.1f s", at, len(r.report.Tables), len(skip), took.Seconds(), (time.Since(begin) - took).Seconds())
}
