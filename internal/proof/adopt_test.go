package proof

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// restoreInto restores a point of whichever branch has it into a new database, and
// proves it to be what the plan says; it gives the database and the branch.
func (l *lab) restoreInto(at string) (*testpg.Database, restore.Point, history.LineageID) {
	l.t.Helper()
	target, err := restore.ParseTarget(at, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	branches, err := restore.ReadBranches(l.t.Context(), l.repo, l.operator, l.lineage())
	if err != nil {
		l.t.Fatal(err)
	}
	v, point, err := branches.Resolve(l.t.Context(), target)
	if err != nil {
		l.t.Fatalf("%s: %v", at, err)
	}
	plan, err := restore.NewPlan(l.t.Context(), v, point, restore.Options{PgRestore: l.child.Source.PgBin})
	if err != nil {
		l.t.Fatalf("%s: %v", at, err)
	}
	db := l.cluster.Database(l.t)
	if _, err := plan.Materialise(l.t.Context(), db.DSN, l.operator, nil); err != nil {
		l.t.Fatalf("%s: %v", at, err)
	}
	return db, point, v.ID
}

func (l *lab) lineage() history.LineageID {
	l.t.Helper()
	id, err := agent.Lineage(l.child.State)
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

// follow makes a database the one that is backed up from here on.
func (l *lab) follow(db *testpg.Database, slot string) {
	l.db, l.child.Source.Slot, l.child.Source.DSN = db, slot, db.DSN
}

// stored gives the bytes of all chunks.
func (l *lab) stored() (n int64) {
	l.t.Helper()
	err := l.repo.Backend().List(l.t.Context(), "chunk/", func(i chunkstore.Info) error {
		n += i.Size
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func identities(t testing.TB, db *testpg.Database) string {
	t.Helper()
	return fmt.Sprint(db.Query(t, "SELECT relname, relreplident FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname"))
}

func comment(t testing.TB, db *testpg.Database) string {
	t.Helper()
	return db.Query(t, "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()")[0][0]
}

// adopt opens the next branch for the database that is followed, waits for its
// first copies and checks what the branch says of its parent.
func (l *lab) adopt(parent history.Parent) *child {
	l.t.Helper()
	before := l.stored()
	k := l.start(func(c *childConfig) { c.Adopt = true })
	l.until(2*time.Minute, "the branch of "+parent.Trace(), func(v *history.View) bool { return v.ID != parent.ID && v.Ready })
	v := l.view()
	if p := v.Epochs[0].Parent; p == nil || *p != parent {
		l.t.Errorf("the branch says that its parent is %+v, want %+v", p, parent)
	}
	base := int64(0)
	for _, b := range v.Bases {
		base += b.Bytes
	}
	if grown := l.stored() - before; grown > max(base/10, 64<<10) {
		l.t.Errorf("adopting wrote %d bytes of chunks for %d bytes of rows: chunks are not shared", grown, base)
	} else {
		l.t.Logf("adopted: %d bytes of new chunks for %d bytes of rows", grown, base)
	}
	return k
}

// TestAdoptRestored goes round: restore to before an accident, adopt the restored
// database, go on, restore on either side of the branch, adopt again.
func TestAdoptRestored(t *testing.T) {
	t.Parallel()
	l := newLab(
		t, testpg.Newest,
		"CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE bag (v text)",
		"INSERT INTO a SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 20000) i",
		"INSERT INTO bag SELECT md5((i / 2)::text) FROM generate_series(1, 20000) i",
	)
	source := l.db
	before := identities(t, source)
	l.attach()
	oracle := testpg.Begin(t, l.cluster)
	root := l.lineage()
	k := l.start(nil)
	l.ready()
	l.db.Exec(t, "UPDATE a SET v = 'changed' WHERE id % 100 = 0", "INSERT INTO bag VALUES ('x')")
	good := l.mark("good")
	l.db.Exec(t, "DELETE FROM a")
	accident := l.mark("accident")
	k.Stop(t)

	first, point, of := l.restoreInto("mark:good")
	if of != root {
		t.Fatalf("mark:good is in %s", of)
	}
	parent := history.Parent{ID: root, At: point.LSN}
	if got := comment(t, first); got != parent.Trace() {
		t.Errorf("the restored database's comment is %q, want %q", got, parent.Trace())
	}
	if got := identities(t, first); got != before {
		t.Errorf("identities after the restore: %s, before attach: %s", got, before)
	}

	// The slot's name is taken in the whole cluster: one sentence says what to write.
	old := l.child.Source.Slot
	l.follow(first, old)
	refused := l.start(func(c *childConfig) { c.Adopt = true })
	if code := refused.Wait(t, 2*time.Minute); code == 0 || !strings.Contains(refused.Output(), "`slot: "+old+"_2`") {
		t.Errorf("a taken slot: %d: %s", code, refused.Output())
	}
	if l.lineage() != root {
		t.Fatal("an adoption that was refused changed the state")
	}
	l.follow(first, old+"_2")
	if _, err := agent.Attach(t.Context(), l.repo, l.secrets(), l.options(), false); err == nil || !strings.Contains(err.Error(), "`lifeboat run --adopt`") {
		t.Errorf("attach of a restored database: %v", err)
	}
	k = l.adopt(parent)
	if got := comment(t, first); got != "" {
		t.Errorf("the trace stays after the adoption: %q", got)
	}
	branch := l.lineage()
	first.Exec(t, "INSERT INTO a SELECT i, 'branch' FROM generate_series(100001, 100100) i", "DELETE FROM bag WHERE v = 'x'")
	later := l.mark("later")
	first.Exec(t, "TRUNCATE a")
	l.mark("second accident")
	l.live()
	k.Stop(t)

	// Both sides of the branch, by position, each as physical recovery has it.
	for _, p := range []struct {
		at  record.LSN
		of  history.LineageID
		was *testpg.Database
	}{{good, root, source}, {accident, root, source}, {later, branch, first}} {
		got, point, of := l.restoreInto("lsn:" + p.at.String())
		if of != p.of {
			t.Errorf("lsn:%s is taken from %s, want %s", p.at, of, p.of)
		}
		testpg.CompareTables(t, oracle.At(t, point.LSN).DSN(p.was.Name), got.DSN, nil)
	}

	// Once more, from the branch.
	second, point, of := l.restoreInto("mark:later")
	if of != branch {
		t.Fatalf("mark:later is in %s", of)
	}
	l.follow(second, old+"_3")
	k = l.adopt(history.Parent{ID: branch, At: point.LSN})
	second.Exec(t, "INSERT INTO bag VALUES ('second')")
	end := l.mark("end")
	l.live()
	k.Stop(t)
	got, _, _ := l.restoreInto("latest")
	testpg.CompareTables(t, oracle.At(t, end).DSN(second.Name), got.DSN, nil)
	l.verify()
	if _, err := agent.Detach(t.Context(), l.repo, l.secrets(), l.options(), false); err != nil {
		t.Fatal(err)
	}
	if got := identities(t, second); got != before {
		t.Errorf("identities after detach: %s, before attach: %s", got, before)
	}
}

// TestAdoptSame opens a new lineage for the same database: what the parent noted of
// its identities is carried, so that detach puts them back; a lost state directory
// does not change that.
func TestAdoptSame(t *testing.T) {
	t.Parallel()
	l := newLab(
		t, testpg.Newest, "CREATE TABLE k (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int NOT NULL UNIQUE, v text)",
		"ALTER TABLE u REPLICA IDENTITY USING INDEX u_id_key", "INSERT INTO k VALUES (1, 'x')",
	)
	before := identities(t, l.db)
	l.attach()
	k := l.start(nil)
	l.ready()
	l.mark("end")
	k.Stop(t)
	v := l.view()
	k = l.adopt(history.Parent{ID: v.ID, At: v.Durable})
	l.mark("in the second")
	k.Stop(t)

	second := l.view()
	l.child.State = filepath.Join(l.dir, "another state")
	if err := agent.SaveSecrets(l.child.State, l.operator); err != nil {
		t.Fatal(err)
	}
	k = l.start(func(c *childConfig) { c.Adopt = true })
	testpg.WaitFor(t, 2*time.Minute, "the third lineage", func() bool {
		id, err := agent.Lineage(l.child.State)
		return err == nil && id != second.ID
	})
	l.ready()
	k.Stop(t)
	if p := l.view().Epochs[0].Parent; p == nil || p.ID != second.ID {
		t.Errorf("the third lineage's parent is %+v, want %s", p, second.ID)
	}
	if _, err := agent.Detach(t.Context(), l.repo, l.secrets(), l.options(), false); err != nil {
		t.Fatal(err)
	}
	if got := identities(t, l.db); got != before {
		t.Errorf("identities after detach: %s, before attach: %s", got, before)
	}
	if got := l.db.Query(t, "SELECT indexrelid::regclass FROM pg_index WHERE indisreplident"); len(got) != 1 || got[0][0] != "u_id_key" {
		t.Errorf("the identity index is %v", got)
	}
}
