package agent

import (
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestHugeRows: a table whose rows are too large for identity full gets a minimal
// one by itself: at attach when the row is there, within seconds when it comes.
func TestHugeRows(t *testing.T) {
	b := newBench(
		t, testpg.Start(t, 18, nil), nil,
		"CREATE TABLE tick (id serial PRIMARY KEY)",
		"CREATE TABLE has (id int PRIMARY KEY, v bytea)", "ALTER TABLE has ALTER v SET STORAGE EXTERNAL",
		"INSERT INTO has VALUES (1, decode(repeat('ab', 140000000), 'hex'))",
		"CREATE TABLE gets (id int PRIMARY KEY, v bytea)", "ALTER TABLE gets ALTER v SET STORAGE EXTERNAL", "INSERT INTO gets VALUES (1, 'small')",
		"CREATE TABLE packs (id int PRIMARY KEY, v text)",
	)
	b.attach()
	replident := func(table string) string {
		return b.db.Query(t, "SELECT relreplident FROM pg_class WHERE relname = '"+table+"'")[0][0]
	}
	if got := replident("has"); got != "d" {
		t.Errorf("a table with a row of 280 MB in text has identity %q, want d", got)
	}
	if got := replident("gets"); got != "f" {
		t.Errorf("a table without such a row has identity %q, want f", got)
	}
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "INSERT INTO gets VALUES (2, decode(repeat('cd', 140000000), 'hex'))")
	testpg.WaitFor(t, 2*time.Minute, "the identity to be put back", func() bool { return replident("gets") == "d" })
	b.db.Exec(t, "UPDATE gets SET id = 3 WHERE id = 2", "UPDATE has SET id = 4")
	// Its size as stored says nothing: only who has met it knows.
	b.db.Exec(t, "INSERT INTO packs VALUES (1, repeat('x', 270000000))")
	testpg.WaitFor(t, 2*time.Minute, "the identity of the compressed row to be put back", func() bool { return replident("packs") == "d" })
	b.settled()
	b.mark("end")
	stop()
	bases := len(b.view().Bases)
	stop = b.run()
	b.db.Exec(t, "INSERT INTO gets VALUES (7, 'after')")
	b.mark("restarted")
	for _, table := range []string{"has", "gets", "packs"} {
		if got := replident(table); got != "d" {
			t.Errorf("after a restart table %s has identity %q, want d", table, got)
		}
	}
	if n := len(openIncompletes(b.view())); n > 0 || len(b.view().Bases) > bases {
		t.Errorf("a restart made %d tables incomplete and %d copies", n, len(b.view().Bases)-bases)
	}
	stop()
	b.attach() // looks at the sizes again, and must know better
	if got := replident("packs"); got != "d" {
		t.Errorf("after attach the table has identity %q, want d", got)
	}
	v := b.view()
	for _, n := range v.Segments {
		if _, err := v.Segment(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
}
