package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// counting counts the bytes that are read.
type counting struct {
	chunkstore.Backend
	bytes atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := c.Backend.Get(ctx, key)
	c.bytes.Add(int64(len(b)))
	return b, err
}

// TestOnlyReadsItsTable: the rows of one table cost its own bytes, whatever else
// there is: large tables, and another one that was changed many times over.
func TestOnlyReadsItsTable(t *testing.T) {
	random := func(rows, seed int) string { // text that does not compress to less than half
		return fmt.Sprintf("SELECT i, (SELECT string_agg(md5(i || '/' || k || '/%d'), '') FROM generate_series(1, 8) k) FROM generate_series(1, %d) i", seed, rows)
	}
	src := testpg.Shared(t, 18).Database(t)
	src.Exec(t, `CREATE TABLE busy (id int PRIMARY KEY, v text)`, `CREATE TABLE quiet (id serial PRIMARY KEY, v text)`, `CREATE TABLE large (id int PRIMARY KEY, v text)`,
		`INSERT INTO busy `+random(2000, 1), `INSERT INTO quiet `+random(20000, 2), `INSERT INTO large `+random(40000, 3))
	store := &counting{Backend: storetest.NewMemory(t)}
	l := newLabOn(t, store)
	l.src = src
	l.copyAll(nil)
	busy, quiet := l.rel("busy"), l.rel("quiet")
	rows, old := l.rows[busy.OID], l.rows[quiet.OID]
	for n := range 30 {
		var txs []*tx
		for i := range rows {
			if i%10 == 0 {
				txs = append(txs, &tx{})
			}
			x := txs[len(txs)-1]
			next := fmt.Sprintf("%d\t%d%s", i+1, n, rows[i][len(rows[i])-200:])
			x.add(busy, record.Update, rows[i], next)
			rows[i] = next
		}
		if n%10 == 0 {
			next := fmt.Sprintf("%d\tchanged %d", n+1, n)
			txs[n].add(quiet, record.Update, old[n], next)
			old[n] = next
		}
		l.segment(txs...)
	}
	check(t, l.w.Rotate(t.Context(), history.Opening{Durable: l.lsn}))
	check(t, l.w.Merge(t.Context(), 0))
	// All that the command reads: the log, the plan, the rows.
	restored := func(o Options) (*testpg.Database, *Report, int64) {
		t.Helper()
		store.bytes.Store(0)
		v := l.view()
		target := must[Target](t)(ParseTarget("latest", time.Now()))
		o.PgRestore = filepath.Dir(testpg.Bin(t, 18, "pg_restore"))
		plan := must[*Plan](t)(NewPlan(t.Context(), v, must[Point](t)(target.Resolve(t.Context(), v)), o))
		d := src.Cluster.Database(t)
		report := must[*Report](t)(plan.Materialise(t.Context(), d.DSN, l.secrets, nil))
		return d, report, store.bytes.Load()
	}
	d, report, read := restored(Options{Only: []string{"public.quiet"}})
	size := report.Tables[0].Bytes
	t.Logf("read %d bytes for a table of %d", read, size)
	if len(report.Tables) != 1 || report.Tables[0].Proof != ProofCommit || size < 5<<20 {
		t.Fatalf("%+v", report.Tables)
	}
	if float64(read) > 1.2*float64(size) {
		t.Errorf("read %d bytes for a table of %d", read, size)
	}
	got := d.Query(t, `SELECT count(*), count(*) FILTER (WHERE v LIKE 'changed %'), (SELECT count(*) FROM busy), (SELECT count(*) FROM large) FROM quiet`)[0]
	if strings.Join(got, " ") != "20000 3 0 0" {
		t.Errorf("have %v", got)
	}
	if _, _, all := restored(Options{}); all < 3*read {
		t.Errorf("a whole restore reads %d bytes, the one table took %d: the test shows nothing", all, read)
	}
}
