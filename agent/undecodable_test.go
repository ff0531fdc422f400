package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/internal/testpg"
)

// undecodable makes a slot by make that PostgreSQL cannot decode: table t is emptied
// by a transaction that begins and ends while the slot waits for an older one, and a
// transaction that wrote to its new file before the slot was done commits after it.
func (b *bench) undecodable(make func() error) {
	b.t.Helper()
	open := func(sql string) *pgx.Conn {
		c := testpg.Connect(b.t, b.db.DSN)
		if _, err := c.Exec(b.t.Context(), "BEGIN; "+sql); err != nil {
			b.t.Fatal(err)
		}
		return c
	}
	commit := func(c *pgx.Conn) {
		if _, err := c.Exec(b.t.Context(), "COMMIT"); err != nil {
			b.t.Fatal(err)
		}
	}
	waits := func(c *pgx.Conn) {
		testpg.WaitFor(b.t, 2*time.Minute, "the slot to wait", func() bool {
			return len(b.db.Query(b.t, fmt.Sprintf("SELECT FROM pg_stat_activity WHERE %d = ANY (pg_blocking_pids(pid)) AND backend_type = 'walsender'", c.PgConn().PID()))) > 0
		})
	}
	oldest := open("INSERT INTO tick DEFAULT VALUES")
	done := errorOf(make)
	waits(oldest)
	older := open("INSERT INTO tick DEFAULT VALUES")
	b.db.Exec(b.t, "TRUNCATE t")
	commit(oldest)
	waits(older)
	writer := open("INSERT INTO t VALUES ('into the new file')")
	commit(older)
	testpg.WaitFor(b.t, 2*time.Minute, "the slot", func() bool {
		return len(b.db.Query(b.t, "SELECT FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL")) > 0
	})
	commit(writer)
	if err := <-done; err != nil {
		b.t.Fatal(err)
	}
}

func errorOf(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// TestSlotThatCannotBeFollowed: PostgreSQL makes a slot that it cannot decode. Before
// any copy it is made anew; afterwards the way on is said, and --new-base goes it.
func TestSlotThatCannotBeFollowed(t *testing.T) {
	b := newBench(t, testpg.Start(t, 18, nil), nil, "CREATE TABLE tick (id serial PRIMARY KEY)", "CREATE TABLE t (v text)")
	b.undecodable(func() error {
		_, err := Attach(context.Background(), b.repo, b.agentSecrets(), b.o, false)
		return err
	})
	first := b.confirmed()
	stop := b.run()
	b.waitReady()
	if again := b.confirmed(); again <= first || b.view().First <= first {
		t.Errorf("the slot is at %s, the first was at %s: PostgreSQL decoded it", again, first)
	}
	b.db.Exec(t, "INSERT INTO t VALUES ('then')")
	b.mark("then")
	b.wantLive()
	if n := len(b.view().Incompletes); n > 0 {
		t.Errorf("%d intervals are incomplete", n)
	}
	stop()

	// With copies, a slot made anew makes a hole in them: that takes a word.
	b.db.Exec(t, "SELECT pg_drop_replication_slot('"+b.o.Source.Slot+"')")
	recreate := func() error {
		src, err := cdc.Connect(context.Background(), cdc.Config{DSN: b.o.Source.DSN, Slot: b.o.Source.Slot, Publication: b.o.Source.Publication, Log: b.o.Log})
		if err != nil {
			return err
		}
		defer src.Close(context.Background())
		_, err = src.CreateSlot(context.Background())
		return err
	}
	b.undecodable(recreate)
	b.o.NewBase = true
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "the gap to be named and closed", func() bool {
		return len(b.closed("public.t")) > 0 && len(openIncompletes(b.view())) == 0
	})
	b.mark("end")
	b.wantLive()
	stop()
}
