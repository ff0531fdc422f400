package proof

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// TestTakeoverFences has two agents on one source. While the first holds the slot,
// the second says that it is later's turn. When the first is frozen and its
// session ended, the second takes over; the first, thawed with commits in its
// hands, must not write them any more, and nothing is lost.
func TestTakeoverFences(t *testing.T) {
	t.Parallel()
	l := newLab(t, testpg.Newest, "CREATE TABLE k (id int PRIMARY KEY, v text)", "INSERT INTO k SELECT i, 'first' FROM generate_series(1, 100) i")
	l.cluster.SetConf(t, "wal_sender_timeout", "10s") // twice this is how long the slot is asked for
	l.attach()
	first := l.start(nil)
	l.ready()
	other := filepath.Join(l.dir, "other")
	if err := os.CopyFS(other, os.DirFS(l.child.State)); err != nil {
		t.Fatal(err)
	}
	second := func() *child { return l.start(func(c *childConfig) { c.State = other }) }

	refused := second()
	l.db.Exec(t, "UPDATE k SET v = 'while two run' WHERE id < 50")
	if code := refused.Wait(t, 2*time.Minute); code != exitLater {
		t.Errorf("a second agent ends with %d, want %d:\n%s", code, exitLater, refused.Tail(5))
	}
	l.mark("two")

	// The first one reads, and waits with what it has, when it freezes.
	first.Stop(t)
	first = l.start(func(c *childConfig) { c.Tuning.RPO = 20 * time.Second })
	active := func() string {
		rows := l.cluster.Query(t, "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = '"+l.db.Name+"'")
		return rows[0][0]
	}
	testpg.WaitFor(t, 2*time.Minute, "the first agent to stream", func() bool {
		return active() != "0" && strings.Contains(first.Output(), "msg=streaming")
	})
	l.db.Exec(t, "UPDATE k SET v = 'in its hands' WHERE id > 50")
	testpg.WaitFor(t, 2*time.Minute, "the first agent to be sent the commit", func() bool {
		return l.cluster.Query(t, "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = '"+l.db.Name+"' AND r.sent_lsn >= pg_current_wal_flush_lsn()")[0][0] == "1"
	})
	first.Signal(t, syscall.SIGSTOP)
	pid := active()
	l.db.Exec(t, "SELECT pg_terminate_backend("+pid+", 10000)")
	epochs := len(l.view().Epochs)
	taker := second()
	l.until(2*time.Minute, "the takeover", func(v *history.View) bool { return len(v.Epochs) > epochs })
	l.db.Exec(t, "INSERT INTO k VALUES (1000, 'after the takeover')")
	l.mark("taken")
	first.Signal(t, syscall.SIGCONT)
	code := first.Wait(t, 2*time.Minute)
	if code != exitFenced && code != exitLater {
		t.Errorf("the first agent ends with %d, want %d or %d:\n%s", code, exitFenced, exitLater, first.Tail(10))
	}
	t.Logf("the first agent ended with %d: %s", code, first.Tail(1))
	if taker.Ended() {
		t.Errorf("the second agent ended:\n%s", taker.Tail(10))
	}
	l.db.Exec(t, "DELETE FROM k WHERE id = 7")
	l.mark("end")
	l.live()
	taker.Stop(t)
	l.verify()

	v := l.view()
	all := commits(t, v)
	exact := true
	to := testpg.Shared(t, testpg.Newest).Database(t)
	plan := l.plan(v, point{target: "latest", want: all[len(all)-1].End}, &exact)
	if !exact {
		t.Error("the newest state is not exact")
	}
	if _, err := plan.Materialise(t.Context(), to.DSN, l.operator, nil); err != nil {
		t.Fatal(err)
	}
	testpg.CompareTables(t, l.db.DSN, to.DSN, func(schema, _ string) bool { return schema == "lifeboat" })
}
