package agent

import (
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestHugeRows: a table whose rows are too large for identity full gets a minimal
// one by itself: at attach when the row is there, within seconds when it comes.
func TestHugeRows(t *testing.T) {
	if testing.Short() {
		t.Skip("handles values of 300 MB")
	}
	b := newBench(
		t, testpg.Start(t, 18, nil), nil,
		"CREATE TABLE has (id int PRIMARY KEY, v bytea)", "ALTER TABLE has ALTER v SET STORAGE EXTERNAL",
		"INSERT INTO has VALUES (1, decode(repeat('ab', 140000000), 'hex'))",
		"CREATE TABLE gets (id int PRIMARY KEY, v bytea)", "ALTER TABLE gets ALTER v SET STORAGE EXTERNAL", "INSERT INTO gets VALUES (1, 'small')",
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
	testpg.WaitFor(t, 60*time.Second, "the identity to be put back", func() bool { return replident("gets") == "d" })
	b.db.Exec(t, "UPDATE gets SET id = 3 WHERE id = 2", "UPDATE has SET id = 4")
	b.mark("end")
	stop()
	bases := len(b.view().Bases)
	b.run()
	b.db.Exec(t, "INSERT INTO gets VALUES (7, 'after')")
	b.mark("restarted")
	if n := len(openIncompletes(b.view())); n > 0 || len(b.view().Bases) > bases {
		t.Errorf("a restart made %d tables incomplete and %d copies", n, len(b.view().Bases)-bases)
	}
	v := b.view()
	for _, n := range v.Segments {
		if _, err := v.Segment(t.Context(), n); err != nil {
			t.Error(err)
		}
	}
}
