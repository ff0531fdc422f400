package cdc

import (
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// sourceOf connects to a database as a role ("" is the superuser).
func sourceOf(t testing.TB, d *testpg.Database, role string) *Source {
	t.Helper()
	dsn := d.DSN
	if role != "" {
		dsn = d.As(role)
	}
	s, err := Connect(t.Context(), Config{DSN: dsn, Quiet: time.Millisecond, Minimal: func(_, table string) string {
		if table == "wide" {
			return "its rows are too large"
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(t.Context()) })
	return s
}

func catalogOf(t testing.TB, s *Source) *Catalog {
	t.Helper()
	c, err := s.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tableOf(t testing.TB, s *Source, name string) Table {
	t.Helper()
	x := catalogOf(t, s).Lookup("public", name)
	if x == nil {
		t.Fatalf("no table %s in the catalog", name)
	}
	return *x
}

func each(t *testing.T, f func(t *testing.T, c *testpg.Cluster)) {
	for _, major := range []int{testpg.Newest, testpg.Oldest} {
		t.Run(map[int]string{testpg.Newest: "newest", testpg.Oldest: "oldest"}[major], func(t *testing.T) {
			f(t, testpg.Shared(t, major))
		})
	}
}

func TestIdentifyAndNow(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		s := sourceOf(t, d, "")
		id, err := s.Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := d.Query(t, "SELECT (SELECT system_identifier FROM pg_control_system()), oid, (SELECT timeline_id FROM pg_control_checkpoint()) FROM pg_database WHERE datname = current_database()")[0]
		have := []string{itoa(id.SystemID), itoa(uint64(id.Source.Database)), itoa(uint64(id.Timeline))}
		if strings.Join(have, " ") != strings.Join(want, " ") || id.Version/10000 != c.Major || id.Database != d.Name || id.InRecovery {
			t.Errorf("identity %+v, want %v", id, want)
		}
		a, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.Exec(t, "CREATE TABLE t(i int)", "INSERT INTO t VALUES (1)")
		b, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b.Insert <= a.Insert || b.Snapshot.XMax <= a.Snapshot.XMax || b.Flush > b.Insert {
			t.Errorf("positions did not move: %+v, %+v", a, b)
		}
		if d := time.Since(b.Time.Time()); d < -time.Minute || d > time.Minute {
			t.Errorf("time %s is %s off", b.Time, d)
		}
	})
}

func TestPinsWinOverRoleAndDatabase(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	for name, value := range map[string]string{
		"DateStyle": "German", "IntervalStyle": "sql_standard", "extra_float_digits": "-3", "bytea_output": "escape",
		"TimeZone": "Asia/Tokyo", "search_path": "public", "xmloption": "document", "lock_timeout": "0",
		"statement_timeout": "1h", "synchronous_commit": "remote_apply", "row_security": "on", "transaction_timeout": "1h", "client_encoding": "LATIN1",
	} {
		d.Exec(t, "ALTER DATABASE "+d.Name+" SET "+name+" = '"+value+"'")
	}
	s := sourceOf(t, d, "")
	c, err := s.open(t.Context(), "test", sessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.shut()
	if err := c.verify(t.Context()); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{
		"lock_timeout": "200ms", "synchronous_commit": "off", "tcp_user_timeout": "5000", "statement_timeout": "0", "row_security": "off",
		"idle_in_transaction_session_timeout": "5s", "transaction_timeout": "0", "client_encoding": "UTF8",
	} {
		r, err := c.one(t.Context(), "SHOW "+name)
		if err != nil {
			t.Fatal(err)
		}
		if have := r.text(); have != want {
			t.Errorf("%s is %s, want %s", name, have, want)
		}
	}
}

func TestSequences(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, `CREATE SEQUENCE s1`, `CREATE SCHEMA "Ünï"`, `CREATE SEQUENCE "Ünï"."S 2" INCREMENT -2 MAXVALUE 100 START 100`,
		`SELECT nextval('s1'), nextval('s1')`, `CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY)`)
	s := sourceOf(t, d, "")
	list, err := s.Sequences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]record.Sequence{}
	for _, q := range list {
		have[q.Schema+"."+q.Name] = q
	}
	if q := have["public.s1"]; q.Last != 2 || !q.Called || q.At == 0 {
		t.Errorf("s1 is %+v", q)
	}
	if q := have["Ünï.S 2"]; q.Last != 100 || q.Called {
		t.Errorf("S 2 is %+v", q)
	}
	if len(have) != 3 {
		t.Errorf("%d sequences, want 3", len(have))
	}
	d.Exec(t, "BEGIN", "DROP SEQUENCE s1")
	if list, err = s.Sequences(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("while one is locked: %d sequences, %v", len(list), err)
	}
	d.Exec(t, "ROLLBACK")
}

func TestSchemaFingerprint(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (i int PRIMARY KEY, v text)", "CREATE TYPE mood AS ENUM ('a')", "CREATE SEQUENCE q",
		"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 2000) g")
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := catalogOf(t, s).Fingerprint
	for _, sql := range []string{
		"INSERT INTO t VALUES (0, 'y')", "TRUNCATE t RESTART IDENTITY", "VACUUM FULL t", "ANALYZE t", "SELECT nextval('q')",
		"CREATE TEMP TABLE tmp (i serial PRIMARY KEY, v text DEFAULT 'x')", "DROP TABLE tmp", "REINDEX TABLE t",
		"ALTER PUBLICATION lifeboat ADD TABLE t", "VACUUM FREEZE", "CREATE TEMP VIEW tv AS SELECT 1 AS x", "CHECKPOINT",
	} {
		d.Exec(t, sql)
		if now := catalogOf(t, s).Fingerprint; now != last {
			t.Errorf("%s changed the fingerprint", sql)
			last = now
		}
	}
	for _, sql := range []string{
		"ALTER TABLE t ADD w int", "ALTER TABLE t ALTER w SET DEFAULT 3", "ALTER TABLE t DROP w", "CREATE INDEX ON t (v)",
		"ALTER TYPE mood ADD VALUE 'b'", "ALTER TYPE mood RENAME VALUE 'b' TO 'c'", "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
		"COMMENT ON TABLE t IS 'x'", "GRANT SELECT ON t TO PUBLIC", "GRANT CREATE ON SCHEMA public TO PUBLIC", "CREATE VIEW w AS SELECT 1 AS x", "ALTER SEQUENCE q OWNED BY t.i",
		"ALTER SEQUENCE q INCREMENT 2", "ALTER TABLE t REPLICA IDENTITY FULL", "ALTER TABLE t RENAME v TO z", "CREATE SCHEMA other",
		"ALTER TABLE t SET (fillfactor = 50)", "ALTER TABLE t ADD CHECK (i > 0)", "CREATE TABLE c () INHERITS (t)", "ALTER TABLE c NO INHERIT t",
		"CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION et()", "ALTER TABLE t DISABLE TRIGGER ALL", "CREATE PUBLICATION other_pub",
		"CREATE STATISTICS st ON i, z FROM t", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
	} {
		if strings.HasPrefix(sql, "CREATE EVENT") {
			d.Exec(t, "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'", "CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
				"CREATE TRIGGER tr AFTER INSERT ON t EXECUTE FUNCTION tr()")
			last = catalogOf(t, s).Fingerprint
		}
		d.Exec(t, sql)
		now := catalogOf(t, s).Fingerprint
		if now == last {
			t.Errorf("%s did not change the fingerprint", sql)
		}
		last = now
	}
}

func TestTableFingerprint(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TYPE mood AS ENUM ('a')", "CREATE TYPE pair AS (a int, b mood)", "CREATE DOMAIN dom AS int[]",
		"CREATE TABLE t (i int PRIMARY KEY, v numeric, p pair[], d dom, r int4range)", "INSERT INTO t VALUES (1, 2)")
	s := sourceOf(t, d, "")
	types := func() [32]byte {
		f, err := s.TypeFingerprint(t.Context(), tableOf(t, s, "t"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	last := tableOf(t, s, "t")
	for _, sql := range []string{"TRUNCATE t", "VACUUM FULL t", "ALTER TABLE t REPLICA IDENTITY FULL", "CREATE INDEX ON t (v)", "ANALYZE t"} {
		d.Exec(t, sql)
		now := tableOf(t, s, "t")
		if now.Fingerprint != last.Fingerprint {
			t.Errorf("%s changed the table's fingerprint", sql)
		}
		last = now
	}
	for _, sql := range []string{
		"ALTER TABLE t ALTER v TYPE numeric USING v * 10", "ALTER TABLE t ADD w int DEFAULT random() * 100", "ALTER TABLE t DROP w",
		"ALTER TABLE t RENAME v TO z", "ALTER TABLE t SET UNLOGGED",
	} {
		d.Exec(t, sql)
		now := tableOf(t, s, "t")
		if now.Fingerprint == last.Fingerprint {
			t.Errorf("%s did not change the table's fingerprint", sql)
		}
		last = now
	}
	lastTypes := types()
	for _, sql := range []string{
		"ALTER TYPE mood RENAME VALUE 'a' TO 'b'", "ALTER TYPE mood ADD VALUE 'c'", "ALTER TYPE pair ADD ATTRIBUTE c text", "ALTER TYPE pair RENAME ATTRIBUTE a TO x",
	} {
		d.Exec(t, sql)
		now := types()
		if now == lastTypes {
			t.Errorf("%s did not change the fingerprint of types", sql)
		}
		lastTypes = now
	}
}
