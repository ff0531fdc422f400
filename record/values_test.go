package record_test

import (
	"bytes"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lifeboat.im/lifeboat/record"
)

func TestWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		near := rapid.Uint64().Draw(t, "near")
		by := rapid.Int64Range(-1<<31+1, 1<<31-1).Draw(t, "by")
		want := near + uint64(by)
		if by < 0 && want > near || by > 0 && want < near {
			return // there is no such id
		}
		if got := record.Widen(uint32(want), record.XID(near)); got != record.XID(want) {
			t.Fatalf("%d near %d: %d, want %d", uint32(want), near, got, want)
		}
	})
	if got := record.Widen(5, 3); got != 5 {
		t.Errorf("in the first epoch: %d", got)
	}
	if got := record.Widen(0xFFFFFFFF, 3); got != 0xFFFFFFFF {
		t.Errorf("no id is below zero: %d", got)
	}
}

func TestFields(t *testing.T) {
	value := rapid.SliceOf(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("\\\t\n\r\b\f\vNU."))))
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(value, 1, 6).Draw(t, "values")
		var line []byte
		for i, v := range values {
			if i > 0 {
				line = append(line, '\t')
			}
			line = record.AppendValue(line, v)
		}
		if bytes.ContainsAny(line, "\n\r") {
			t.Fatalf("a line of two: %q", line)
		}
		var got [][]byte
		if err := record.Fields(line, len(values), func(_ int, f []byte) { got = append(got, record.AppendUnescaped(nil, f)) }); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got, values, bytes.Equal) {
			t.Fatalf("%q comes back as %q", values, got)
		}
		for _, n := range []int{len(values) - 1, len(values) + 1} {
			if n == 0 && len(line) == 0 {
				continue
			}
			if record.Fields(line, n, func(int, []byte) {}) == nil {
				t.Fatalf("%q has %d fields", line, n)
			}
		}
	})
}

func TestAppendKey(t *testing.T) {
	rel := &record.Relation{Columns: make([]record.Column, 3), Key: []uint16{2, 0}}
	key, scratch, err := record.AppendKey(nil, []byte("a\tb\tc"), rel, nil)
	if err != nil || string(key) != "c\ta" {
		t.Errorf("%q %v", key, err)
	}
	if _, _, err := record.AppendKey(nil, []byte("a\tb"), rel, scratch); err == nil {
		t.Error("a line of two fields has three")
	}
	bag := &record.Relation{Columns: rel.Columns}
	if key, _, _ := record.AppendKey(nil, []byte("a\tb\tc"), bag, nil); string(key) != "a\tb\tc" {
		t.Errorf("of a bag: %q", key)
	}
	buf, line := make([]byte, 0, 64), []byte("a\tb\tc")
	if n := testing.AllocsPerRun(100, func() { _, scratch, _ = record.AppendKey(buf, line, rel, scratch) }); n > 0 {
		t.Errorf("%v allocations for a key", n)
	}
}

// number gives the digest as the number that it is.
func number(d record.Digest) *big.Int {
	n := new(big.Int).SetUint64(d.Hi)
	return n.Or(n.Lsh(n, 64), new(big.Int).SetUint64(d.Lo))
}

func TestDigestIsASumModulo2To128(t *testing.T) {
	mod := new(big.Int).Lsh(big.NewInt(1), 128)
	draw := func(t *rapid.T, name string) record.Digest {
		return record.Digest{Hi: rapid.Uint64().Draw(t, name), Lo: rapid.Uint64().Draw(t, name), Count: int64(rapid.Int32().Draw(t, name))}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		sum := a
		sum.Add(b)
		want := new(big.Int).Add(number(a), number(b))
		if want.Mod(want, mod); number(sum).Cmp(want) != 0 || sum.Count != a.Count+b.Count {
			t.Fatalf("%s + %s = %s", a, b, sum)
		}
		back := sum
		if back.Sub(b); back != a {
			t.Fatalf("%s - %s = %s", sum, b, back)
		}
		if back.Sub(a); !back.IsZero() {
			t.Fatalf("a - a = %s", back)
		}
	})
}

func TestHasher(t *testing.T) {
	key := bytes.Repeat([]byte{1}, 32)
	h := record.NewHasher(key, "s", "t")
	a := h.Line([]byte("x"))
	if a != h.Line([]byte("x")) || a.Count != 1 {
		t.Error("a line has two digests")
	}
	for name, b := range map[string]record.Digest{
		"another line":  h.Line([]byte("y")),
		"another table": record.NewHasher(key, "s", "u").Line([]byte("x")),
		"moved border":  record.NewHasher(key, "st", "").Line([]byte("x")),
		"another key":   record.NewHasher(make([]byte, 32), "s", "t").Line([]byte("x")),
	} {
		if a == b {
			t.Errorf("%s has the same digest", name)
		}
	}
	line := []byte("a line")
	if n := testing.AllocsPerRun(100, func() { h.Line(line) }); n > 0 {
		t.Errorf("%v allocations for a line", n)
	}
}

func TestTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := record.Time(rapid.Int64Range(-1<<58, 1<<58).Draw(t, "time"))
		if got := record.FromTime(x.Time()); got != x {
			t.Fatalf("%d comes back as %d", x, got)
		}
	})
	if got := record.FromTime(time.Date(2000, 1, 1, 0, 0, 0, 1999, time.UTC)); got != 1 {
		t.Errorf("rounded to %d", got)
	}
	if got := record.FromTime(time.Date(1999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)); got != -1 {
		t.Errorf("before 2000 rounded to %d", got)
	}
	if got := record.Time(0).String(); got != "2000-01-01T00:00:00.000000Z" {
		t.Errorf("the epoch is %s", got)
	}
}

func TestSnapshotSees(t *testing.T) {
	s, err := record.ParseSnapshot("10:20:10,14")
	if err != nil {
		t.Fatal(err)
	}
	for x, want := range map[record.XID]bool{9: true, 10: false, 11: true, 14: false, 15: true, 19: true, 20: false, 99: false} {
		if s.Sees(x) != want {
			t.Errorf("sees %d: %v", x, !want)
		}
	}
	for _, bad := range []string{"", "1:2", "2:1:", "1:5:3,2", "1:5:2,2", "5:9:4", "1:5:5", "01:5:", "1:5:,", "-1:5:", "1:5:2:"} {
		if _, err := record.ParseSnapshot(bad); err == nil {
			t.Errorf("%q is a snapshot", bad)
		}
	}
}
