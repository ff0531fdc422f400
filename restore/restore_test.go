package restore

import (
	"errors"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// oddSchema has a table of each shape that a restore must get right.
func oddSchema() []string {
	return []string{
		`CREATE TYPE mood AS ENUM ('sad', 'ok')`, `CREATE SCHEMA "we ""ird"`,
		`CREATE TABLE accounts (id int PRIMARY KEY, balance numeric NOT NULL, note text)`,
		`CREATE TABLE bag (a int, b text)`,
		`CREATE TABLE nothing ()`,
		`CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, twice int GENERATED ALWAYS AS (length(v) * 2) STORED)`,
		`CREATE TABLE "we ""ird"."Tab le" ("Key one" int, k2 text, m mood, j jsonb, PRIMARY KEY (k2, "Key one"))`,
	}
}

func fillOdd() []string {
	return []string{
		`CREATE TABLE part (id int, at date, PRIMARY KEY (id)) PARTITION BY RANGE (id)`,
		`CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (1000)`,
		`CREATE TABLE part_high PARTITION OF part DEFAULT`,
		`CREATE TABLE child (extra text) INHERITS (bag)`,
		`CREATE TABLE refs (id serial PRIMARY KEY, account int REFERENCES accounts)`,
		`CREATE SEQUENCE down INCREMENT BY -5 MINVALUE -20000 START -1`,
		`CREATE MATERIALIZED VIEW m2 AS SELECT count(*) AS n FROM accounts`,
		`CREATE INDEX accounts_note ON accounts (note)`,
		`CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger fired'; END $$`,
		`INSERT INTO accounts SELECT i, i * 1.5, CASE WHEN i % 7 = 0 THEN NULL WHEN i % 5 = 0 THEN '' ELSE repeat('x', i % 50) || E'\t\\' END FROM generate_series(1, 3000) i`,
		`INSERT INTO bag SELECT i % 10, NULLIF('b' || i % 3, 'b0') FROM generate_series(1, 500) i`,
		`INSERT INTO nothing SELECT FROM generate_series(1, 5)`,
		`INSERT INTO always (v) SELECT 'v' || i FROM generate_series(1, 100) i`,
		`INSERT INTO "we ""ird"."Tab le" SELECT i, 'ü' || i, 'ok', '{"a": [1, null]}' FROM generate_series(1, 50) i`,
		`INSERT INTO part SELECT i, '2026-01-01'::date + i FROM generate_series(1, 2000, 10) i`,
		`INSERT INTO child SELECT i, 'c', 'e' || i FROM generate_series(1, 20) i`,
		`INSERT INTO refs (account) SELECT i FROM generate_series(1, 40) i`,
		`SELECT nextval('down') FROM generate_series(1, 10)`,
		`CREATE TRIGGER loud BEFORE INSERT ON refs FOR EACH ROW EXECUTE FUNCTION loud()`,
		`ALTER TABLE refs DISABLE TRIGGER loud`,
		`ALTER TABLE accounts ADD CONSTRAINT later CHECK (balance > 10) NOT VALID`,
		`CREATE PUBLICATION lifeboat FOR TABLE accounts`,
		`CREATE PUBLICATION theirs FOR TABLE bag WITH (publish = 'insert')`,
		`ALTER TABLE accounts REPLICA IDENTITY FULL`,
	}
}

// walk does changes of every sort and gives the points with their rows.
func walk(l *lab) (points []record.Transaction, rows []map[string][]string) {
	keep := func(t record.Transaction) {
		points = append(points, t)
		rows = append(rows, l.snapshotRows())
	}
	keep(l.change(`UPDATE accounts SET balance = balance + 100 WHERE id % 3 = 0`))
	keep(l.change(`DELETE FROM ONLY bag WHERE ctid IN (SELECT ctid FROM ONLY bag WHERE a = 3 LIMIT 7)`, `INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL), (3, 'b1')`))
	keep(l.change(`UPDATE accounts SET id = id + 10000 WHERE id BETWEEN 500 AND 600`, `DELETE FROM nothing WHERE ctid = '(0,2)'`))
	keep(l.change(`DELETE FROM "we ""ird"."Tab le" WHERE "Key one" < 10`, `INSERT INTO always (v) VALUES ('new'), ('newer')`))
	keep(l.change(`INSERT INTO accounts VALUES (500, 12345, 'back again')`, `DELETE FROM part WHERE id > 1500`, `UPDATE child SET b = 'd' WHERE a < 5`))
	return points, rows
}

func TestRestoreEveryPoint(t *testing.T) {
	l := newSource(t, append(oddSchema(), fillOdd()...)...)
	points, rows := walk(l)
	for i, p := range points {
		d, report, err := l.restore("lsn:"+p.End.String(), Options{})
		if err != nil {
			t.Fatalf("point %d: %v\n%+v", i, err, report)
		}
		l.equal(d, rows[i])
		if !report.Verified || len(report.Failed) > 0 {
			t.Fatalf("report: %+v", report)
		}
		for _, tr := range report.Tables {
			if tr.Proof != ProofCommit {
				t.Fatalf("table %s: proof by %s", tr.Table, tr.Proof)
			}
		}
	}
}

func TestRestoreInRounds(t *testing.T) {
	l := newSource(t, append(oddSchema(), fillOdd()...)...)
	points, rows := walk(l)
	last := len(points) - 1
	d, report, err := l.restore("latest", Options{Memory: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	l.equal(d, rows[last])
	if report.Rounds < 3 {
		t.Fatalf("%d rounds: the budget was not felt", report.Rounds)
	}
}

func TestP1_TargetIsEmptyOrRefused(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY)`, `INSERT INTO a VALUES (1)`)
	l.change(`INSERT INTO a VALUES (2)`)
	for _, ddl := range []string{
		`CREATE TABLE x ()`, `CREATE SEQUENCE x`, `CREATE TYPE x AS ENUM ('a')`, `CREATE FUNCTION x() RETURNS int LANGUAGE sql RETURN 1`,
		`CREATE SCHEMA x`, `CREATE VIEW x AS SELECT 1`, `CREATE PUBLICATION x`, `SELECT lo_create(0)`, `CREATE DOMAIN x AS int`,
	} {
		d := l.src.Cluster.Database(t)
		d.Exec(t, ddl)
		_, err := l.restoreInto(d, "latest", Options{StartOver: true})
		if !errors.Is(err, ErrNotEmpty) {
			t.Fatalf("%s: %v", ddl, err)
		}
		if d.Query(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'lifeboat'`)[0][0] != "0" {
			t.Fatalf("%s: the refused database was touched", ddl)
		}
	}
}

func TestP2_WholeTransactionsUpToTheTarget(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY)`, `CREATE TABLE b (i int PRIMARY KEY)`)
	var ts []record.Transaction
	for i := range 5 {
		n := string(rune('1' + i))
		ts = append(ts, l.change(`INSERT INTO a VALUES (`+n+`)`, `INSERT INTO b VALUES (`+n+`)`))
	}
	for i, at := range []string{
		"lsn:" + ts[0].End.String(), "lsn:" + (ts[1].End + 0x20).String(), "before:lsn:" + ts[3].End.String(),
		"before:lsn:" + (ts[3].End + 1).String(),
	} {
		d, report, err := l.restore(at, Options{})
		check(t, err)
		have := d.Query(t, `SELECT (SELECT max(i) FROM a), (SELECT max(i) FROM b), (SELECT count(*) FROM a)`)[0]
		want := string(rune('1' + i))
		if have[0] != want || have[1] != want || have[2] != want {
			t.Fatalf("%s: have %v, want %s (%s)", at, have, want, report.Point)
		}
	}
}

func TestP3_UnverifiedIsVisiblyUnfinished(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, v text)`, `INSERT INTO a VALUES (1, 'one')`)
	a := l.rel("a")
	// A record of a row that was never there: the merge finds the hole after the
	// base is loaded.
	x := &tx{}
	x.add(a, record.Delete, "77\tnever", "")
	l.segment(x)
	d := l.src.Cluster.Database(t)
	d.Exec(t, `COMMENT ON DATABASE `+d.Name+` IS 'mine'`)
	comment := `SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()`
	_, err := l.restoreInto(d, "latest", Options{})
	if !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), "public.a") {
		t.Fatalf("a hole: %v", err)
	}
	if c := d.Query(t, comment)[0][0]; !strings.HasPrefix(c, "UNFINISHED") {
		t.Fatalf("comment %q", c)
	}
	if s := d.Query(t, `SELECT phase FROM lifeboat.restore_state`); len(s) != 1 || s[0][0] != string(PhaseRows) {
		t.Fatalf("state %v", s)
	}
	if _, err = l.restoreInto(d, "before:latest", Options{}); !errors.Is(err, ErrUnfinished) || !strings.Contains(err.Error(), "--start-over") {
		t.Fatalf("again: %v", err)
	}
	report, err := l.restoreInto(d, "lsn:"+labStart.String(), Options{StartOver: true})
	if err != nil {
		t.Fatal(err, report)
	}
	if c := d.Query(t, comment)[0][0]; c != "mine" {
		t.Fatalf("comment afterwards %q", c)
	}
	if n := d.Query(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'lifeboat'`)[0][0]; n != "0" {
		t.Fatal("the state is still there")
	}
}

func TestP4_StoreIsNeverWritten(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, v text)`, `INSERT INTO a VALUES (1, 'one')`)
	l.change(`UPDATE a SET v = 'two'`)
	l.mem.SetFault(func(op storetest.Op, key string) storetest.Fault {
		if op == storetest.OpCreate || op == storetest.OpRemove {
			t.Errorf("the store was written: %s %s", op, key)
		}
		return storetest.None
	})
	if _, _, err := l.restore("latest", Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context(), l.view(), FindOptions{Table: "a"}); err != nil {
		t.Fatal(err)
	}
}

// TestP5_DigestsAreThoseOfTheCommit: a record that was altered in the log, and a
// base chunk whose rows are another table's, are found by the read-back.
func TestP5_DigestsAreThoseOfTheCommit(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, v text)`, `INSERT INTO a VALUES (1, 'one'), (2, 'two')`)
	x := &tx{}
	x.add(l.rel("a"), record.Update, "1\tnot one", "1\tthree")
	l.segment(x)
	d, report, err := l.restore("latest", Options{})
	if !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), "verify table public.a") {
		t.Fatalf("an altered record: %v (%+v)", err, report)
	}
	if d.Query(t, `SELECT count(*) FROM lifeboat.restore_state`)[0][0] != "1" {
		t.Fatal("not marked as unfinished")
	}
}

func TestSchemaArrivesWhole(t *testing.T) {
	l := newSource(t, append(oddSchema(), fillOdd()...)...)
	accounts := l.rel("accounts")
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteIdentity, Identities: []history.IdentityChange{
		{Table: accounts.OID, Schema: "public", Name: "accounts", Old: 'd'},
	}}))
	l.change(`INSERT INTO always (v) SELECT 'w' FROM generate_series(1, 10)`)
	old := l.change(`SELECT nextval('down')`, `INSERT INTO bag VALUES (1)`)
	l.change(`SELECT nextval('down') FROM generate_series(1, 3)`, `INSERT INTO always (v) VALUES ('x')`)
	d, report, err := l.restore("latest", Options{})
	check(t, err)
	for sql, want := range map[string]string{
		`SELECT string_agg(pubname, ',') FROM pg_publication`:            "theirs",
		`SELECT relreplident FROM pg_class WHERE relname = 'accounts'`:   "d",
		`SELECT convalidated FROM pg_constraint WHERE conname = 'later'`: "f",
		`SELECT tgenabled FROM pg_trigger WHERE tgname = 'loud'`:         "D",
		`SELECT n FROM m2`:                                            "3000",
		`SELECT sum(twice) > 0 FROM always`:                           "t",
		`SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'`: "7",
		`SELECT nextval('down')`:                                      "-71",
		`SELECT nextval('always_id_seq')`:                             "112",
		`SELECT nextval('refs_id_seq')`:                               "41",
		`SELECT count(*) FROM ONLY bag`:                               "501",
		`SELECT bool_and(reltuples >= 0) FROM pg_class WHERE relname IN ('accounts', 'always')`: "t",
	} {
		if have := d.Query(t, sql)[0][0]; have != want {
			t.Errorf("%s: have %s, want %s", sql, have, want)
		}
	}
	if report.Sequences != 3 {
		t.Errorf("%d sequences", report.Sequences)
	}
	// At an older commit a sequence takes the first sample at or after it.
	d, _, err = l.restore("lsn:"+old.End.String(), Options{})
	check(t, err)
	if have := d.Query(t, `SELECT nextval('down')`)[0][0]; have != "-56" {
		t.Errorf("down: %s", have)
	}
}
