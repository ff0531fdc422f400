package agent

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// counted is a table of numbered rows under a capture that counts their changes.
type counted struct {
	c    *capture
	t    *table
	rows map[int]int // version of each
	lsn  record.LSN
	d    delta
}

func newCounted(rows int, identity record.Identity) *counted {
	k := &counted{c: newCapture(nil, [32]byte{}, 0, 0, slog.New(slog.NewTextHandler(io.Discard, nil)), time.Now), rows: map[int]int{}}
	k.c.alarm = Options{}.defaults().Tuning.Alarm
	k.t = &table{oid: 7, rel: &record.Relation{OID: 7, Schema: "public", Name: "t", Identity: identity}, exactFrom: 1, live: int64(rows)}
	for i := range rows {
		k.rows[i] = 0
	}
	return k
}

func (k *counted) line(i int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", i, k.rows[i])
	return mix(h.Sum64())
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x = (x + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (k *counted) row(op record.Op, i int) {
	whole := full(k.t.rel)
	if op != record.Insert && whole {
		k.t.watch.old(k.line(i), &k.d)
	}
	switch op {
	case record.Delete:
		delete(k.rows, i)
	default:
		k.rows[i]++
	}
	if op != record.Delete && whole {
		k.t.watch.fresh(k.line(i))
	}
	k.d.count(op, whole)
}

func (k *counted) each(op record.Op, from, until int) *counted {
	for i := from; i < until; i++ {
		k.row(op, i)
	}
	return k
}

func (k *counted) truncate() *counted {
	k.d.reset, k.d.rows = true, tally{reset: true}
	clear(k.rows)
	return k
}

// commit ends a transaction at a second.
func (k *counted) commit(second int64) record.LSN {
	k.lsn += 16
	k.c.mind(k.t, &k.d, k.lsn, record.Time(second*1_000_000))
	k.d = delta{}
	return k.lsn
}

func TestAlarm(t *testing.T) {
	const ins, upd, del = record.Insert, record.Update, record.Delete
	type want struct {
		first, until record.LSN // numbers of commits
		change       history.MassChange
	}
	for _, c := range []struct {
		name     string
		rows     int
		identity record.Identity
		do       func(k *counted)
		want     []want // the notes
	}{
		{"a commit", 5000, record.Full, func(k *counted) {
			k.each(upd, 0, 10).commit(1)
			k.each(del, 0, 1600).commit(2)
		}, []want{{2, 2, history.MassChange{Before: 5000, Changed: 1600, After: 3400}}}},
		{"two commits", 5000, record.Full, func(k *counted) {
			k.each(del, 0, 600).commit(1)
			k.each(del, 600, 1800).commit(2)
		}, []want{{1, 2, history.MassChange{Before: 5000, Changed: 1800, After: 3200}}}},
		{"a little less", 5000, record.Full, func(k *counted) { k.each(del, 0, 1499).commit(1) }, nil},
		{"a minute", 5000, record.Full, func(k *counted) {
			k.each(del, 0, 800).commit(1)
			k.each(upd, 1000, 1900).commit(60)
		}, []want{{1, 2, history.MassChange{Before: 5000, Changed: 1700, After: 4200}}}},
		{"more than a minute", 5000, record.Full, func(k *counted) {
			k.each(del, 0, 1200).commit(1)
			k.each(del, 1200, 2200).commit(61)
		}, nil},
		{"a rewrite, and again", 2000, record.Full, func(k *counted) {
			k.each(upd, 0, 2000).each(upd, 0, 2000).commit(1)
			k.each(upd, 0, 2000).commit(2)
		}, []want{{1, 1, history.MassChange{Before: 2000, Changed: 2000, After: 2000}}}},
		{"few rows, often", 5000, record.Full, func(k *counted) {
			for n := range 1000 {
				k.each(upd, 0, 20).commit(int64(n / 20))
			}
		}, nil},
		{"a queue that stands", 3000, record.Full, func(k *counted) {
			for n := range 300 {
				k.each(ins, 10000+100*n, 10100+100*n).commit(int64(n / 2))
				k.each(del, 10000+100*n, 10100+100*n).commit(int64(n / 2))
			}
		}, nil},
		{"a small table", 900, record.Full, func(k *counted) { k.truncate().commit(1) }, nil},
		{"a truncate", 1000, record.Full, func(k *counted) { k.truncate().commit(1) }, []want{{1, 1, history.MassChange{Before: 1000, Changed: 1000}}}},
		{"a truncate and a load", 3000, record.Full, func(k *counted) {
			k.each(upd, 0, 500)
			k.truncate().each(ins, 0, 4000).commit(1)
		}, []want{{1, 1, history.MassChange{Before: 3000, Changed: 3000, After: 4000}}}},
		{"a load", 3000, record.Full, func(k *counted) { k.each(ins, 3000, 90000).commit(1) }, nil},
		{"what a load brought, gone again", 3000, record.Full, func(k *counted) {
			k.each(ins, 3000, 90000).commit(1)
			k.each(del, 3000, 90000).commit(50)
		}, nil},
		{"step by step, then hours later", 10000, record.Full, func(k *counted) {
			for n := range 8 {
				k.each(del, 1000*n, 1000*n+1000).commit(int64(20 * n))
			}
			k.each(ins, 0, 5000).commit(4000)
			k.each(del, 0, 3000).commit(9000)
		}, []want{
			{1, 3, history.MassChange{Before: 10000, Changed: 3000, After: 7000}},
			{1, 6, history.MassChange{Before: 10000, Changed: 6000, After: 4000}},
			{1, 8, history.MassChange{Before: 10000, Changed: 8000, After: 2000}},
			{10, 10, history.MassChange{Before: 7000, Changed: 3000, After: 4000}},
		}},
		{"a minimal identity", 3000, record.Minimal, func(k *counted) {
			k.each(upd, 0, 3000).commit(1)
			k.each(ins, 5000, 6000).each(del, 0, 1500).commit(2)
			k.each(del, 1500, 2000).commit(3)
		}, []want{{2, 3, history.MassChange{Before: 3000, Changed: 1000, After: 2000}}}},
		{"sent again", 3000, record.Full, func(k *counted) {
			k.c.tables[7] = k.t
			k.c.resumeAlarms([]history.Alarm{{Table: 7, From: 16, Until: 16, Change: history.MassChange{Before: 3000, Changed: 3000}}})
			k.each(del, 0, 3000).commit(1)
		}, nil},
		{"an exception", 3000, record.Full, func(k *counted) {
			k.c.alarm.Except = []string{"public.t"}
			k.truncate().commit(1)
		}, nil},
		{"a table of the application's", 3000, record.Full, func(k *counted) {
			k.c.alarm.Empties = func(schema, table string) bool { return schema == "public" && table == "t" }
			k.truncate().commit(1)
		}, nil},
		{"off", 3000, record.Full, func(k *counted) {
			k.c.alarm.Off = true
			k.truncate().commit(1)
		}, nil},
		{"no base yet", 3000, record.Full, func(k *counted) {
			k.t.exactFrom = 0
			k.truncate().commit(1)
		}, nil},
	} {
		k := newCounted(c.rows, c.identity)
		c.do(k)
		var got []want
		for _, n := range k.c.notes {
			got = append(got, want{n.From / 16, n.Until / 16, *n.Change})
		}
		same := len(got) == len(c.want)
		for i := range got { // Changed is about right
			same = same && math.Abs(float64(got[i].change.Changed-c.want[i].change.Changed)) <= float64(c.want[i].change.Changed)/100
			if same {
				got[i].change.Changed = c.want[i].change.Changed
			}
		}
		if !same || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if int(k.t.live) != len(k.rows) && c.identity == record.Full {
			t.Errorf("%s: %d rows are counted, there are %d", c.name, k.t.live, len(k.rows))
		}
	}
}

// Lines are remembered without fail, and few others are taken for them.
func TestLines(t *testing.T) {
	var l lines
	h := func(i int) uint64 { return mix(uint64(i)) }
	const n = 300_000
	for i := range n {
		l.add(h(i))
	}
	wrong := 0
	for i := range n {
		if !l.has(h(i)) {
			t.Fatalf("line %d is forgotten", i)
		}
		if l.has(h(n + i)) {
			wrong++
		}
	}
	if wrong > n/100 {
		t.Errorf("%d of %d other lines are taken for remembered ones", wrong, n)
	}
}

// TestAlarmIsNoted: the log holds the alarm at the latest with the commit that it is
// about, names the point before it, which a restore reaches, and keeps it over a
// restart and until it is acknowledged.
func TestAlarmIsNoted(t *testing.T) {
	var said strings.Builder
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id int PRIMARY KEY, v text)", "INSERT INTO k SELECT i, 'v' FROM generate_series(1, 3000) i")
	b.o.Log = slog.New(slog.NewTextHandler(io.MultiWriter(testLog{t}, &said), nil))
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "UPDATE k SET v = 'w' WHERE id = 1", "DELETE FROM k WHERE id > 1000")
	b.mark("after")
	stop()
	v := b.view()
	if len(v.Alarms) != 1 || v.Alarms[0].Change != (history.MassChange{Before: 3000, Changed: 2001, After: 1000}) || v.Alarms[0].Name != "public.k" {
		t.Fatalf("alarms %+v", v.Alarms)
	}
	a := v.Alarms[0]
	if v.Segments[len(v.Segments)-1].Position.Before(a.At) {
		t.Errorf("the note %v stands behind the segment %v", a.At, v.Segments[len(v.Segments)-1].Position)
	}
	if !strings.Contains(said.String(), "lifeboat restore --at "+a.Before()+" ") {
		t.Errorf("the log names no restore command to %s", a.Before())
	}
	db, err := b.restoreAt(a.Before(), restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := db.Query(t, "SELECT count(*), max(v) FROM k")[0]; got[0] != "3000" || got[1] != "w" {
		t.Errorf("before the alarm there were %v", got)
	}
	b.run()
	b.db.Exec(t, "INSERT INTO k VALUES (0, 'x')")
	b.mark("restarted")
	if n := len(b.view().Alarms); n != 1 {
		t.Errorf("%d alarms after a restart", n)
	}
	for _, f := range b.doctor("alarm") {
		if f.State != "warn" || !strings.Contains(f.Why, "public.k") || !strings.Contains(f.Mend, a.ID()) {
			t.Errorf("doctor: %+v", f)
		}
	}
	v = b.view()
	if err := Acknowledge(t.Context(), b.repo, b.agentSecrets(), b.o, v, history.Position{Epoch: 9, Seq: 9}); !errors.Is(err, ErrNoAlarm) {
		t.Errorf("an alarm that is not there: %v, want ErrNoAlarm", err)
	}
	if err := Acknowledge(t.Context(), b.repo, b.agentSecrets(), b.o, v, a.At); err != nil {
		t.Fatal(err)
	}
	if n := len(b.view().Alarms); n != 0 || len(b.doctor("alarm")) != 0 {
		t.Errorf("%d alarms after the acknowledgement", n)
	}
}

// doctor gives the findings of a name.
func (b *bench) doctor(name string) (out []Finding) {
	b.t.Helper()
	all, err := Doctor(b.t.Context(), b.repo, b.agentSecrets(), b.o)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range all {
		if f.Name == name {
			out = append(out, f)
		}
	}
	return out
}
