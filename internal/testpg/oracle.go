package testpg

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/record"
)

// Oracle knows the state of a whole cluster at any position, by means that are
// not ours: a pg_basebackup, the write-ahead log from pg_receivewal, and
// PostgreSQL's own recovery.
type Oracle struct {
	// From is the first position that At can give.
	From record.LSN

	source   *Cluster
	slot     string
	dir      string // base/, wal/, logs
	receiver *process
	standby  *Cluster // the newest answer of At
	at       record.LSN
	points   int
}

// Begin takes the base and starts receiving. The oracle ends with the test. The
// source may be restarted or killed meanwhile; the receiver comes back within
// five seconds.
func Begin(t testing.TB, source *Cluster) *Oracle {
	t.Helper()
	dir, err := reserve("oracle")
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	o := &Oracle{source: source, dir: dir, slot: "oracle_" + filepath.Base(dir)[len("oracle-"):]}
	t.Cleanup(func() { o.end(t) })
	if err := os.Mkdir(o.path("wal"), 0o755); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	if err := own(o.path("wal")); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	// Reserved at once, so that the receiver misses nothing of what the base needs.
	source.Query(t, "SELECT pg_create_physical_replication_slot("+quote(o.slot)+", true)")
	o.receiver, err = start(syscall.SIGKILL, o.path("receiver.log"), Bin(t, Newest, "pg_receivewal"),
		"-D", o.path("wal"), "-S", o.slot, "--no-sync", "-d", source.DSN("postgres"))
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	err = runAs(o.path("base.log"), Bin(t, Newest, "pg_basebackup"),
		"-D", o.path("base"), "-X", "none", "--checkpoint=fast", "--no-sync", "--no-manifest", "-d", source.DSN("postgres"))
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	o.From = o.reach(t)
	return o
}

func (o *Oracle) path(name string) string { return filepath.Join(o.dir, name) }

func (o *Oracle) end(t testing.TB) {
	if t.Failed() && o.receiver != nil {
		b, _ := os.ReadFile(o.path("receiver.log"))
		t.Logf("the end of the receiver's log:\n%s", tail(b, 10))
	}
	if o.standby != nil {
		o.standby.remove()
	}
	if o.receiver != nil {
		o.receiver.end(5*time.Second, syscall.SIGINT)
	}
	o.source.mu.Lock()
	up := o.source.proc != nil && !o.source.proc.ended()
	o.source.mu.Unlock()
	if up {
		o.source.Query(t, "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = "+quote(o.slot)+" AND active_pid IS NOT NULL")
		o.source.Query(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = "+quote(o.slot))
	}
	_ = os.RemoveAll(o.dir)
}

// At gives the cluster as it was at a position: every record of the write-ahead
// log that starts before lsn is replayed. With a transaction's End its commit is
// in, with its Commit it is not. The cluster is a standby that stands still there,
// read-only. It lasts until the next call or the end of the test; ascending
// positions are cheap, since the same standby moves on.
func (o *Oracle) At(t testing.TB, lsn record.LSN) *Cluster {
	t.Helper()
	if lsn < o.From {
		t.Fatalf("oracle: %s is before its first position %s", lsn, o.From)
	}
	o.reach(t)
	if o.standby == nil || lsn < o.at {
		o.anew(t)
	}
	o.standby.down(syscall.SIGINT)
	o.standby.conf["recovery_target_lsn"] = lsn.String()
	if err := o.standby.up(true); err != nil {
		t.Fatalf("oracle at %s: %v", lsn, err)
	}
	o.at = lsn
	WaitFor(t, 2*time.Minute, "the oracle to stand at "+lsn.String(), func() bool {
		return o.standby.Query(t, "SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused"
	})
	got, err := record.ParseLSN(o.standby.Query(t, "SELECT pg_last_wal_replay_lsn()")[0][0])
	if err != nil {
		t.Fatalf("oracle at %s: %v", lsn, err)
	}
	// A page's header may lie between the end of one record and the start of the next.
	const header = 40
	if got+header < lsn || got > lsn && o.standby.Query(t, "SELECT pg_wal_lsn_diff("+quote(got.String())+", "+quote(lsn.String())+") > 1048576")[0][0] == "t" {
		t.Fatalf("oracle: stands at %s, not at %s", got, lsn)
	}
	return o.standby
}

// Promote ends the recovery where At stands: transactions that had not ended there
// are rolled back and their locks are gone. The next At begins with a new copy.
func (o *Oracle) Promote(t testing.TB) *Cluster {
	t.Helper()
	o.standby.Query(t, "SELECT pg_promote(true, 60)")
	WaitFor(t, time.Minute, "the oracle's promotion", func() bool {
		return o.standby.Query(t, "SELECT pg_is_in_recovery()")[0][0] == "f"
	})
	o.at = ^record.LSN(0)
	return o.standby
}

// anew makes the standby from a fresh copy of the base.
func (o *Oracle) anew(t testing.TB) {
	t.Helper()
	if o.standby != nil {
		o.standby.remove()
		o.standby = nil
	}
	dir, err := reserve("point")
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	c := &Cluster{Major: o.source.Major, Dir: filepath.Join(dir, "data"), install: o.source.install, log: filepath.Join(dir, "server.log")}
	o.source.mu.Lock()
	c.conf = maps.Clone(o.source.conf)
	o.source.mu.Unlock()
	wal := o.path("wal")
	maps.Copy(c.conf, map[string]string{
		"hot_standby": "on", "recovery_target_inclusive": "off", "recovery_target_action": "pause", "recovery_target_timeline": "current",
		// The newest file is still being received.
		"restore_command":           fmt.Sprintf(`cp "%s/%%f" "%%p" 2>/dev/null || cp "%s/%%f.partial" "%%p"`, wal, wal),
		"synchronous_standby_names": "",
	})
	if err := copyTree(o.path("base"), c.Dir); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "recovery.signal"), nil, 0o644); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil { // the server insists
		t.Fatalf("oracle: %v", err)
	}
	if err := own(c.Dir); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	o.standby = c
}

// reach waits until everything that the source has written by now is in the
// receiver's files, and gives the position. It writes a restore point, whose
// record is the proof: recovery needs a record after its target to stop at it.
func (o *Oracle) reach(t testing.TB) record.LSN {
	t.Helper()
	o.source.mu.Lock()
	down := o.source.proc == nil || o.source.proc.ended()
	o.source.mu.Unlock()
	if down {
		t.Fatal("oracle: the source is down")
	}
	var pos record.LSN
	found := func() bool { return false }
	next := func() {
		o.points++
		name := o.slot + "/" + strconv.Itoa(o.points) + "/"
		l, err := record.ParseLSN(o.source.Query(t, "SELECT pg_create_restore_point("+quote(name)+")")[0][0])
		if err != nil {
			t.Fatalf("oracle: %v", err)
		}
		pos, found = l, func() bool { return bytes.Contains(o.received(l), []byte(name)) }
	}
	next()
	tries := 0
	WaitFor(t, time.Minute, "the receiver", func() bool {
		// A name that lies across two pages is never found: write another.
		if tries++; tries%100 == 0 {
			next()
		}
		if o.receiver.ended() {
			t.Fatal("oracle: the receiver has ended")
		}
		return found()
	})
	return pos
}

// received gives the bytes before a position as far as they lie in its segment.
func (o *Oracle) received(end record.LSN) []byte {
	const segment = 16 << 20 // wal_segment_size of every cluster here
	n := uint64(end-1) / segment
	name := o.path(fmt.Sprintf("wal/%08X%08X%08X", 1, n>>8, n&0xFF))
	f, err := os.Open(name)
	if err != nil {
		if f, err = os.Open(name + ".partial"); err != nil {
			return nil
		}
	}
	defer f.Close()
	to := int64(uint64(end) - n*segment)
	b := make([]byte, min(to, 256))
	if _, err := f.ReadAt(b, to-int64(len(b))); err != nil {
		return nil
	}
	return b
}
