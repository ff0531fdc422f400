package proof

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// decoding is PostgreSQL's own list of transactions: a slot of test_decoding.
type decoding struct {
	db   *testpg.Database
	slot string
}

// listen begins the list; what commits later is in it.
func listen(t testing.TB, db *testpg.Database) *decoding {
	t.Helper()
	d := &decoding{db: db, slot: "decoding_" + db.Name}
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+d.slot+"', 'test_decoding')")
	return d
}

// change is a transaction with how many records of each kind it has per table:
// "load.keyed i" → 3.
type change struct {
	xid   uint32
	end   record.LSN
	count map[string]uint64
}

func (c *change) String() string {
	return fmt.Sprintf("transaction %d that ends at %s with %v", c.xid, c.end, c.count)
}

// follows reports whether a table is captured from the beginning: of those that
// come and go, what was written before they entered the publication is in the
// copy alone.
func follows(table string) bool { return !strings.HasPrefix(table, "load.extra_") }

var verbs = map[string]string{"INSERT": "i", "UPDATE": "u", "DELETE": "d", "TRUNCATE": "t"}

var decoded = regexp.MustCompile(`^table (.*?): (INSERT|UPDATE|DELETE|TRUNCATE):`)

// transactions gives the list, without transactions that touch no table that
// follows.
func (d *decoding) transactions(t testing.TB) []change {
	t.Helper()
	rows := d.db.Query(t, `SELECT lsn, xid, CASE WHEN data ~ '^table ' THEN left(data, 300) ELSE data END
FROM pg_logical_slot_get_changes('`+d.slot+`', NULL, NULL, 'skip-empty-xacts', '1', 'include-xids', '0')`)
	var out []change
	var cur change
	for _, r := range rows {
		switch {
		case r[2] == "BEGIN":
			cur = change{count: map[string]uint64{}}
		case r[2] == "COMMIT":
			end, err := record.ParseLSN(r[0])
			if err != nil {
				t.Fatal(err)
			}
			cur.end = end
			if _, err := fmt.Sscan(r[1], &cur.xid); err != nil {
				t.Fatal(err)
			}
			if len(cur.count) > 0 {
				out = append(out, cur)
			}
		default:
			m := decoded.FindStringSubmatch(r[2])
			if m == nil {
				t.Fatalf("test_decoding says %.100q", r[2])
			}
			for _, table := range strings.Split(m[1], ", ") {
				if follows(table) {
					cur.count[table+" "+verbs[m[2]]]++
				}
			}
		}
	}
	return out
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

func quoteName(s string) string {
	if plainName.MatchString(s) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// recorded gives the same list from the log.
func recorded(t testing.TB, v *history.View) []change {
	t.Helper()
	var out []change
	err := v.Commits(t.Context(), 0, v.Durable, true, func(c record.Transaction, touched []history.Touch) error {
		ch := change{xid: uint32(c.XID), end: c.End, count: map[string]uint64{}}
		for _, o := range touched {
			table := quoteName(o.Relation.Schema) + "." + quoteName(o.Relation.Name)
			if !follows(table) {
				continue
			}
			for verb, n := range map[string]uint64{"i": o.Inserts, "u": o.Updates, "d": o.Deletes, "t": o.Truncates} {
				if n > 0 {
					ch.count[table+" "+verb] += n
				}
			}
		}
		if len(ch.count) > 0 {
			out = append(out, ch)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// hold compares the two lists: nothing lost, nothing twice, nothing out of order,
// each transaction with as many records of each table.
func (d *decoding) hold(t testing.TB, v *history.View) int {
	t.Helper()
	// What came before the tables had entered the publication is in their copies.
	from := v.First
	var want []change
	for _, c := range d.transactions(t) {
		if c.end > from && c.end <= v.Durable {
			want = append(want, c)
		}
	}
	got := slices.DeleteFunc(recorded(t, v), func(c change) bool { return c.end <= from })
	for i := range want {
		switch {
		case i >= len(got):
			t.Errorf("the log ends before %s", &want[i])
			return i
		case want[i].end != got[i].end || want[i].xid != got[i].xid || !maps.Equal(want[i].count, got[i].count):
			t.Errorf("PostgreSQL's %d. transaction is %s,\nthe log's is %s", i, &want[i], &got[i])
			return i
		}
	}
	if len(got) > len(want) {
		t.Errorf("the log has one more: %s", &got[len(want)])
	}
	return len(want)
}
