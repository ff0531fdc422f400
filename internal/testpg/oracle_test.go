package testpg

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/record"
)

// The oracle finds what was planted, and nothing else.
func TestCompareTables(t *testing.T) {
	c := Shared(t, Newest)
	const schema = `CREATE TABLE a (i int, v text, g int GENERATED ALWAYS AS (i + 1) STORED); CREATE TABLE bag (v text); CREATE TABLE nothing ();
		INSERT INTO bag VALUES ('x'), ('x'), (NULL), (''), (E'\t'); INSERT INTO nothing DEFAULT VALUES; INSERT INTO a VALUES (1, 'one'), (2, 'two')`
	for _, x := range []struct{ name, change, want string }{
		{"equal", "SELECT", ""},
		{"other order", "DELETE FROM a WHERE i = 1; INSERT INTO a VALUES (1, 'one')", ""},
		{"a value", "UPDATE a SET v = 'öne' WHERE i = 1", `"a" has 2 rows in the first and 2 in the second; 1 only in the first`},
		{"a duplicate less", "DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag)", "5 rows in the first and 4"},
		{"null and empty", "UPDATE bag SET v = '' WHERE v IS NULL", "5 rows in the first and 5 in the second; 1 only"},
		{"a row of no columns", "DELETE FROM nothing", "1 rows in the first and 0"},
		{"a table", "DROP TABLE nothing", "only in the first"},
		{"a type", "ALTER TABLE a ALTER v TYPE varchar", "other columns"},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, b := c.Database(t), c.Database(t)
			a.Exec(t, schema)
			b.Exec(t, schema, x.change)
			diff, err := Differences(t.Context(), a.DSN, b.DSN, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(diff, "\n"); (x.want == "") != (got == "") || !strings.Contains(got, x.want) {
				t.Errorf("differences %q, want %q", got, x.want)
			}
		})
	}
}

// The load runs over crashes of the server without a failed statement, and the
// oracle gives each position: stepping forward and from the base alike.
func TestOracleUnderLoad(t *testing.T) {
	for _, major := range []int{Newest, Oldest} {
		c := Start(t, major, nil)
		d := c.Database(t)
		d.Exec(t, LoadSchema, "CREATE TABLE steps (i int PRIMARY KEY)")
		o := Begin(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		counts := make(chan Counts)
		go func() {
			counts <- Load{Seed: 7, Clients: 3, Replica: true, Prepared: true}.Run(ctx, d.DSN)
		}()
		// Each step's commit, and the position after it: others commit between.
		var after []record.LSN
		step := func(n string) {
			d.Exec(t, "INSERT INTO steps VALUES ("+n+")")
			l, err := record.ParseLSN(d.Query(t, "SELECT pg_current_wal_insert_lsn()")[0][0])
			if err != nil {
				t.Fatal(err)
			}
			after = append(after, l)
		}
		busy := func() bool {
			return d.Query(t, "SELECT coalesce(sum(n_tup_ins), 0) > 1000 FROM pg_stat_user_tables")[0][0] == "t"
		}
		step("1")
		WaitFor(t, 2*time.Minute, "some load", busy)
		step("2")
		c.Kill(t)
		c.Restart(t, "fast")
		step("3")
		WaitFor(t, 2*time.Minute, "more load", busy)
		cancel()
		n := <-counts
		if len(n.Failures) > 0 {
			t.Errorf("%d statements failed, the first: %s", len(n.Failures), n.Failures[0])
		}
		if n.Commits == 0 || n.Rollbacks == 0 || n.Created == 0 || n.Reconnects == 0 {
			t.Errorf("an idle load: %+v", n)
		}
		step("4")

		for _, i := range []int{0, 1, 2, 0, 3} {
			at := o.At(t, after[i])
			got := at.query(t, d.Name, "SELECT count(*) FROM steps")[0][0]
			if want := string(rune('1' + i)); got != want {
				t.Errorf("PostgreSQL %d at %s: %s steps, want %s", major, after[i], got, want)
			}
		}
		at := o.At(t, after[3])
		CompareTables(t, d.DSN, at.DSN(d.Name), nil)

		d.Exec(t, "INSERT INTO load.nothing DEFAULT VALUES")
		diff, err := Differences(t.Context(), d.DSN, at.DSN(d.Name), nil)
		if err != nil || !slices.ContainsFunc(diff, func(s string) bool { return strings.Contains(s, "nothing") }) {
			t.Errorf("a planted row is not found: %q %v", diff, err)
		}
		t.Logf("PostgreSQL %d: %+v", major, n)
	}
}

// A position at which a transaction holds a table: the standby cannot be read, and
// a promotion rolls the transaction back.
func TestOraclePromotes(t *testing.T) {
	c := Start(t, Newest, nil)
	d := c.Database(t)
	d.Exec(t, "CREATE TABLE held (v int)", "INSERT INTO held VALUES (1)", "CREATE TABLE other (v int)")
	o := Begin(t, c)
	conn := d.Conn(t)
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE; TRUNCATE held"); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "INSERT INTO other VALUES (1)")
	at, err := record.ParseLSN(d.Query(t, "SELECT pg_current_wal_flush_lsn()")[0][0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "INSERT INTO held VALUES (1)")
	dsn := o.At(t, at).DSN(d.Name)
	if _, err := Differences(t.Context(), dsn, d.DSN, nil); !errors.Is(err, ErrLocked) {
		t.Fatalf("compare a table that a transaction holds: %v, want ErrLocked", err)
	}
	dsn = o.Promote(t).DSN(d.Name)
	if diff, err := Differences(t.Context(), dsn, d.DSN, nil); err != nil || len(diff) > 0 {
		t.Errorf("after the promotion: %v, %v", diff, err)
	}
}
