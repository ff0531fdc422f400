package spill

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
)

func open(t testing.TB) *Dir {
	t.Helper()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type pair struct{ key, value string }

func sorted(t testing.TB, d *Dir, memory int64, pairs []pair) *Sorted {
	t.Helper()
	s := d.Sorter(memory)
	for _, p := range pairs {
		must(t, s.Add([]byte(p.key), []byte(p.value)))
	}
	if s.Len() != int64(len(pairs)) {
		t.Errorf("%d pairs of %d", s.Len(), len(pairs))
	}
	out, err := s.Sorted()
	must(t, err)
	if out.Len() != int64(len(pairs)) {
		t.Errorf("%d pairs of %d", out.Len(), len(pairs))
	}
	return out
}

func read(t testing.TB, seq iter.Seq2[Pair, error]) []pair {
	t.Helper()
	var out []pair
	for p, err := range seq {
		must(t, err)
		out = append(out, pair{string(p.Key), string(p.Value)})
	}
	return out
}

// some makes pairs of which many are equal, empty, beginnings of others, or larger than
// a block or the whole budget.
func some(seed uint64, n int) []pair {
	r := rand.New(rand.NewPCG(seed, 0))
	text := func() string {
		size := r.IntN(30)
		switch r.IntN(4000) {
		case 0:
			size = r.IntN(4 * blockSize)
		case 1:
			size = blockSize - lengths + r.IntN(2*lengths)
		}
		b := make([]byte, size)
		for i := range b {
			b[i] = "\x00ab\xff"[r.IntN(4)]
		}
		return string(b)
	}
	out := make([]pair, n)
	for i := range out {
		out[i] = pair{text(), text()}
		if i > 0 && r.IntN(10) == 0 {
			out[i] = out[r.IntN(i)]
		}
	}
	return out
}

func order(pairs []pair) []pair {
	out := slices.Clone(pairs)
	slices.SortFunc(out, func(a, b pair) int {
		return compare(Pair{[]byte(a.key), []byte(a.value)}, Pair{[]byte(b.key), []byte(b.value)})
	})
	return out
}

// TestL1_SortedAndWhole: in memory, in one level of files, and in three; whole, by
// prefixes, again, and many at once.
func TestL1_SortedAndWhole(t *testing.T) {
	for _, c := range []struct {
		memory int64
		n      int
	}{{1 << 30, 0}, {1 << 30, 1}, {1 << 30, 5000}, {1, 1}, {300 << 10, 20_000}, {1, 40_000}} {
		t.Run(fmt.Sprintf("%d pairs in %d bytes", c.n, c.memory), func(t *testing.T) {
			pairs := some(uint64(c.n), c.n)
			s := sorted(t, open(t), c.memory, pairs)
			want := order(pairs)
			if have := read(t, s.All()); !slices.Equal(have, want) {
				t.Fatal("not what went in, or not in order")
			}
			for _, p := range []string{"\x00", "a", "ab", "ab\xffb", "b", "c", "\xff", "\xff\xff\xff"} {
				var part []pair
				for _, x := range want {
					if bytes.HasPrefix([]byte(x.key), []byte(p)) {
						part = append(part, x)
					}
				}
				if have := read(t, s.Prefix([]byte(p))); !slices.Equal(have, part) {
					t.Errorf("%d pairs begin with %q; %d were given", len(part), p, len(have))
				}
			}
			t.Run("at once", func(t *testing.T) {
				for i := range 4 {
					t.Run(fmt.Sprint(i), func(t *testing.T) {
						t.Parallel()
						if have := read(t, s.All()); !slices.Equal(have, want) {
							t.Error("another reader got something else")
						}
					})
				}
			})
			for p, err := range s.All() { // one that stops early
				must(t, err)
				_ = p
				break
			}
			must(t, s.Close())
		})
	}
}

// TestL2_Memory: four hundred times the budget, and a pair that is larger than it.
func TestL2_Memory(t *testing.T) {
	const budget = 1 << 20
	d := open(t)
	s := d.Sorter(budget)
	var m runtime.MemStats
	heap := func() int64 {
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, most := heap(), int64(0)
	var key [16]byte
	value := make([]byte, 400)
	const n = 400_000
	for i := range uint64(n) {
		binary.BigEndian.PutUint64(key[:], i*0x9E3779B97F4A7C15)
		must(t, s.Add(key[:], value[:i%uint64(len(value))]))
		if i%40_000 == 0 {
			most = max(most, heap()-before)
		}
		if held := s.held.bytes + int64(cap(s.held.items))*itemSize; held > budget+budget/4 {
			t.Fatalf("pair %d: %d bytes are held", i, held)
		}
	}
	large := make([]byte, 8<<20)
	must(t, s.Add([]byte("large"), large))
	large = nil
	out, err := s.Sorted()
	must(t, err)
	i := 0
	for p, err := range out.All() {
		must(t, err)
		if i++; i == n/2 {
			most = max(most, heap()-before)
		}
		if len(p.Value) > len(value) && len(p.Value) != 8<<20 {
			t.Error("the large pair is another one")
		}
	}
	if i != n+1 {
		t.Errorf("%d pairs", i)
	}
	// Two levels of sixteen runs with an index each, and as many open blocks.
	if most > budget+budget/4+16<<20 {
		t.Errorf("%d KiB beside the budget", (most-budget)>>10)
	}
	t.Logf("%d KiB, %d runs, pair by pair", most>>10, len(out.runs))
	must(t, out.Close())
	if len(d.files) != 0 {
		t.Error("files are left open")
	}
}

// TestL3_Damage: every byte of a file counts, and blocks open at their place only.
func TestL3_Damage(t *testing.T) {
	pairs := slices.DeleteFunc(some(3, 5000), func(p pair) bool { return len(p.key)+len(p.value) > 1000 }) // each a run of its own
	s := sorted(t, open(t), 1, pairs)
	if len(s.files) != 1 || len(s.runs) < 3 {
		t.Fatalf("%d runs in %d files", len(s.runs), len(s.files))
	}
	f := s.files[0]
	whole := make([]byte, f.size)
	if _, err := f.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		for _, err := range s.All() {
			if err != nil {
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
		}
		t.Errorf("%s: nobody noticed", what)
	}
	restore := func() {
		t.Helper()
		if _, err := f.WriteAt(whole, 0); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	places := []int64{0, 1, 3, 4, 5, s.runs[0].end - 1, s.runs[0].end, s.runs[0].end + 3, f.size - 1}
	for range 20 {
		places = append(places, r.Int64N(f.size))
	}
	for _, at := range places {
		if _, err := f.WriteAt([]byte{whole[at] ^ 0x20}, at); err != nil {
			t.Fatal(err)
		}
		refused(fmt.Sprintf("byte %d", at))
		restore()
	}
	// Blocks of two runs change places: the first ones are of one length, as they are full
	// of the same few letters, or else what is behind them does not fit.
	one, two := s.runs[0], s.runs[1]
	n := min(one.end-one.offset, two.end-two.offset)
	if _, err := f.WriteAt(whole[two.offset:two.offset+n], one.offset); err != nil {
		t.Fatal(err)
	}
	refused("a run in the place of another")
	restore()
	must(t, f.Truncate(f.size-1))
	refused("cut off")
	restore()
	if have := read(t, s.All()); !slices.Equal(have, order(pairs)) {
		t.Error("restored, it is another one")
	}
}

// TestL4_NothingIsLeft: no name while there is content, nothing after the end, and what
// is on disk cannot be read.
func TestL4_NothingIsLeft(t *testing.T) {
	parent := t.TempDir()
	d, err := Open(parent)
	must(t, err)
	names := func() []os.DirEntry {
		list, err := os.ReadDir(parent)
		must(t, err)
		return list
	}
	s := d.Sorter(1)
	secret := bytes.Repeat([]byte("a secret that nobody may find "), 40)
	for i := range 60_000 {
		must(t, s.Add(binary.BigEndian.AppendUint32(nil, uint32(i*7919)), secret))
		if i%10_000 == 0 && len(names()) > 0 {
			t.Fatalf("%v has a name", names()[0])
		}
	}
	if len(d.files) < 2 || len(d.files) > 4 {
		t.Errorf("%d files are open", len(d.files))
	}
	for f := range d.files {
		b := make([]byte, f.size)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 && bytes.Contains(b, []byte("nobody")) {
			t.Error("it can be read")
		}
	}
	out, err := s.Sorted()
	must(t, err)
	must(t, d.Close())
	if len(names()) > 0 {
		t.Errorf("%v is left", names()[0])
	}
	for _, err = range out.All() {
		break
	}
	if err == nil {
		t.Error("read after the end")
	}
	s = d.Sorter(1)
	for err == nil || !errors.Is(err, ErrEnded) {
		err = s.Add([]byte("late"), secret)
	}
	if _, err := Open(parent + "/none"); err == nil {
		t.Error("a folder that is not there")
	}
	if _, err := s.Sorted(); !errors.Is(err, ErrEnded) {
		t.Errorf("sorted after the end: %v", err)
	}
}

func BenchmarkSort(b *testing.B) {
	const n = 200_000
	d := open(b)
	value := bytes.Repeat([]byte("0123456789abcdef"), 64)
	for b.Loop() {
		s := d.Sorter(32 << 20)
		for i := range uint64(n) {
			must(b, s.Add(binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15), value))
		}
		out, err := s.Sorted()
		must(b, err)
		for _, err := range out.All() {
			must(b, err)
		}
		must(b, out.Close())
	}
	b.SetBytes(n * 1032)
}
