package chunkstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestGoldenRowCuts fixes where rows are cut: a change here is a full upload of
// every table of every repository.
func TestGoldenRowCuts(t *testing.T) {
	for _, c := range []struct {
		schema, table string
		target, rows  int
		want          []int // numbers of the rows after which it cuts
	}{
		{"public", "events", 64 << 10, 2000, []int{216, 273, 411, 601, 720, 813, 1061, 1301, 1446, 1602, 1693, 1850}},
		{"public", "users", 64 << 10, 2000, []int{253, 550, 708, 885, 1009, 1264, 1424, 1624, 1873, 1993}},
		{"public", "events", 1 << 20, 20000, []int{2390, 4582, 7313, 8459, 11251, 14392, 15977, 18535}},
	} {
		cutter := NewRowCutter(fixed(4), c.schema, c.table, c.target)
		var got []int
		for i := range c.rows {
			if cutter.Row(fmt.Appendf(nil, "%d", i), 200+i%7*50) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s.%s %d: %#v", c.schema, c.table, c.target, got)
		}
	}
}

func TestRowCutLaw(t *testing.T) {
	for _, rowLen := range []int{120, 1200, 20_000} {
		for _, target := range []int{64 << 10, 1 << 20} {
			c := NewRowCutter(fixed(4), "s", "t", target)
			var chunks []float64
			size := 0
			for i := 0; len(chunks) < 400; i++ {
				size += rowLen
				if c.Row(fmt.Appendf(nil, "%d", i), rowLen) {
					chunks = append(chunks, float64(size))
					size = 0
				}
			}
			l := float64(target) * 1.1
			var mean, square float64
			for _, s := range chunks {
				mean += s / float64(len(chunks))
				if s < l/8-1 || s > 4*l+float64(rowLen) {
					t.Errorf("row %d, target %d: a chunk of %.0f", rowLen, target, s)
				}
			}
			for _, s := range chunks {
				square += (s - mean) * (s - mean) / float64(len(chunks))
			}
			cv := math.Sqrt(square) / mean
			// Rows of a third of the target make coarse chunks.
			if slack := 0.08 + float64(rowLen)/float64(target)/2; math.Abs(mean/float64(target)-1) > slack || cv < 0.22 || cv > 0.35 {
				t.Errorf("row %d, target %d: mean %.3f of the target, cv %.2f", rowLen, target, mean/float64(target), cv)
			}
		}
	}
}

// TestRowCutsMeetAgain: cuts depend on content, not on where the stream began.
func TestRowCutsMeetAgain(t *testing.T) {
	cuts := func(from int) (at []int) {
		c := NewRowCutter(fixed(4), "public", "events", 64<<10)
		for i := from; i < 10_000; i++ {
			if c.Row(fmt.Appendf(nil, "%d", i), 500) {
				at = append(at, i)
			}
		}
		return at
	}
	a, b := cuts(0), cuts(37)
	if !slices.Equal(a[len(a)/2:], b[len(b)-(len(a)-len(a)/2):]) {
		t.Error("the cuts did not meet again in half of the rows")
	}
}

func TestRowCutBorders(t *testing.T) {
	c := NewRowCutter(fixed(4), "s", "t", 64<<10)
	if !c.Row(nil, math.MaxInt) {
		t.Error("a huge row does not end its chunk")
	}
	if c.Row(nil, 0) || c.Row(nil, -5) {
		t.Error("a row of no bytes cuts an empty chunk")
	}
	c.size = 4*c.l - 1
	if !c.Row([]byte("k"), 1) {
		t.Error("no cut at 4 L")
	}
	c.size = 4*c.l - 2
	if c.Row([]byte("k"), 1) {
		t.Error("a row of one byte cuts below 4 L (once in 10,000 keys)")
	}
	c.Row([]byte("k"), 5000)
	c.Reset()
	if c.size != 0 {
		t.Error("reset")
	}
	for _, target := range []int{math.MinInt, 0, math.MaxInt} {
		if l := NewRowCutter(fixed(4), "s", "t", target).l; l < 4096 || l > 5<<20 {
			t.Errorf("target %d: L = %d", target, l)
		}
	}
	key := []byte("12345")
	if n := testing.AllocsPerRun(1000, func() { c.Row(key, 900) }); n != 0 {
		t.Errorf("%v allocations for each row", n)
	}
}

// noise is n bytes that are the same on every machine.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(7, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint64() >> 40)
	}
	return b
}

// TestGoldenByteCuts fixes restic/chunker's cuts as we call it.
func TestGoldenByteCuts(t *testing.T) {
	s := New(nil, fixedKeys())
	b := noise(20 << 20)
	var lengths []int
	var joined []byte
	err := s.CutBytes(b, func(p []byte) error {
		lengths = append(lengths, len(p))
		joined = append(joined, p...)
		return nil
	})
	if err != nil || !bytes.Equal(joined, b) {
		t.Fatalf("pieces do not make the whole: %v", err)
	}
	want := []int{
		2296484, 1764839, 1797007, 2643716, 1227718, 1432166, 1198380, 568224, 1097632, 684125, 1330388, 586484,
		735193, 2252266, 1356898,
	}
	if !slices.Equal(lengths, want) {
		t.Errorf("%#v", lengths)
	}
	for i, n := range lengths {
		if n > maxPiece || n < minPiece && i < len(lengths)-1 {
			t.Errorf("piece %d of %d bytes", i, n)
		}
	}
	// A byte put in front moves the first pieces only.
	seen := map[[32]byte]bool{}
	s.CutBytes(b, func(p []byte) error { seen[sha256.Sum256(p)] = true; return nil })
	same := 0
	s.CutBytes(append([]byte{1}, b...), func(p []byte) error {
		if seen[sha256.Sum256(p)] {
			same++
		}
		return nil
	})
	if same < len(lengths)-2 {
		t.Errorf("%d of %d pieces are the same after an insertion", same, len(lengths))
	}
}

func TestCutBytesEnds(t *testing.T) {
	s := New(nil, fixedKeys())
	calls := 0
	count := func([]byte) error { calls++; return nil }
	if err := s.CutBytes(nil, count); err != nil || calls != 0 {
		t.Errorf("nothing: %d pieces, %v", calls, err)
	}
	if err := s.CutBytes([]byte{1}, count); err != nil || calls != 1 {
		t.Errorf("one byte: %d pieces, %v", calls, err)
	}
	stop := errors.New("stop")
	if err := s.CutBytes(make([]byte, 9<<20), func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of f: %v", err)
	}
	if err := New(nil, Keys{}).CutBytes([]byte{1}, count); err == nil {
		t.Error("cut without a polynomial")
	}
}
