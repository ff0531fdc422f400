package cdc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// Our session is ended in the middle of Enter: what Enter says is what is there.
func TestEnterReadsBack(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	killer := testpg.Connect(t, d.DSN)
	wg.Go(func() {
		for ctx.Err() == nil {
			_, _ = killer.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name = 'lifeboat attach' AND mode = 'AccessExclusiveLock'")
		}
	})
	var entered, not int
	for i := range 40 {
		name := fmt.Sprintf("t%d", i)
		d.Exec(t, "CREATE TABLE "+name+" (id int PRIMARY KEY)")
		err := s.Enter(t.Context(), tableOf(t, s, name))
		if now := tableOf(t, s, name); (err == nil) != now.InPublication || now.InPublication != (now.Replident == 'f') {
			t.Errorf("Enter says %v, but: in %t, identity %c", err, now.InPublication, now.Replident)
		}
		if err == nil {
			entered++
		} else if not++; !errors.Is(err, ErrYield) && !errors.Is(err, ErrBusy) {
			t.Errorf("Enter: %v", err)
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d entered, %d did not", entered, not)
}

// Somebody's DDL makes FULL unsafe: the next catalog says so, and Enter mends it.
func TestIdentityPutBack(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1)")
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Enter(t.Context(), tableOf(t, s, "t")); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "ALTER TABLE t ADD g int GENERATED ALWAYS AS (id * 2) VIRTUAL")
	tab := tableOf(t, s, "t")
	if tab.Wanted != record.Minimal || tab.Settled || !tab.InPublication {
		t.Fatalf("%+v", tab)
	}
	if err := s.Enter(t.Context(), tab); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "UPDATE t SET v = 'x'")
	if tab = tableOf(t, s, "t"); tab.Replident != 'd' || !tab.Settled {
		t.Errorf("%+v", tab)
	}
}

// Two attachers of one database: one works, the other is told to try again later.
func TestOneAttacher(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
	s := sourceOf(t, d, "")
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, fmt.Sprintf("SELECT pg_advisory_lock(%d)", int64(attachKey)))
	if err := s.Enter(t.Context(), tableOf(t, s, "t")); !errors.Is(err, ErrBusy) {
		t.Errorf("beside another attacher: %v", err)
	}
	d.Exec(t, "SELECT pg_advisory_unlock_all()")
	other := sourceOf(t, d, "")
	results := make(chan error, 2)
	for _, x := range []*Source{s, other} {
		tab := tableOf(t, x, "t")
		go func() {
			results <- again(t.Context(), func() error {
				err := x.Enter(t.Context(), tab)
				if errors.Is(err, ErrChanged) {
					tab = tableOf(t, x, "t")
				}
				return err
			})
		}()
	}
	// The slower one finds that the identity is not what its catalog said, or that
	// the table is there.
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if x := tableOf(t, s, "t"); !x.InPublication || x.Replident != 'f' {
		t.Errorf("%+v", x)
	}
}
