package restore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

var testNow = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"latest":                      "latest",
		"before:latest":               "before:latest",
		"lsn:0/16B3748":               "lsn:0/16B3748",
		"lsn:ff/0":                    "lsn:FF/0",
		"xid:7421":                    "xid:7421",
		"xid:5000000001":              "xid:5000000001",
		"mark:before upgrade":         "mark:before upgrade",
		"mark:before:x":               "mark:before:x",
		"before:mark:ü":               "before:mark:ü",
		"2026-01-02T15:04:05+01:00":   "2026-01-02T15:04:05+01:00",
		"2026-01-02T15:04:05.25Z":     "2026-01-02T15:04:05.25Z",
		"before:2026-01-02T15:04:05Z": "before:2026-01-02T15:04:05Z",
		"10 minutes ago":              "2026-03-01T23:50:00Z",
		"1 hour ago":                  "2026-03-01T23:00:00Z",
		"before:30 seconds ago":       "before:2026-03-01T23:59:30Z",
		"3 days ago":                  "2026-02-27T00:00:00Z",
	} {
		got, err := ParseTarget(in, testNow)
		if err != nil || got.String() != want {
			t.Errorf("%q: %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "Latest", " latest", "latest ", "before:", "before:before:latest", "now", "yesterday",
		"lsn:", "lsn:16B3748", "lsn:0/", "lsn:0/16B374800", "lsn:0x1/2", "0/16B3748",
		"xid:", "xid:0", "xid:-1", "xid:+1", "xid:007", "xid:1e3", "xid:99999999999999999999",
		"mark:", "mark:a\nb", "mark:\xff", "mark:" + strings.Repeat("x", 256),
		"2026-01-02T15:04:05", "2026-01-02 15:04:05Z", "2026-01-02", "2026-01-02T15:04:05,5Z", "2026-1-02T15:04:05Z",
		"2026-01-02T5:04:05Z", "2026-02-30T15:04:05Z", "2026-01-02T15:04:05z", "2026-01-02T15:04Z",
		"10 minutes", "10 minute ago", "1 minutes ago", "ten minutes ago", "10  minutes ago", "-5 minutes ago", "1.5 hours ago",
		"10 weeks ago", "99999999 days ago", "ago", " ago", "5 ago",
	} {
		if got, err := ParseTarget(in, testNow); !errors.Is(err, ErrTarget) || !strings.Contains(err.Error(), "mark:NAME") {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"latest", "before:lsn:0/16B3748", "xid:7421", "mark:x", "2026-01-02T15:04:05.5+01:00", "10 minutes ago", "before:1 day ago", "2026-01-02T15:04:05,5Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseTarget(s, testNow)
		if err != nil {
			if !errors.Is(err, ErrTarget) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		b, err := ParseTarget(a.String(), testNow)
		if err != nil || b.String() != a.String() || b.Kind != a.Kind || b.Before != a.Before || !b.Time.Equal(a.Time) {
			t.Fatalf("%q: %s comes back as %s, %v", s, a, b, err)
		}
	})
}

var oneTable = &record.Relation{OID: 42, Schema: "public", Name: "t", Identity: record.Full, Columns: []record.Column{column("a")}, Key: []uint16{0}}

func insert(value string) *tx {
	x := &tx{}
	x.add(oneTable, record.Insert, "", value)
	return x
}

func at(x *tx, t record.Time) *tx { x.time = t; return x }

func resolve(t *testing.T, v *history.View, s string, now time.Time) (Point, error) {
	t.Helper()
	target, err := ParseTarget(s, now)
	check(t, err)
	return target.Resolve(t.Context(), v)
}

func TestResolve(t *testing.T) {
	l := newLab(t)
	if _, err := resolve(t, l.view(), "latest", testNow); !errors.Is(err, ErrNoPoint) {
		t.Fatalf("before the first copy: %v", err)
	}
	l.schema(oneTable)
	l.segment(insert("early"))
	l.base(oneTable, []string{"x"})
	l.ready()
	first := l.lsn
	noon := l.clock
	time := func(s int64) string { return (noon + record.Time(s*1e6)).String() }
	c := l.segment(at(insert("a"), noon+10e6), at(insert("b"), noon+20e6), at(insert("c"), noon+15e6))
	c = append(c, l.segment(at(insert("d"), noon+30e6), at(insert("e"), noon+12e6))...)
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteMark, Name: "here", From: c[2].End, Time: noon}))
	v := l.view()
	end := func(i int) record.LSN { return c[i].End }
	for _, k := range []struct {
		target string
		want   record.LSN
	}{
		{"latest", end(4)},
		{"before:latest", end(3)},
		{"lsn:" + end(1).String(), end(1)},
		{"before:lsn:" + end(1).String(), end(0)},
		{"lsn:" + (end(1) + 1).String(), end(1)},
		{"lsn:" + (end(1) - 1).String(), end(0)},
		{"before:lsn:" + (end(1) + 1).String(), end(1)},
		{"lsn:" + first.String(), first},
		{"before:lsn:" + end(0).String(), first},
		{"xid:5000000003", end(1)},
		{"before:xid:5000000003", end(0)},
		{"xid:705032708", end(2)}, // the lower 32 bits of 5000000004
		{"mark:here", end(2)},
		{"before:mark:here", end(1)},
		{time(10), end(0)},
		{"before:" + time(10), first},
		{time(14), end(0)}, // e has 12 but comes after d
		{time(15), end(0)}, // and c after b
		{time(20), end(2)},
		{"before:" + time(20), end(0)},
		{time(25), end(2)},
		{time(30), end(4)},
		{time(3000), end(4)}, // not in the future of the one who asks
		{time(1), first},
	} {
		p, err := resolve(t, v, k.target, testNow)
		// A position between commits is a point of its own, with the commits before it.
		between := strings.HasPrefix(k.target, "lsn:") && k.target != "lsn:"+k.want.String()
		at := p.LSN
		if between {
			at = p.Commit.End
		}
		if err != nil || at != k.want || (p.Commit.End != 0 && p.Commit.End != at) || (between && "lsn:"+p.LSN.String() != k.target) {
			t.Errorf("%s: %s, %v; want %s", k.target, p, err, k.want)
		}
		if p.Newest != (p.LSN == end(4)) {
			t.Errorf("%s: newest is %v", k.target, p.Newest)
		}
	}
	p, err := resolve(t, v, time(16), testNow)
	if err != nil || len(p.Inverted) != 2 || p.Inverted[0].End != end(2) || p.Inverted[1].End != end(4) {
		t.Errorf("inversions: %+v, %v", p, err)
	}
	for _, k := range []struct{ target, says string }{
		{"lsn:" + (v.Durable + 1).String(), "lsn:" + end(4).String()},
		{time(31), "future"},
		{"lsn:" + (first - 1).String(), first.String()},
		{"before:lsn:" + first.String(), "oldest"},
		{"xid:17", "no durable commit"},
		{"mark:there", "points"},
		{time(-1000), "oldest"},
	} {
		if p, err := resolve(t, v, k.target, noon.Time()); !errors.Is(err, ErrNoPoint) || !strings.Contains(err.Error(), k.says) {
			t.Errorf("%s: %s, %v; want %s", k.target, p, err, k.says)
		}
	}
}

func TestFind(t *testing.T) {
	l := newLab(t)
	l.schema(oneTable)
	l.base(oneTable, nil)
	l.ready()
	del := &tx{}
	del.add(oneTable, record.Delete, "a", "")
	del.add(oneTable, record.Delete, "b", "")
	del.add(oneTable, record.Insert, "", "c")
	c := l.segment(insert("a"), insert("b"))
	c = append(c, l.segment(del)...)
	v := l.view()
	all, err := Find(t.Context(), v, FindOptions{Table: "public.t"})
	check(t, err)
	if len(all) != 3 || all[0].Commit.XID != c[2].XID || all[2].Commit.XID != c[0].XID {
		t.Fatalf("%+v", all)
	}
	found, err := Find(t.Context(), v, FindOptions{Table: "t", Deletes: true})
	check(t, err)
	if len(found) != 1 || found[0].Tables[0].Deletes != 2 || found[0].Tables[0].Inserts != 1 || found[0].Before != "before:lsn:"+c[2].End.String() {
		t.Fatalf("%+v", found)
	}
	if p, err := resolve(t, v, found[0].Before, testNow); err != nil || p.LSN != c[1].End {
		t.Fatalf("%s: %s, %v", found[0].Before, p, err)
	}
	since, err := Find(t.Context(), v, FindOptions{Table: "t", Since: c[1].Time.Time()})
	check(t, err)
	if len(since) != 2 {
		t.Fatalf("%d since", len(since))
	}
	if _, err := Find(t.Context(), v, FindOptions{Table: "nosuch"}); !errors.Is(err, ErrNoTable) {
		t.Fatalf("a table that was never there: %v", err)
	}
	if _, err := Find(t.Context(), v, FindOptions{Element: synapse.Room, ID: "!r:x"}); !errors.Is(err, ErrNoElements) {
		t.Fatalf("a room in a generic database: %v", err)
	}
}

func TestPlanNamesWhatIsIncomplete(t *testing.T) {
	l := newLab(t)
	other := &record.Relation{OID: 43, Schema: "public", Name: "late", Identity: record.Full, Columns: oneTable.Columns}
	l.schema(oneTable)
	l.base(oneTable, []string{"x"})
	l.ready()
	exact := l.segment(insert("a"))[0]
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteIncomplete, Table: 42, Name: "public.t", Reason: "its types changed", From: exact.End}))
	inside := l.segment(insert("b"))[0]
	l.segment(insert("c"))
	l.base(oneTable, []string{"x", "a", "b", "c"})
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteComplete, Table: 42, Until: l.lsn}))
	again := l.lsn
	gap := l.segment(insert("d"))[0] // between the schemas
	l.lsn += 0x1000
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NotePosition, Durable: l.lsn, Time: l.clock}))
	l.schema(oneTable, other)
	uncopied := l.segment(insert("e"))[0]
	l.segment(insert("e2"))
	l.base(other, nil)
	whole := l.segment(insert("f"))[0]
	v := l.view()
	point := func(lsn record.LSN) Point {
		t.Helper()
		p, err := resolve(t, v, "lsn:"+lsn.String(), testNow)
		check(t, err)
		return p
	}
	for _, lsn := range []record.LSN{exact.End, again, whole.End} {
		p, err := NewPlan(t.Context(), v, point(lsn), Options{})
		if err != nil || len(p.Incomplete) != 0 {
			t.Errorf("%s: %v", lsn, err)
		}
	}
	for _, k := range []struct {
		at, before record.LSN
		table      string
	}{
		{inside.End, exact.End, "public.t"},
		{uncopied.End, gap.End, "public.late"},
	} {
		_, err := NewPlan(t.Context(), v, point(k.at), Options{})
		var e *IncompleteError
		if !errors.Is(err, ErrIncomplete) || !errors.As(err, &e) || len(e.Tables) != 1 || e.Tables[0].Table != k.table {
			t.Errorf("%s: %v", k.at, err)
			continue
		}
		if e.Before.LSN != k.before || !strings.Contains(err.Error(), "--accept-incomplete") {
			t.Errorf("%s: %v; want %s before", k.at, err, k.before)
		}
		p, err := NewPlan(t.Context(), v, point(k.at), Options{AcceptIncomplete: true})
		if err != nil || len(p.Incomplete) != 1 || !strings.Contains(p.String(), "INCOMPLETE "+k.table) {
			t.Errorf("%s accepted: %v\n%s", k.at, err, p)
		}
	}
}

// TestPlanNamesWhatIsInNoSchema: a table that was copied, and dropped before the
// schema was dumped again, is in no schema; where it stood no plan leaves it out
// silently, and where it is known to be gone nothing is said.
func TestPlanNamesWhatIsInNoSchema(t *testing.T) {
	l := newLab(t)
	brief := &record.Relation{OID: 44, Schema: "public", Name: "brief", Identity: record.Full, Columns: oneTable.Columns}
	l.schema(oneTable)
	l.base(oneTable, []string{"x"})
	l.ready()
	before := l.segment(insert("a"))[0]
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteIncomplete, Table: 44, Name: "public.brief", Reason: "a new table", From: before.End}))
	l.segment(insert("b"))
	l.base(brief, []string{"here"})
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteComplete, Table: 44, Until: l.lsn}))
	there := l.segment(insert("c"))[0]
	gone := l.segment(insert("d"))[0]
	// The catalog is what it was: the first schema is said to be certain up to here.
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteDropped, Table: 44, Name: "public.brief", From: gone.End, Reason: "dropped"}))
	check(t, l.w.Note(t.Context(), history.Note{Kind: history.NotePosition, Durable: l.lsn, Time: l.clock, SchemaCertain: gone.End}))
	v := l.view()
	plan := func(at record.LSN) error {
		p, err := resolve(t, v, "lsn:"+at.String(), testNow)
		check(t, err)
		_, err = NewPlan(t.Context(), v, p, Options{})
		return err
	}
	for _, at := range []record.LSN{before.End, gone.End} {
		if err := plan(at); err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
	err := plan(there.End)
	var e *IncompleteError
	if !errors.As(err, &e) || len(e.Tables) != 1 || e.Tables[0].Table != "public.brief" || e.Before.LSN != before.End {
		t.Errorf("while the table stood: %v", err)
	}
}
