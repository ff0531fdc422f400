package cdc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// TestC3_CopyAndStreamMeet: tables enter and are copied while clients write. Each
// copy, with the streamed transactions that its snapshot does not see, must give
// the rows that are there in the end.
func TestC3_CopyAndStreamMeet(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		d.Exec(t, "CREATE TABLE keyed (id int PRIMARY KEY, v int, w text)", "CREATE TABLE bagged (id int, v int, w text)",
			"INSERT INTO keyed SELECT g, 0, repeat('x', 200) FROM generate_series(1, 3000) g", "INSERT INTO bagged SELECT id % 100, 0, w FROM keyed")
		s, err := Connect(t.Context(), Config{DSN: d.DSN, Slot: "s_" + d.Name})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateSlot(t.Context()); err != nil {
			t.Fatal(err)
		}
		start, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := &tape{}
		play(t, s, h, StreamOptions{Near: start.Snapshot.XMax})
		stop := writers(t, d)
		tables := []string{"keyed", "bagged"}
		copies := map[string][]meeting{}
		for _, name := range tables {
			if err := again(t.Context(), func() error { return s.Enter(t.Context(), tableOf(t, s, name)) }); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 4 {
			for _, name := range tables {
				copies[name] = append(copies[name], meet(t, s, name, start.Snapshot.XMax, 1+i%3))
			}
		}
		stop()
		end, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		d.Exec(t, "INSERT INTO keyed VALUES (-1)") // the last to arrive
		wait(t, "the last transaction", func() bool {
			all := h.all()
			return len(all) > 0 && all[len(all)-1].end > end.Insert
		})
		for _, name := range tables {
			x := tableOf(t, s, name)
			want := copyLines(t, d, &x)
			for i, m := range copies[name] {
				if got := m.apply(t, name, h.all()); !slices.Equal(got, want) {
					t.Errorf("copy %d of %s under %s: %d rows, want %d", i, name, m.snapshot, len(got), len(want))
				}
			}
		}
		t.Logf("%d transactions", len(h.all()))
	})
}

// writers runs clients until stop is called; their errors fail the test.
func writers(t testing.TB, d *testpg.Database) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for n := range 4 {
		conn := testpg.Connect(t, d.DSN)
		random := rand.New(rand.NewPCG(uint64(n), 7))
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := n*1000000 + i
				sql := []string{
					"BEGIN",
					fmt.Sprintf("INSERT INTO keyed VALUES (%d, %d, 'new'); INSERT INTO bagged VALUES (%d, 1, 'new')", 10000+id, i, i%7),
					"SAVEPOINT s", fmt.Sprintf("UPDATE keyed SET v = v + 1 WHERE id %% 4 = %d AND id %% 97 = %d", n, i%97),
				}
				if random.IntN(3) == 0 {
					sql = append(sql, "ROLLBACK TO s")
				}
				sql = append(sql, fmt.Sprintf("DELETE FROM bagged WHERE ctid = (SELECT ctid FROM bagged WHERE id %% 4 = %d LIMIT 1 FOR UPDATE SKIP LOCKED)", n),
					fmt.Sprintf("SELECT pg_sleep(%f)", random.Float64()*0.02), []string{"COMMIT", "COMMIT", "ROLLBACK"}[random.IntN(3)], "SELECT pg_sleep(0.01)")
				for _, q := range sql {
					if _, err := conn.Exec(context.WithoutCancel(ctx), q, pgx.QueryExecModeSimpleProtocol); err != nil {
						t.Errorf("the application's %s: %v", q, err)
						return
					}
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// meeting is one copy.
type meeting struct {
	snapshot record.Snapshot
	lines    []string
}

func meet(t testing.TB, s *Source, name string, notBefore record.XID, workers int) meeting {
	t.Helper()
	var b *bag
	var got *Copied
	err := again(t.Context(), func() (err error) {
		b = &bag{}
		got, err = s.Copy(t.Context(), tableOf(t, s, name), CopyOptions{Workers: workers, spanBlocks: 10, NotBefore: notBefore}, b.sink)
		if errors.Is(err, ErrSnapshotTooOld) {
			err = ErrBusy
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return meeting{got.Snapshot, b.lines}
}

// apply gives the copy's rows after the transactions that its snapshot does not see.
func (m *meeting) apply(t testing.TB, table string, txs []tapedTx) []string {
	rows := map[string]int{}
	for _, l := range m.lines {
		rows[l]++
	}
	for _, x := range txs {
		if m.snapshot.Sees(x.xid) {
			continue
		}
		for _, r := range x.rows {
			head, rest, _ := strings.Cut(r, "|")
			if head[2:] != table {
				continue
			}
			before, after, _ := strings.Cut(rest, "|")
			if head[0] != 'i' {
				if rows[before]--; rows[before] < 0 {
					t.Errorf("transaction %d removes %q, which is not there", x.xid, before)
				}
			}
			if head[0] != 'd' {
				rows[after]++
			}
		}
	}
	var out []string
	for l, n := range rows {
		for range n {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}
