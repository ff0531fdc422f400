package restore

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
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
	d := l.src.Cluster.Database(t)
	for _, ddl := range []string{
		`TABLE x ()`, `SEQUENCE x`, `TYPE x AS ENUM ('a')`, `FUNCTION x() RETURNS int LANGUAGE sql RETURN 1`,
		`SCHEMA x`, `VIEW x AS SELECT 1`, `PUBLICATION x`, `DOMAIN x AS int`,
	} {
		d.Exec(t, "CREATE "+ddl)
		_, err := l.restoreInto(d, "latest", Options{StartOver: true})
		if !errors.Is(err, ErrNotEmpty) {
			t.Fatalf("%s: %v", ddl, err)
		}
		if d.Query(t, `SELECT count(*) FROM pg_namespace WHERE nspname = 'lifeboat'`)[0][0] != "0" {
			t.Fatalf("%s: the refused database was touched", ddl)
		}
		d.Exec(t, "DROP "+strings.Join(strings.Fields(strings.ReplaceAll(ddl, "()", " "))[:2], " "))
	}
	d.Exec(t, `SELECT lo_create(4711)`)
	if _, err := l.restoreInto(d, "latest", Options{}); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("a large object: %v", err)
	}
	// Nothing is fetched, and no program is started, for a target that is refused.
	v := l.view()
	point := must[Point](t)(must[Target](t)(ParseTarget("latest", time.Time{})).Resolve(t.Context(), v))
	plan := must[*Plan](t)(NewPlan(t.Context(), v, point, Options{PgRestore: filepath.Join(t.TempDir(), "nowhere")}))
	if _, err := plan.Materialise(t.Context(), d.DSN, l.secrets, nil); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("without pg_restore: %v, want the refusal first", err)
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
	trace := history.Parent{ID: l.view().ID, At: labStart}.Trace()
	if c := d.Query(t, comment)[0][0]; c != "mine\n"+trace {
		t.Fatalf("comment afterwards %q, want mine and then %q", c, trace)
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

// TestP5_WhatTheSchemaWritesIsMet: a materialised view whose refresh writes rows
// is made before its table is read back.
func TestP5_WhatTheSchemaWritesIsMet(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int)`, `INSERT INTO a VALUES (1)`,
		`CREATE FUNCTION sly() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.a VALUES (99); RETURN 1; END $$`,
		`CREATE MATERIALIZED VIEW m AS SELECT public.sly() AS x WITH NO DATA`)
	_, report, err := l.restore("latest", Options{})
	if !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), "verify table public.a") {
		t.Fatalf("a row that the schema wrote: %v (%+v)", err, report)
	}
}

// TestP5_WhatACheckWritesIsMet: the check of a table that is loaded late writes into
// one that was loaded first.
func TestP5_WhatACheckWritesIsMet(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int)`, `INSERT INTO a SELECT generate_series(1, 1000)`,
		`CREATE FUNCTION sly() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); INSERT INTO public.a VALUES (99); RETURN true; END $$`,
		`CREATE TABLE b (i int CHECK (public.sly()))`, `INSERT INTO b VALUES (1)`)
	_, report, err := l.restore("latest", Options{})
	if !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), "verify table public.a") {
		t.Fatalf("a row that a check wrote: %v (%+v)", err, report)
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

// TestValuesOfEverySize: lines in extents in base and records, identities that
// do not send unchanged values, and TRUNCATE.
func TestValuesOfEverySize(t *testing.T) {
	minimal := func(l *lab) { l.rel("mini").Identity = record.Minimal }
	big := func(c string, n int) string { return strings.Repeat(c, n<<20) }
	l := newSourceWith(t, minimal, `CREATE TABLE big (id int PRIMARY KEY, v text)`, `CREATE TABLE bigbag (v text)`,
		`CREATE TABLE mini (id int PRIMARY KEY, a text, b text)`, `CREATE TABLE gone (id int PRIMARY KEY)`,
		`INSERT INTO big SELECT i, repeat(chr(96 + i), i * 1024 * 1024) FROM generate_series(1, 4) i`,
		`INSERT INTO bigbag SELECT repeat('x', 1500000) FROM generate_series(1, 3)`,
		`INSERT INTO mini SELECT i, 'a' || i, repeat('b', 2000000) FROM generate_series(1, 3) i`,
		`INSERT INTO gone SELECT generate_series(1, 100)`)
	x := &tx{}
	rel := l.rel("big")
	x.add(rel, record.Update, "3\t"+big("c", 3), "3\t"+big("z", 2))
	x.add(rel, record.Delete, "2\t"+big("b", 2), "")
	x.add(rel, record.Insert, "", "9\tsmall")
	x.add(rel, record.Insert, "", "10\t"+big("t", 16))
	x.add(l.rel("bigbag"), record.Delete, strings.Repeat("x", 1500000), "")
	rel = l.rel("mini")
	x.rels, x.recs = append(x.rels, rel), append(x.recs, record.Record{Op: record.Update, New: record.Line{Text: []byte("1\tnew\t\\U")}})
	x.add(rel, record.Update, "2\t\\U\t\\U", "22\tmoved\t\\U")
	x.rels, x.recs = append(x.rels, rel), append(x.recs, record.Record{Op: record.Update, New: record.Line{Text: []byte("22\tagain\t\\U")}})
	x.add(rel, record.Delete, "3\t\\U\t\\U", "")
	rel = l.rel("gone")
	x.add(rel, record.Insert, "", "101")
	x.rels, x.recs = append(x.rels, rel), append(x.recs, record.Record{Op: record.Truncate})
	x.add(rel, record.Insert, "", "7")
	l.src.Exec(t, `UPDATE big SET v = repeat('z', 2 * 1024 * 1024) WHERE id = 3`, `DELETE FROM big WHERE id = 2`, `INSERT INTO big VALUES (9, 'small'), (10, repeat('t', 16 * 1024 * 1024))`,
		`DELETE FROM bigbag WHERE ctid = '(0,1)'`, `UPDATE mini SET a = 'new' WHERE id = 1`, `UPDATE mini SET id = 22, a = 'again' WHERE id = 2`,
		`DELETE FROM mini WHERE id = 3`, `TRUNCATE gone`, `INSERT INTO gone VALUES (7)`)
	l.segment(x)
	for _, r := range l.tables {
		l.rows[r.OID] = l.read(l.src, r)
	}
	d, report, err := l.restore("latest", Options{})
	check(t, err)
	l.equal(d, l.snapshotRows())
	for _, tr := range report.Tables {
		if want := map[bool]Proof{true: ProofEmitted, false: ProofCommit}[tr.Table == "public.mini"]; tr.Proof != want {
			t.Errorf("%s: %s", tr.Table, tr.Proof)
		}
	}
}

// TestLosses: what the target refuses is named, and leaves it marked.
func TestLosses(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, j int)`, `INSERT INTO a VALUES (1, 1), (2, 2)`, `CREATE UNIQUE INDEX uj ON a (j)`)
	x := &tx{} // the log says what the source cannot have: two rows of one j
	x.add(l.rel("a"), record.Insert, "", "3\t2")
	l.segment(x)
	d, report, err := l.restore("latest", Options{})
	if !errors.Is(err, ErrLosses) || len(report.Failed) != 1 || !strings.Contains(report.Failed[0].Statement, "CREATE UNIQUE INDEX uj") ||
		!strings.Contains(report.Failed[0].Error, "could not create unique index") {
		t.Fatalf("%v: %+v", err, report.Failed)
	}
	if report.Verified || d.Query(t, `SELECT count(*) FROM lifeboat.restore_state`)[0][0] != "1" {
		t.Fatal("not marked as unfinished")
	}
}

// TestOlderTargetForeignRoles: a dump of 18 with owners into 15, and into a
// database of a role that is no superuser.
func TestOlderTargetForeignRoles(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY)`, `INSERT INTO a VALUES (1)`, `GRANT SELECT ON a TO PUBLIC`)
	l.src.Cluster.Role(t, "clerk", "")
	l.src.Exec(t, `ALTER TABLE a OWNER TO clerk`)
	l.schema(l.tables...)
	l.change(`INSERT INTO a VALUES (2)`)
	want := l.snapshotRows()
	l.src.Exec(t, `ALTER TABLE a OWNER TO postgres`)
	old := testpg.Shared(t, 15).Database(t)
	report, err := l.restoreInto(old, "latest", Options{})
	if err != nil {
		t.Fatal(err, report)
	}
	l.equal(old, want)
	if !strings.Contains(strings.Join(report.Notes, "\n"), "clerk") {
		t.Fatalf("no line about the missing role: %q", report.Notes)
	}
	l.src.Cluster.Role(t, "owner15", "")
	d := l.src.Cluster.Database(t)
	d.Exec(t, `ALTER DATABASE `+d.Name+` OWNER TO owner15`)
	d.DSN = d.As("owner15")
	if report, err = l.restoreInto(d, "latest", Options{}); err != nil {
		t.Fatal(err, report)
	}
	l.equal(d, want)
	// An archive has no owners: all belongs to who imports.
	file := write(t, "a.tar", contents(t, must[*Spool](t)(l.spoolAt("latest", Options{}))))
	older, owned := testpg.Shared(t, 15).Database(t), l.src.Cluster.Database(t)
	owned.Exec(t, `ALTER DATABASE `+owned.Name+` OWNER TO owner15`)
	owned.DSN = owned.As("owner15")
	for _, d := range []*testpg.Database{older, owned} {
		_, err = importInto(t, file, d, ImportOptions{}, nil)
		check(t, err)
		l.equal(d, want)
	}
}

// TestAcceptIncomplete: a table without a copy stays empty, one whose columns
// changed is restored as best known, and both are named.
func TestAcceptIncomplete(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, gone text, v text)`, `INSERT INTO a VALUES (1, 'x', 'one')`, `CREATE TABLE b (i int)`)
	old, late := l.rel("a"), uint32(0)
	l.src.Exec(t, `ALTER TABLE a DROP COLUMN gone`, `ALTER TABLE a ADD COLUMN w text`, `CREATE TABLE late (i int)`)
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteIncomplete, Table: old.OID, Name: "public.a", Reason: "its columns changed", From: l.lsn}))
	l.catalog()
	late = l.rel("late").OID
	l.lsn += 0x100
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NotePosition, Durable: l.lsn, Time: l.clock}))
	l.schema(l.tables...)
	x := &tx{}
	x.add(l.rel("a"), record.Insert, "", "2\ttwo\tw")
	x.add(l.rel("b"), record.Insert, "", "7")
	l.segment(x)
	if _, _, err := l.restore("latest", Options{}); !errors.Is(err, ErrIncomplete) {
		t.Fatalf("not accepted: %v", err)
	}
	d, report, err := l.restore("latest", Options{AcceptIncomplete: true})
	check(t, err)
	have := d.Query(t, `SELECT (SELECT string_agg(concat_ws(',', i, v, w), ' ' ORDER BY i) FROM a), (SELECT count(*) FROM late), (SELECT sum(i) FROM b)`)[0]
	if have[0] != "1,one 2,two" || have[1] != "0" || have[2] != "7" {
		t.Fatalf("have %v", have)
	}
	notes := strings.Join(report.Notes, "\n")
	if !strings.Contains(notes, "public.a is not exact") || !strings.Contains(notes, "public.late is not exact") {
		t.Fatalf("notes of table %d: %q", late, notes)
	}
	// Rows of some tables alone do not touch the others' intervals.
	d, _, err = l.restore("latest", Options{Only: []string{"public.b"}})
	check(t, err)
	if have := d.Query(t, `SELECT (SELECT count(*) FROM a), (SELECT sum(i) FROM b)`)[0]; have[0] != "0" || have[1] != "7" {
		t.Fatalf("only b: %v", have)
	}
}

// TestRenamedTable: the digest of a base stays under the name that it was made.
func TestRenamedTable(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY)`, `INSERT INTO a VALUES (1)`)
	l.src.Exec(t, `ALTER TABLE a RENAME TO b`)
	old := l.rows
	l.catalog()
	l.rows = old
	l.schema(l.tables...)
	l.change(`INSERT INTO b VALUES (2)`)
	d, _, err := l.restore("latest", Options{Only: []string{"public.b"}, AcceptIncomplete: true})
	check(t, err)
	l.equal(d, l.snapshotRows())
}

// TestLargeTableByRanges: what several sessions load and read back.
func TestLargeTableByRanges(t *testing.T) {
	l := newSource(t, `CREATE TABLE a (i int PRIMARY KEY, v text)`, `CREATE TABLE small (i int)`,
		`INSERT INTO a SELECT i, repeat(md5(i::text), 40) FROM generate_series(1, 30000) i`)
	l.change(`UPDATE a SET v = 'x' WHERE i % 100 = 0`, `DELETE FROM a WHERE i > 29000`)
	d, report, err := l.restore("latest", Options{Workers: 3, togetherFrom: largeBase})
	check(t, err)
	l.equal(d, l.snapshotRows())
	if report.Rows != 29000 || report.Tables[0].Proof != ProofCommit {
		t.Fatalf("%+v", report.Tables)
	}
}
