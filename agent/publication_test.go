package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/restore"
)

// closed gives the intervals of a table that are closed, newest last.
func (b *bench) closed(name string) (out []history.Incomplete) {
	b.t.Helper()
	for _, i := range b.view().Incompletes {
		if i.Name == name && i.Until != 0 {
			out = append(out, i)
		}
	}
	return out
}

// TestPublicationBehindOurBack: rows that were written while somebody had altered
// the publication are lost; when it looks as before at the next look at the catalog,
// with the agent running or not, the tables are incomplete all the same, from the
// last good position until a copy replaces their base.
func TestPublicationBehindOurBack(t *testing.T) {
	b := newBench(
		t, testpg.Shared(t, 18), nil,
		"CREATE TABLE tick (id serial PRIMARY KEY)",
		"CREATE TABLE a (id int PRIMARY KEY, v text)", "INSERT INTO a SELECT i, i::text FROM generate_series(1, 100) i",
		"CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other SELECT generate_series(1, 100)",
	)
	b.attach()
	stop := b.run()
	b.waitReady()
	b.settled()
	pub := `"` + b.db.Name + `"`
	publishes := "insert, update, delete, truncate"
	steps := []struct {
		name    string
		tables  []string // that lose exactness
		running bool
		sql     []string
	}{
		{"out and in", []string{"a"}, true, []string{"ALTER PUBLICATION " + pub + " DROP TABLE a", "INSERT INTO a VALUES (1001, 'unseen')", "ALTER PUBLICATION " + pub + " ADD TABLE ONLY a"}},
		{"out and in while no agent ran", []string{"a"}, false, []string{"ALTER PUBLICATION " + pub + " DROP TABLE a", "INSERT INTO a VALUES (1002, 'unseen')", "ALTER PUBLICATION " + pub + " ADD TABLE ONLY a"}},
		{"row filter and back", []string{"a"}, true, []string{"ALTER PUBLICATION " + pub + " SET TABLE ONLY a WHERE (id < 0), ONLY other, ONLY tick", "INSERT INTO a VALUES (1003, 'unseen')", "ALTER PUBLICATION " + pub + " SET TABLE ONLY a, ONLY other, ONLY tick"}},
		{"operations and back", []string{"a", "other"}, true, []string{"ALTER PUBLICATION " + pub + " SET (publish = 'update')", "INSERT INTO a VALUES (1004, 'unseen')", "ALTER PUBLICATION " + pub + " SET (publish = '" + publishes + "')"}},
		{"operations and back while no agent ran", []string{"a", "other"}, false, []string{"ALTER PUBLICATION " + pub + " SET (publish = 'update')", "INSERT INTO other VALUES (1005)", "ALTER PUBLICATION " + pub + " SET (publish = '" + publishes + "')"}},
	}
	for i, s := range steps {
		before := map[string]int{}
		for _, name := range s.tables {
			before[name] = len(b.closed("public." + name))
		}
		last := b.mark(fmt.Sprint("before ", s.name))
		if !s.running {
			stop()
		}
		// One transaction: nobody can look in between, and its row is not published.
		b.db.Exec(t, strings.Join(s.sql, "; "))
		if !s.running {
			stop = b.run()
		}
		for _, name := range s.tables {
			name := "public." + name
			testpg.WaitFor(t, 2*time.Minute, fmt.Sprint(s.name, ": ", name, " to be copied again"), func() bool {
				b.db.Exec(t, "INSERT INTO tick DEFAULT VALUES") // traffic makes the agent look
				return len(b.closed(name)) > before[strings.TrimPrefix(name, "public.")]
			})
			if c := b.closed(name); c[len(c)-1].From > last+1<<20 || !strings.Contains(c[len(c)-1].Reason, "publication") {
				t.Errorf("%s: %+v, want it from %s at the latest", s.name, c[len(c)-1], last)
			}
		}
		b.settled()
		if i == len(steps)-1 || s.running {
			b.wantLive()
		}
	}
	twin := b.twin()
	b.mark("end")
	stop()
	db, err := b.restoreAt("mark:end", restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !testpg.CompareTables(t, twin.DSN, db.DSN, nil) {
		t.Error("the restore differs")
	}
	// "other" was never in doubt before its publication was altered as a whole.
	if n := len(b.closed("public.other")); n != 2 {
		t.Errorf("table other has %d closed intervals, want 2: %+v", n, b.view().Incompletes)
	}
	if v := b.view(); len(v.Mismatches) > 0 {
		t.Errorf("mismatches: %+v", v.Mismatches)
	}
}

// TestPublicationStaysAltered: the agent ends with one clear error, and the log says
// of every table that it is incomplete.
func TestPublicationStaysAltered(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE c (id int PRIMARY KEY)")
	b.attach()
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), b.repo, b.agentSecrets(), b.o) }()
	b.waitReady()
	b.db.Exec(t, `ALTER PUBLICATION "`+b.db.Name+`" SET (publish = 'insert')`, "INSERT INTO a VALUES (1)")
	select {
	case err := <-done:
		if !errors.Is(err, cdc.ErrPublication) || !strings.Contains(err.Error(), "puts it back") {
			t.Errorf("run: %v, want ErrPublication with the way back", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("run goes on under a publication that leaves rows out")
	}
	var open []string
	for _, i := range openIncompletes(b.view()) {
		open = append(open, i.Name)
	}
	slices.Sort(open)
	if !slices.Equal(open, []string{"public.a", "public.c"}) {
		t.Errorf("open: %v, want both tables", open)
	}
}

// TestPublicationDropped: the stream cannot pass a place without the publication.
// run says so, and run --new-base goes on behind it and names the gap, whether
// somebody has made the publication again or not.
func TestPublicationDropped(t *testing.T) {
	for _, again := range []bool{false, true} {
		b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)")
		b.attach()
		stop := b.run()
		b.waitReady()
		b.mark("before")
		stop()
		pub := `"` + b.db.Name + `"`
		b.db.Exec(t, "DROP PUBLICATION "+pub, "INSERT INTO a VALUES (2)")
		if again {
			b.attach()
		}
		if err := Run(t.Context(), b.repo, b.agentSecrets(), b.o); !errors.Is(err, cdc.ErrPublicationMissing) {
			t.Fatalf("made again %t: run: %v, want ErrPublicationMissing", again, err)
		}
		b.o.NewBase = true
		stop = b.run()
		testpg.WaitFor(t, 2*time.Minute, "a closed interval", func() bool { return len(b.closed("public.a")) > 0 && len(openIncompletes(b.view())) == 0 })
		b.wantLive()
		b.mark("after")
		twin := b.twin()
		stop()
		db, err := b.restoreAt("mark:after", restore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !testpg.CompareTables(t, twin.DSN, db.DSN, nil) {
			t.Errorf("made again %t: the restore differs", again)
		}
	}
}
