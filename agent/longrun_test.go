package agent

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// watched is a backend whose reads a test can hold, and whose new chunks it counts.
type watched struct {
	chunkstore.Backend
	mu     sync.Mutex
	hold   func(key string) bool
	free   chan struct{} // closed when held reads may go on
	held   int
	chunks int
	epochs uint64 // the newest that was begun
}

func watchStore(to **watched) func(chunkstore.Backend) chunkstore.Backend {
	return func(b chunkstore.Backend) chunkstore.Backend {
		*to = &watched{Backend: b, free: make(chan struct{}), hold: func(string) bool { return false }}
		return *to
	}
}

func (w *watched) Get(ctx context.Context, key string) ([]byte, error) {
	w.mu.Lock()
	held := w.hold(key)
	if held {
		w.held++
	}
	w.mu.Unlock()
	if held {
		select {
		case <-w.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return w.Backend.Get(ctx, key)
}

func (w *watched) Create(ctx context.Context, key string, data []byte) error {
	err := w.Backend.Create(ctx, key, data)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && strings.HasPrefix(key, "chunk/") {
		w.chunks++
	}
	if p := strings.Split(key, "/"); err == nil && p[0] == "log" && p[len(p)-1] == "0000000000" {
		n, perr := strconv.ParseUint(p[len(p)-2], 10, 64)
		w.epochs, err = n, perr
	}
	return err
}

func (w *watched) stored() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chunks
}

// confirms waits until the slot has confirmed all that was committed so far, without
// reading the repository.
func (b *bench) confirms() {
	b.t.Helper()
	at, err := record.ParseLSN(b.db.Query(b.t, "SELECT pg_current_wal_flush_lsn()")[0][0])
	if err != nil {
		b.t.Fatal(err)
	}
	testpg.WaitFor(b.t, 2*time.Minute, "what was committed to be confirmed", func() bool { return b.confirmed() >= at })
}

// TestMergeDelaysNoFlush: epochs end by the number of their segments, and while the
// merge of the first hangs, flushes go on and further epochs end.
func TestMergeDelaysNoFlush(t *testing.T) {
	var w *watched
	b := newBench(t, testpg.Shared(t, 18), watchStore(&w), "CREATE TABLE k (id serial PRIMARY KEY)")
	b.o.Tuning.MergeSegments = 2
	b.attach()
	b.run()
	b.waitReady()
	first := b.view().Head.Epoch
	of := func(epoch uint64) string { return fmt.Sprintf("/%010d/", epoch) }
	w.mu.Lock()
	w.hold = func(key string) bool { return w.epochs > first && strings.Contains(key, of(first)) }
	w.mu.Unlock()
	for range 10 {
		b.db.Exec(t, "INSERT INTO k DEFAULT VALUES")
		b.confirms()
	}
	testpg.WaitFor(t, 2*time.Minute, "the merge to read", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.held > 0
	})
	w.mu.Lock()
	epochs := w.epochs
	w.hold = func(string) bool { return false }
	w.mu.Unlock()
	if epochs < first+4 {
		t.Errorf("while the merge hung the newest epoch was %d", epochs)
	}
	if v := b.view(); len(v.Histories) > 0 {
		t.Errorf("%d epochs were merged meanwhile: the merge did not hang", len(v.Histories))
	}
	close(w.free)
	testpg.WaitFor(t, 2*time.Minute, "the merges", func() bool { return len(b.view().Histories) >= int(epochs-first) })
	b.mark("end")
	b.wantLive()
}

// clock is a clock that runs ahead.
func clock(ahead time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(ahead) }
}

// TestRefreshWaitsForItsHours: within the window a copy anew waits for its hours, past
// the window for nothing; a table that has no copy waits neither way.
func TestRefreshWaitsForItsHours(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id serial PRIMARY KEY)", "INSERT INTO k DEFAULT VALUES")
	b.attach()
	stop := b.run()
	b.waitReady()
	stop()
	const day = 24 * time.Hour
	copies := func(table string) (n int) {
		for _, base := range b.view().Bases {
			if base.Name == table {
				n++
			}
		}
		return n
	}
	b.o.Now = clock(14*day - 6*time.Hour)
	now := b.o.Now()
	minute := now.Hour()*60 + now.Minute()
	b.o.Tuning.RefreshHours = Hours{From: (minute + 120) % (24 * 60), To: (minute + 180) % (24 * 60)}
	stop = b.run()
	b.db.Exec(t, "CREATE TABLE fresh (id serial PRIMARY KEY)")
	testpg.WaitFor(t, 2*time.Minute, "the copy of the new table", func() bool { return copies("public.fresh") > 0 })
	if n := copies("public.k"); n != 1 {
		t.Errorf("%d copies outside of the hours, want only the first", n)
	}
	stop()
	b.o.Tuning.RefreshHours = Hours{From: (minute + 24*60 - 60) % (24 * 60), To: (minute + 120) % (24 * 60)}
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "the copy within the hours", func() bool { return copies("public.k") == 2 })
	stop()
	b.o.Tuning.RefreshHours = Hours{From: (minute + 120) % (24 * 60), To: (minute + 180) % (24 * 60)}
	b.o.Now = clock(28*day + 6*time.Hour)
	b.run()
	testpg.WaitFor(t, 2*time.Minute, "the copy that is overdue", func() bool { return copies("public.k") == 3 })
}

// TestRecordsOutgrowTheirBase: a table whose records exceed half of its base is
// copied anew, and another is not.
func TestRecordsOutgrowTheirBase(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil,
		"CREATE TABLE busy (id int PRIMARY KEY, v text)", "CREATE TABLE quiet (id int PRIMARY KEY, v text)",
		"INSERT INTO busy SELECT i, repeat('x', 100) FROM generate_series(1, 200) i", "INSERT INTO quiet SELECT * FROM busy")
	b.o.Tuning.RefreshMin, b.o.Tuning.RefreshEvery = 1<<10, 2*time.Hour
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "UPDATE busy SET v = v || '.'", "UPDATE quiet SET v = v || '.' WHERE id < 10")
	b.mark("changed")
	stop()
	stop = b.run() // the first look is at once
	testpg.WaitFor(t, 2*time.Minute, "the copy anew", func() bool { return len(b.view().Bases) == 3 })
	stop()
	v := b.view()
	if again := v.Bases[2]; again.Name != "public.busy" || !again.Proved {
		t.Errorf("copied anew: %+v", again)
	}
	b.run()
	b.wantLive()
	if n := len(b.view().Bases); n != 3 {
		t.Errorf("%d bases, want no more copies", n)
	}
}

// TestRound: with weekly points, the first copies are the first round. When the week
// is another, every table is copied, only chunks that changed are stored, and the
// point that the note names is restored from those copies.
func TestRound(t *testing.T) {
	var w *watched
	b := newBench(t, testpg.Shared(t, 18), watchStore(&w),
		"CREATE TABLE large (id int PRIMARY KEY, v text)", "INSERT INTO large SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
		"CREATE TABLE small (id serial PRIMARY KEY)", "CREATE TABLE tick (id serial PRIMARY KEY)")
	b.o.Tuning.RefreshEvery = 40 * 24 * time.Hour
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "INSERT INTO small DEFAULT VALUES")
	b.mark("begun")
	if v := b.view(); len(v.Rounds) != 0 {
		t.Errorf("rounds without a wish for any: %+v", v.Rounds)
	}
	stop()

	b.o.Tuning.Weekly = true
	rounds := func(n int) func() bool {
		return func() bool { return len(b.view().Rounds) == n }
	}
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "the round of the first copies", rounds(1))
	stop()
	if v := b.view(); len(v.Bases) != 3 {
		t.Errorf("%d bases: the first round copied again", len(v.Bases))
	}

	// The lineage's own clock is PostgreSQL's, so another month is asked for instead.
	b.o.Tuning.Monthly, b.o.Now = true, clock(24*time.Hour)
	before := w.stored()
	stop = b.run()
	b.db.Exec(t, "DELETE FROM small")
	testpg.WaitFor(t, 2*time.Minute, "the second round", rounds(2))
	b.db.Exec(t, "INSERT INTO small SELECT 77", "TRUNCATE large")
	b.mark("later")
	stop()
	v := b.view()
	r := v.Rounds[1]
	if r.Kind != history.Monthly || r.Point < r.Until || r.Time != v.Rounds[0].Time && r.Time < v.Rounds[0].Time {
		t.Errorf("round %+v after %+v", r, v.Rounds[0])
	}
	bases := v.BasesAt(r.Point)
	if len(bases) != 3 {
		t.Errorf("%d tables at the point", len(bases))
	}
	for _, base := range bases {
		if base.RecordsFrom < r.From || base.ExactFrom > r.Until || base.Position.Before(v.Bases[2].Position) {
			t.Errorf("%+v is no copy of round %+v", base, r)
		}
	}
	if n := w.stored() - before; n > 4 { // small's, and the schema's if it was stored
		t.Errorf("the round stored %d chunks, though the large table did not change", n)
	}
	db, err := b.restoreAt("lsn:"+r.Point.String(), restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := db.Query(t, "SELECT count(*), (SELECT count(*) FROM small WHERE id <> 77) FROM large")[0]; got[0] != "20000" {
		t.Errorf("the round's point has %v rows", got)
	}
}

func TestHours(t *testing.T) {
	at := func(h, m int) time.Time { return time.Date(2026, 1, 2, h, m, 0, 0, time.UTC) }
	for _, c := range []struct {
		text    string
		in, out time.Time
		length  time.Duration
	}{
		{"01:00-05:30", at(1, 0), at(5, 30), 4*time.Hour + 30*time.Minute},
		{"22:00-02:00", at(1, 59), at(2, 0), 4 * time.Hour},
		{"22:00-02:00", at(22, 0), at(21, 59), 4 * time.Hour},
		{"00:00-24:00", at(23, 59), time.Time{}, 24 * time.Hour},
	} {
		h, err := ParseHours(c.text)
		if err != nil || h.String() != c.text {
			t.Errorf("%s: %v, %v", c.text, h, err)
			continue
		}
		if !h.Has(c.in) || !c.out.IsZero() && h.Has(c.out) || h.Length() != c.length {
			t.Errorf("%s has %v: %t, %v: %t, is %v long", c.text, c.in, h.Has(c.in), c.out, h.Has(c.out), h.Length())
		}
	}
	for _, bad := range []string{"", "1:00-5:00", "01:00", "01:00-25:00", "24:00-01:00", "01:60-02:00", "03:00-03:00", "01:00-05:00 ", "any"} {
		if h, err := ParseHours(bad); err == nil {
			t.Errorf("%q is %v", bad, h)
		}
	}
	if n := (Hours{From: 60, To: 300}).next(at(1, 0)); !n.Equal(at(1, 0).AddDate(0, 0, 1)) {
		t.Errorf("next after its beginning is %v", n)
	}
	for _, c := range []struct{ rate, size, want int64 }{{1 << 20, 1 << 30, 1 << 20}, {1 << 20, 18_000 << 20, 10 << 20}, {-1, 1 << 40, 0}} {
		tuning := Tuning{RefreshRate: c.rate, CopyMax: time.Hour}
		if got := tuning.rate(c.size); got != c.want {
			t.Errorf("%d bytes at %d: %d a second, want %d", c.size, c.rate, got, c.want)
		}
	}
}

// A table that is changed all the time is copied ever less often; after a rest it is
// copied at once.
func TestAgain(t *testing.T) {
	now := time.Unix(1e9, 0)
	tab := table{copied: now.Add(-time.Hour)}
	var gaps []int
	for range 11 {
		began := now
		for !tab.again(now) {
			now = now.Add(time.Second)
		}
		gaps = append(gaps, int(now.Sub(began).Seconds()))
		tab.copied, now = now, now.Add(time.Second)
	}
	if fmt.Sprint(gaps) != "[0 0 9 29 69 149 309 629 1269 2549 3599]" {
		t.Errorf("copied after %v seconds", gaps)
	}
	now = now.Add(5 * time.Hour)
	if !tab.again(now) || tab.pause != 0 {
		t.Errorf("after a rest it waits; pause %v", tab.pause)
	}
}

func TestDueRound(t *testing.T) {
	at := func(s string) record.Time {
		v, err := time.Parse("2006-01-02 15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return record.FromTime(v)
	}
	done := func(kind, when string) history.Round { return history.Round{Kind: kind, Time: at(when)} }
	for _, c := range []struct {
		have            []history.Round
		now             string
		weekly, monthly bool
		want            string
	}{
		{nil, "2026-03-04 12:00", true, true, history.Monthly},
		{nil, "2026-03-04 12:00", true, false, history.Weekly},
		{nil, "2026-03-04 12:00", false, false, ""},
		{[]history.Round{done(history.Weekly, "2026-03-02 00:00")}, "2026-03-08 23:59", true, false, ""},
		{[]history.Round{done(history.Weekly, "2026-03-02 00:00")}, "2026-03-09 00:00", true, false, history.Weekly},
		{[]history.Round{done(history.Monthly, "2026-03-02 00:00")}, "2026-03-03 00:00", true, true, ""},
		{[]history.Round{done(history.Monthly, "2026-03-31 00:00"), done(history.Weekly, "2026-04-06 00:00")}, "2026-04-07 00:00", true, true, history.Monthly},
		{[]history.Round{done(history.Weekly, "2026-03-31 00:00")}, "2026-04-01 00:00", true, true, history.Monthly},
		{[]history.Round{done(history.Monthly, "2025-03-31 00:00")}, "2026-03-31 00:00", false, true, history.Monthly},
	} {
		if got := dueRound(c.have, at(c.now), c.weekly, c.monthly); got != c.want {
			t.Errorf("%s after %v: %q, want %q", c.now, c.have, got, c.want)
		}
	}
	if got := dueRound(nil, 0, true, true); got != "" {
		t.Errorf("a round before the first commit: %q", got)
	}
}
