package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// event is a record as a scan gives it.
type event struct {
	tx  *record.Transaction
	rel *record.Relation
	rec record.Record
}

func scanOf(events []event) recordScan {
	return func(_ context.Context, want func(uint32) bool, f func(*record.Transaction, *record.Relation, *record.Record) error) error {
		for i := range events {
			e := &events[i]
			if !want(e.rel.OID) {
				continue
			}
			if err := f(e.tx, e.rel, &e.rec); err != nil {
				return err
			}
		}
		return nil
	}
}

// runMerge merges tables as Materialise does, into memory.
func runMerge(t interface{ Fatalf(string, ...any) }, jobs []*job, bases map[uint32][]string, events []event) (rows map[uint32][]string, rounds int, err error) {
	ctx := context.Background()
	rows = map[uint32][]string{}
	scan := scanOf(events)
	for pending := jobs; len(pending) > 0; rounds++ {
		if rounds > 10000 {
			t.Fatalf("the rounds do not end")
		}
		group, later, err := gather(ctx, scan, pending)
		if err != nil {
			return nil, rounds, err
		}
		for oid, j := range group {
			if j.empty() {
				continue
			}
			for _, line := range bases[oid] {
				ok := j.whole()
				if !ok {
					if ok, err = j.keep([]byte(line)); err != nil {
						return nil, rounds, err
					}
				}
				if ok {
					rows[oid] = append(rows[oid], line)
				}
			}
		}
		for _, j := range group {
			j.again()
		}
		err = scan(ctx, func(o uint32) bool { return group[o] != nil }, func(tx *record.Transaction, rel *record.Relation, r *record.Record) error {
			j := group[rel.OID]
			if !j.wants(tx) {
				return nil
			}
			return j.apply(ctx, rel, r, func(line []byte) error {
				rows[rel.OID] = append(rows[rel.OID], string(line))
				return nil
			})
		})
		if err != nil {
			return nil, rounds, err
		}
		for _, j := range group {
			if err := j.finish(); err != nil {
				return nil, rounds, err
			}
			if j.next() {
				later = append(later, j)
			}
		}
		pending = later
	}
	return rows, rounds, nil
}

func column(name string) record.Column {
	return record.Column{Name: name, Type: "text", TypeOID: 25, TypeMod: -1}
}

// world is a random database of one to three tables, its copies and its records.
type world struct {
	rels   []*record.Relation
	rows   map[uint32][]string // now
	bases  map[uint32][]string
	events []event
	digest map[uint32]record.Digest
	jobs   []*job
}

var testDigestKey = []byte("0123456789abcdef0123456789abcdef")

func drawWorld(t *rapid.T, memoryLimit int64) *world {
	w := &world{rows: map[uint32][]string{}, bases: map[uint32][]string{}, digest: map[uint32]record.Digest{}}
	mem, secret := &memory{limit: memoryLimit}, newSecret()
	for i := range rapid.IntRange(1, 3).Draw(t, "tables") {
		rel := &record.Relation{
			OID: uint32(100 + i), Schema: "public", Name: "t" + strconv.Itoa(i), Identity: record.Full,
			Columns: []record.Column{column("a"), column("b"), column("c")},
		}
		switch rapid.SampledFrom([]string{"keyed", "two", "bag", "minimal"}).Draw(t, "kind") {
		case "keyed":
			rel.Key = []uint16{1}
		case "two":
			rel.Key = []uint16{2, 0}
		case "minimal":
			rel.Key, rel.Identity = []uint16{0}, record.Minimal
		}
		w.rels = append(w.rels, rel)
	}
	keys := rapid.SampledFrom([]int{3, 40, 400}).Draw(t, "keys")
	n := rapid.SampledFrom([]int{5, 50, 600}).Draw(t, "steps")
	copyAt := rapid.IntRange(0, n).Draw(t, "copy")
	seed := rapid.Uint64().Draw(t, "seed")
	rnd := func(k int) int { // cheap: rapid's draws are slow
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % k
	}
	var snapshot record.Snapshot
	late := map[int]bool{} // transactions that the copy does not see though they came before it
	for i := range n {
		if i == copyAt {
			snapshot = w.copy(i, late, rnd)
		}
		w.step(i, keys, rnd)
	}
	if copyAt == n {
		snapshot = w.copy(n, late, rnd)
	}
	for _, rel := range w.rels {
		d := record.Digest{}
		h := record.NewHasher(testDigestKey, rel.Schema, rel.Name)
		for _, l := range w.bases[rel.OID] {
			d.Add(h.Line([]byte(l)))
		}
		m := &merge{
			name: rel.String(), snapshot: snapshot, hasher: h, keys: newKeyHasher(secret), index: index{mem: mem},
			lines: func(context.Context, record.Line) ([]byte, error) { return nil, errors.New("no long lines here") },
		}
		w.jobs = append(w.jobs, &job{merge: m, table: rel.OID, digest: d, shape: rel})
	}
	return w
}

// copy takes the base: the rows as they are now.
func (w *world) copy(i int, _ map[int]bool, _ func(int) int) record.Snapshot {
	for oid, rows := range w.rows {
		w.bases[oid] = slices.Clone(rows)
	}
	return record.Snapshot{XMin: record.XID(1000 + i), XMax: record.XID(1000 + i)}
}

func (w *world) step(i, keys int, rnd func(int) int) {
	rel := w.rels[rnd(len(w.rels))]
	rows := w.rows[rel.OID]
	value := func() string { return strconv.Itoa(rnd(keys)) }
	line := func() string { return value() + "\t" + value() + "\t" + strings.Repeat("x", rnd(3)) + value() }
	key := func(l string) string {
		k, _, _ := record.AppendKey(nil, []byte(l), rel, nil)
		return string(k)
	}
	free := func(l string, but int) bool {
		return len(rel.Key) == 0 || !slices.ContainsFunc(rows, func(o string) bool { return key(o) == key(l) && (but < 0 || o != rows[but]) })
	}
	tx := &record.Transaction{XID: record.XID(1000 + i), End: record.LSN(i + 1)}
	add := func(r record.Record) { w.events = append(w.events, event{tx, rel, r}) }
	switch op := rnd(20); {
	case op == 0 && rnd(4) == 0:
		rows = nil
		add(record.Record{Op: record.Truncate})
	case op < 9 || len(rows) == 0:
		if l := line(); free(l, -1) {
			rows = append(rows, l)
			add(record.Record{Op: record.Insert, New: record.Line{Text: []byte(l)}})
		}
	case op < 13:
		at := rnd(len(rows))
		add(record.Record{Op: record.Delete, Old: oldImage(rel, rows[at])})
		rows = slices.Delete(slices.Clone(rows), at, at+1)
	default:
		at := rnd(len(rows))
		l := line()
		if rnd(2) == 0 { // keep the key
			f := strings.Split(l, "\t")
			for _, k := range rel.Key {
				f[k] = strings.Split(rows[at], "\t")[k]
			}
			l = strings.Join(f, "\t")
		}
		if !free(l, at) {
			break
		}
		r := record.Record{Op: record.Update, Old: record.Line{Text: []byte(rows[at])}, New: record.Line{Text: []byte(l)}}
		if rel.Identity == record.Minimal {
			r.Old = record.Line{}
			if key(l) != key(rows[at]) {
				r.Old = oldImage(rel, rows[at])
			}
			if f := strings.Split(l, "\t"); rnd(2) == 0 { // an unchanged TOAST value
				f[1] = strings.Split(rows[at], "\t")[1]
				l = strings.Join(f, "\t")
				f[1] = `\U`
				r.New = record.Line{Text: []byte(strings.Join(f, "\t"))}
			}
		}
		rows = slices.Clone(rows)
		rows[at] = l
		add(r)
	}
	w.rows[rel.OID] = rows
}

func oldImage(rel *record.Relation, l string) record.Line {
	if rel.Identity == record.Minimal {
		return record.Line{Text: []byte(strings.Split(l, "\t")[0] + "\t\\U\t\\U")}
	}
	return record.Line{Text: []byte(l)}
}

func (w *world) check(t *rapid.T) (rounds int) {
	got, rounds, err := runMerge(t, w.jobs, w.bases, w.events)
	if err != nil {
		t.Fatalf("merge: %v", err)
	}
	for i, rel := range w.rels {
		a, b := slices.Clone(got[rel.OID]), slices.Clone(w.rows[rel.OID])
		slices.Sort(a)
		slices.Sort(b)
		if !slices.Equal(a, b) {
			t.Fatalf("%s %v: have\n%q\nwant\n%q", rel, rel.Key, a, b)
		}
		var d record.Digest
		h := record.NewHasher(testDigestKey, rel.Schema, rel.Name)
		for _, l := range b {
			d.Add(h.Line([]byte(l)))
		}
		if m := w.jobs[i].merge; !m.unknown && m.digest != d {
			t.Fatalf("%s: predicted %s, want %s", rel, m.digest, d)
		} else if m.unknown && rel.Identity == record.Full {
			t.Fatalf("%s: no prediction for a full identity", rel)
		}
	}
	return rounds
}

func TestMergeMeetsOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { drawWorld(t, 1<<20).check(t) })
}

func TestMergeInRounds(t *testing.T) {
	most := 0
	rapid.Check(t, func(t *rapid.T) {
		most = max(most, drawWorld(t, 64*slotSize*int64(rapid.IntRange(1, 4).Draw(t, "memory"))).check(t))
	})
	if most < 3 {
		t.Fatalf("never more than %d rounds: the budget was not felt", most)
	}
}

// TestMergeFindsHoles drops, doubles or moves one record: the merge says so, or
// the digest or the key would (the same number of rows under another content).
func TestMergeFindsHoles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, 1<<20)
		var at []int
		for i := range w.events {
			e := &w.events[i]
			if w.jobs[0].wants(e.tx) && e.rec.Op != record.Truncate && e.rel.Identity == record.Full {
				at = append(at, i)
			}
		}
		if len(at) == 0 {
			return
		}
		i := rapid.SampledFrom(at).Draw(t, "record")
		e := w.events[i]
		if slices.ContainsFunc(w.events[i:], func(o event) bool { return o.rel == e.rel && o.rec.Op == record.Truncate }) {
			return
		}
		if string(e.rec.Old.Text) == string(e.rec.New.Text) {
			return
		}
		if rapid.Bool().Draw(t, "drop") {
			w.events = slices.Delete(w.events, i, i+1)
		} else {
			w.events = slices.Insert(w.events, i, e)
		}
		_, _, err := runMerge(t, w.jobs, w.bases, w.events)
		if err != nil {
			if !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), e.rel.String()) {
				t.Fatalf("a hole is not named: %v", err)
			}
			return
		}
		var d record.Digest
		h := record.NewHasher(testDigestKey, e.rel.Schema, e.rel.Name)
		for _, l := range w.rows[e.rel.OID] {
			d.Add(h.Line([]byte(l)))
		}
		if j := w.jobs[slices.Index(w.rels, e.rel)]; j.merge.digest == d {
			t.Fatalf("%s: a changed log has the digest of the true one", e.rel)
		}
	})
}

// TestShapesChange: columns and keys that change without a copy.
func TestShapesChange(t *testing.T) {
	full := func(key []uint16, cols ...string) *record.Relation {
		r := &record.Relation{OID: 7, Schema: "s", Name: "t", Identity: record.Full, Key: key}
		for _, c := range cols {
			r.Columns = append(r.Columns, column(c))
		}
		return r
	}
	ins := func(rel *record.Relation, i int, l string) event {
		return event{&record.Transaction{XID: record.XID(2000 + i), End: record.LSN(i)}, rel, record.Record{Op: record.Insert, New: record.Line{Text: []byte(l)}}}
	}
	old, wide, rekeyed := full([]uint16{0}, "a", "b"), full([]uint16{0}, "b", "a", "c"), full([]uint16{1}, "a", "b")
	truncate := event{&record.Transaction{XID: 2000, End: 1}, old, record.Record{Op: record.Truncate}}
	del := event{&record.Transaction{XID: 2009, End: 9}, rekeyed, record.Record{Op: record.Delete, Old: record.Line{Text: []byte("1\t2")}}}
	for _, c := range []struct {
		name   string
		events []event
		want   []string
		mixed  bool
	}{
		{"columns by name", []event{ins(wide, 2, "x\ty\tz")}, []string{"1\t2", "y\tx"}, true},
		{"new columns after a truncate", []event{truncate, ins(wide, 2, "x\ty\tz")}, []string{"x\ty\tz"}, false},
		{"another key", []event{ins(rekeyed, 2, "1\t3"), del}, []string{"1\t3"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &merge{
				name: "s.t", snapshot: record.Snapshot{XMin: 10, XMax: 10}, hasher: record.NewHasher(testDigestKey, "s", "t"),
				keys: newKeyHasher(newSecret()), index: index{mem: &memory{limit: 1 << 20}},
			}
			j := &job{merge: m, table: 7, shape: old}
			got, _, err := runMerge(t, []*job{j}, map[uint32][]string{7: {"1\t2"}}, c.events)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got[7]) != fmt.Sprint(c.want) || (m.mixed != "") != c.mixed {
				t.Fatalf("have %q (%s), want %q", got[7], m.mixed, c.want)
			}
		})
	}
}
