package cdc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// bag is a sink of all workers that keeps every line.
type bag struct {
	mu    sync.Mutex
	lines []string
	ends  int
	// each is called for every line, when it is set.
	each func(n int) error
}

func (b *bag) sink(int) LineSink { return (*bagSink)(b) }

type bagSink bag

func (b *bagSink) Line(line []byte) error {
	b.mu.Lock()
	b.lines = append(b.lines, string(line))
	n := len(b.lines)
	b.mu.Unlock()
	if b.each != nil {
		return b.each(n)
	}
	return nil
}

func (b *bagSink) End() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends++
	return nil
}

func (b *bag) sorted() []string {
	slices.Sort(b.lines)
	return b.lines
}

// shapes are tables that have broken backup programs.
var shapes = []string{
	`CREATE TABLE zero ()`, `INSERT INTO zero DEFAULT VALUES`, `INSERT INTO zero DEFAULT VALUES`,
	`CREATE TABLE bags (a int, b text)`, `INSERT INTO bags VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (NULL, NULL), (1, ''), (1, E'a\tb\nc\\N\\\r\x01')`,
	`CREATE TABLE dropped (a int, b text, c int)`, `INSERT INTO dropped VALUES (1, 'b', 3)`, `ALTER TABLE dropped DROP b`, `INSERT INTO dropped VALUES (4, 5)`,
	`ALTER TABLE dropped ADD d text DEFAULT 'later'`,
	`CREATE TABLE gone (a int)`, `INSERT INTO gone VALUES (1), (2)`, `ALTER TABLE gone DROP a`,
	`CREATE TABLE "Gro""ße Tabelle 🐘" ("select" int PRIMARY KEY, "ö'""x" text)`, `INSERT INTO "Gro""ße Tabelle 🐘" VALUES (1, '🐘')`,
	`CREATE TABLE ` + strings.Repeat("n", 63) + ` (` + strings.Repeat("c", 63) + ` int)`, `INSERT INTO ` + strings.Repeat("n", 63) + ` VALUES (7)`,
	`CREATE TABLE generated (a int PRIMARY KEY, g int GENERATED ALWAYS AS (a * 2) STORED, b text)`, `INSERT INTO generated (a, b) VALUES (1, 'b')`,
	`CREATE TABLE onlygen (g int GENERATED ALWAYS AS (1) STORED)`, `INSERT INTO onlygen DEFAULT VALUES`,
	`CREATE TABLE parent (a int)`, `CREATE TABLE child (b int) INHERITS (parent)`, `INSERT INTO parent VALUES (1)`, `INSERT INTO child VALUES (2, 3)`,
	`CREATE TABLE root (a int, b text) PARTITION BY RANGE (a)`, `CREATE TABLE leaf (b text, a int)`, `ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10)`,
	`INSERT INTO root VALUES (1, 'x')`,
	`CREATE TABLE toasted (a int, b text)`, `INSERT INTO toasted SELECT g, string_agg(md5(g::text || i), '') FROM generate_series(1, 5) g, generate_series(1, 20000) i GROUP BY g`,
	`CREATE TABLE rls (a int)`, `INSERT INTO rls VALUES (1), (2)`, `ALTER TABLE rls ENABLE ROW LEVEL SECURITY`, `CREATE POLICY p ON rls USING (a = 1)`,
	`CREATE SCHEMA "other schema"`, `CREATE TABLE "other schema".t (a int)`, `INSERT INTO "other schema".t VALUES (5)`,
}

func TestCopyShapes(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		d.Exec(t, shapes...)
		s := sourceOf(t, d, "")
		cat := catalogOf(t, s)
		if len(cat.Tables) != 14 {
			t.Errorf("%d tables, want 14", len(cat.Tables))
		}
		for _, tab := range cat.Tables {
			if tab.Capturable != true {
				t.Errorf("%s: %s", &tab.Relation, tab.Reason)
			}
			want := copyLines(t, d, &tab)
			var b bag
			got, err := s.Copy(t.Context(), tab, CopyOptions{}, b.sink)
			if err != nil {
				t.Errorf("%s: %v", &tab.Relation, err)
				continue
			}
			if !slices.Equal(b.sorted(), want) || got.Rows != int64(len(want)) || b.ends != 1 {
				t.Errorf("%s: copied %.200q, want %.200q", &tab.Relation, b.lines, want)
			}
			if got.ExactFrom == 0 || got.Snapshot.XMax == 0 {
				t.Errorf("%s: %+v", &tab.Relation, got)
			}
		}
	})
}

// copyLines is what psql would see: COPY TO by another session, under its own pins.
func copyLines(t testing.TB, d *testpg.Database, tab *Table) []string {
	t.Helper()
	s := sourceOf(t, d, "")
	c, err := s.open(t.Context(), "test", sessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.shut()
	var cols []string
	for _, c := range tab.Relation.Columns {
		cols = append(cols, ident(c.Name))
	}
	var out strings.Builder
	if _, err := c.CopyTo(t.Context(), &out, "COPY (SELECT "+strings.Join(cols, ", ")+" FROM ONLY "+qualified(tab.Relation.Schema, tab.Relation.Name)+") TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	lines = lines[:len(lines)-1]
	slices.Sort(lines)
	return lines
}

func TestCopyInParallel(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE big (id int PRIMARY KEY, v text)", "INSERT INTO big SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g", "DELETE FROM big WHERE id % 7 = 0")
	s := sourceOf(t, d, "")
	tab := tableOf(t, s, "big")
	want := copyLines(t, d, &tab)
	for _, workers := range []int{1, 3, 8} {
		var b bag
		got, err := s.Copy(t.Context(), tab, CopyOptions{Workers: workers, spanBlocks: 10}, b.sink)
		if err != nil {
			t.Fatal(err)
		}
		if got.Workers != workers || b.ends != workers || !slices.Equal(b.sorted(), want) {
			t.Errorf("%d workers: %d used, %d ended, %d lines, want %d", workers, got.Workers, b.ends, len(b.lines), len(want))
		}
	}
}

func TestCopyRefuses(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TYPE mood AS ENUM ('a', 'b')", "CREATE TABLE t (id int PRIMARY KEY, m mood)", "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
	s := sourceOf(t, d, "")
	tab := tableOf(t, s, "t")
	run := func(o CopyOptions, each func(n int) error) error {
		b := bag{each: each}
		_, err := s.Copy(t.Context(), tab, o, b.sink)
		return err
	}
	broken := errors.New("the store is full")
	if err := run(CopyOptions{}, func(int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a broken sink: %v", err)
	}
	if err := run(CopyOptions{Max: 1}, nil); !errors.Is(err, ErrTooLong) {
		t.Errorf("beyond Max: %v", err)
	}
	if err := run(CopyOptions{}, func(n int) error {
		if n == 50 {
			d.Exec(t, "ALTER TYPE mood RENAME VALUE 'b' TO 'c'")
		}
		return nil
	}); !errors.Is(err, ErrChanged) {
		t.Errorf("an enum renamed meanwhile: %v", err)
	}
	writer := d.Conn(t)
	if _, err := writer.Exec(t.Context(), "BEGIN; SET application_name = 'slow client'; INSERT INTO t VALUES (1000)"); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "SELECT pg_current_xact_id()") // xmax moves past the writer
	now, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := run(CopyOptions{NotBefore: now.Snapshot.XMax}, nil); !errors.Is(err, ErrSnapshotTooOld) || !strings.Contains(err.Error(), "slow client") {
		t.Errorf("with an open transaction: %v", err)
	}
	if _, err := writer.Exec(t.Context(), "PREPARE TRANSACTION 'forgotten one'"); err == nil {
		if err := run(CopyOptions{NotBefore: now.Snapshot.XMax}, nil); !errors.Is(err, ErrSnapshotTooOld) || !strings.Contains(err.Error(), "forgotten one") {
			t.Errorf("with a prepared transaction: %v", err)
		}
		d.Exec(t, "ROLLBACK PREPARED 'forgotten one'")
	} else if _, err := writer.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	d.Exec(t, "ALTER TABLE t ADD w int")
	if err := run(CopyOptions{}, nil); !errors.Is(err, ErrChanged) {
		t.Errorf("a column added before: %v", err)
	}
	d.Exec(t, "DROP TABLE t")
	if err := run(CopyOptions{}, nil); !errors.Is(err, ErrGone) {
		t.Errorf("a dropped table: %v", err)
	}
}

func TestCopyLargeValues(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE large (id int, v text)", "INSERT INTO large SELECT g, repeat('abc', 5000000) FROM generate_series(1, 3) g")
	s := sourceOf(t, d, "")
	var b bag
	if _, err := s.Copy(t.Context(), tableOf(t, s, "large"), CopyOptions{Rate: 1 << 30}, b.sink); err != nil {
		t.Fatal(err)
	}
	for _, l := range b.lines {
		if len(l) != 15000002 {
			t.Errorf("a line of %d bytes", len(l))
		}
	}
}

func TestLinesSplit(t *testing.T) {
	var b bag
	w := &lines{sink: b.sink(0), pace: newPacer(0, time.Now)}
	for _, p := range []string{"a\nb", "c", "d\n", "\n", "e\n\nf\n"} {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := fmt.Sprintf("%q", b.lines); got != `["a" "bcd" "" "e" "" "f"]` || w.rows != 6 || len(w.rest) != 0 {
		t.Errorf("%s, %d rows, rest %q", got, w.rows, w.rest)
	}
}

func TestC3_ExactFromFollowsTheSnapshot(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	s := sourceOf(t, d, "")
	tab := tableOf(t, s, "t")
	before, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b bag
	b.each = func(int) error { // committed after the snapshot, before the copy's end
		d.Exec(t, "INSERT INTO t VALUES (2)")
		return nil
	}
	var seen record.Snapshot
	got, err := s.Copy(t.Context(), tab, CopyOptions{Position: func(x record.Snapshot) record.LSN { seen = x; return before.Insert }}, b.sink)
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(b.lines) != 1 || got.ExactFrom < before.Insert || got.ExactFrom >= after.Insert || got.Position != before.Insert || seen.String() != got.Snapshot.String() {
		t.Errorf("%d lines, exact from %s between %s and %s", len(b.lines), got.ExactFrom, before.Insert, after.Insert)
	}
}
