package agent

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// settled waits until the log knows the catalog as it is and every table is exact.
func (b *bench) settled() {
	b.t.Helper()
	src, err := cdc.Connect(b.t.Context(), cdc.Config{DSN: b.db.DSN, Slot: b.o.Source.Slot, Publication: b.o.Source.Publication})
	if err != nil {
		b.t.Fatal(err)
	}
	defer src.Close(b.t.Context())
	cat, err := src.Catalog(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	n := 0
	testpg.WaitFor(b.t, 2*time.Minute, "the agent to know the new schema", func() bool {
		if n++; n%20 == 1 {
			b.db.Exec(b.t, "INSERT INTO tick DEFAULT VALUES") // traffic makes the agent look
		}
		v := b.view()
		if k := len(v.Schemas); k == 0 || len(openIncompletes(v)) > 0 {
			return false
		} else if v.Schemas[k-1].Fingerprint == cat.Fingerprint {
			return true
		}
		cat, err = src.Catalog(b.t.Context()) // entering a table changes the catalog
		return err != nil
	})
}

// twin copies the source as it is, for a later comparison.
func (b *bench) twin() *testpg.Database {
	b.t.Helper()
	db := b.db.Cluster.Database(b.t)
	file := filepath.Join(b.t.TempDir(), "dump")
	testpg.Run(b.t, testpg.Bin(b.t, 18, "pg_dump"), "-Fc", "--no-publications", "-f", file, "-d", b.db.DSN)
	testpg.Run(b.t, testpg.Bin(b.t, 18, "pg_restore"), "-d", db.DSN, file)
	return db
}

// restoreAt brings the state at a target into a new database.
func (b *bench) restoreAt(target string, o restore.Options) (*testpg.Database, error) {
	b.t.Helper()
	v := b.view()
	t, err := restore.ParseTarget(target, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := t.Resolve(b.t.Context(), v)
	if err != nil {
		return nil, err
	}
	o.PgRestore = b.o.Source.PgBin
	plan, err := restore.NewPlan(b.t.Context(), v, p, o)
	if err != nil {
		return nil, err
	}
	db := b.db.Cluster.Database(b.t)
	_, err = plan.Materialise(b.t.Context(), db.DSN, b.operator, restore.NoProgress{})
	return db, err
}

// TestSchemaChanges runs the statements that logical decoding does not show, and
// restores before and after each: exact, or refused by name, never silently wrong.
func TestSchemaChanges(t *testing.T) {
	b := newBench(
		t, testpg.Shared(t, 18), nil,
		"CREATE TABLE tick (id serial PRIMARY KEY)",
		"CREATE TABLE a (id int PRIMARY KEY, v text)", "INSERT INTO a SELECT i, i::text FROM generate_series(1, 500) i",
		"CREATE TABLE b (v text)", "INSERT INTO b SELECT i::text FROM generate_series(1, 100) i",
	)
	b.attach()
	stop := b.run()
	b.waitReady()
	b.settled()
	steps := []struct {
		name string
		sql  []string
	}{
		{"begin", []string{"UPDATE a SET v = v || '0' WHERE id < 50"}},
		{"volatile default", []string{"ALTER TABLE a ADD COLUMN r double precision DEFAULT random()", "UPDATE a SET v = '7' WHERE id = 7"}},
		{"rewrite", []string{"ALTER TABLE a ALTER COLUMN v TYPE bigint USING v::bigint * 10", "INSERT INTO a VALUES (-1, 5, 0)"}},
		{"same relation message", []string{"ALTER TABLE a ALTER COLUMN v TYPE bigint USING v + 1"}},
		{"new table", []string{"CREATE TABLE c (x int, y text); INSERT INTO c SELECT i, 'c' FROM generate_series(1, 50) i", "DELETE FROM c WHERE x = 1"}},
		{"dropped table", []string{"DROP TABLE b", "INSERT INTO c VALUES (99, NULL)"}},
		{"renamed", []string{"ALTER TABLE a RENAME TO a2", "INSERT INTO a2 VALUES (-2, 0, 0)"}},
		{"vacuum full and truncate", []string{"VACUUM FULL a2", "TRUNCATE c", "INSERT INTO c VALUES (1, 'new')"}},
		{"partitions", []string{
			"CREATE TABLE p (k int, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (3, 'in')",
			"CREATE TABLE p2 (k int, v text); INSERT INTO p2 SELECT i, 'attached' FROM generate_series(10, 19) i; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)",
			"UPDATE p SET k = k + 10 WHERE k = 3",
		}},
		{"same name again", []string{"DROP TABLE c; CREATE TABLE c (other bytea, id bigserial PRIMARY KEY); INSERT INTO c (other) VALUES ('\\x00ff')"}},
		{"dropped column and types", []string{
			"CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE a2 DROP COLUMN r; ALTER TABLE a2 ADD COLUMN m mood DEFAULT 'ok'",
			"ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", "UPDATE a2 SET m = 'blue' WHERE id % 2 = 0",
		}},
	}
	twins := map[string]*testpg.Database{}
	for _, s := range steps {
		b.db.Exec(t, s.sql...)
		b.settled()
		twins[s.name] = b.twin()
		b.mark(s.name)
	}
	b.wantLive()
	stop()
	for _, s := range steps {
		db, err := b.restoreAt("mark:"+s.name, restore.Options{})
		if err != nil {
			t.Errorf("restore at %q: %v", s.name, err)
			for _, sc := range b.view().Schemas {
				t.Logf("schema certain from %s to %s", sc.From, sc.Until)
			}
			continue
		}
		if !testpg.CompareTables(t, twins[s.name].DSN, db.DSN, nil) {
			t.Errorf("the restore at %q differs", s.name)
		}
	}
	refused := 0
	v := b.view()
	for _, i := range v.Incompletes {
		inside := 0
		err := v.Commits(t.Context(), i.From, i.Until-1, false, func(record.Transaction, []history.Touch) error {
			inside++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if i.Until <= i.From || inside == 0 {
			continue
		}
		_, err = b.restoreAt("lsn:"+(i.Until-1).String(), restore.Options{})
		var inc *restore.IncompleteError
		if !errors.As(err, &inc) {
			t.Errorf("a restore inside (%s, %s), where %s is %s: %v, want it refused", i.From, i.Until, i.Name, i.Reason, err)
		}
		refused++
	}
	if refused == 0 {
		t.Error("no incomplete interval at all: the statements above have some")
	}
}
