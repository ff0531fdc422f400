package chunkstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var allCompressions = []Compression{Fast, Default, Stored}

// sizes touch every border: of zstd's content size field, of blocks, of windows.
var sizes = []int{0, 1, 2, 254, 255, 256, 257, 1023, 1024, 1025, 65535, 65536 + 255, 65536 + 256, rawBlock - 1, rawBlock, rawBlock + 1, 3*rawBlock + 5, window, window + 1, 9 << 20}

func TestFrameRoundTrip(t *testing.T) {
	text := bytes.Repeat([]byte("1\tone\t2026-01-01\n"), 600_000)
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, c := range allCompressions {
		for _, n := range sizes {
			for _, src := range [][]byte{text, noise} {
				if n > len(src) {
					continue
				}
				frame := AppendFrame([]byte("before"), src[:n], c)
				frame = frame[len("before"):]
				got, err := OpenFrame([]byte("dst"), frame, uint64(n))
				if err != nil || string(got[:3]) != "dst" || !bytes.Equal(got[3:], src[:n]) {
					t.Errorf("compression %d, %d bytes: %d back, %v", c, n, len(got)-3, err)
				}
				if n > 0 {
					if _, err := OpenFrame(nil, frame, uint64(n-1)); !errors.Is(err, ErrDamaged) {
						t.Errorf("compression %d, %d bytes: over max: %v", c, n, err)
					}
				}
			}
		}
	}
}

// TestStoredIsPlainZstd: raw blocks that any decoder reads, with a length that
// tells nothing about the content.
func TestStoredIsPlainZstd(t *testing.T) {
	r, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, n := range sizes {
		zeros := make([]byte, n)
		frame := AppendFrame(nil, zeros, Stored)
		z := binary.BigEndian.Uint64(frame)
		got, err := r.DecodeAll(frame[lengthSize:lengthSize+z], nil)
		if err != nil || !bytes.Equal(got, zeros) {
			t.Errorf("%d bytes: %d back, %v", n, len(got), err)
		}
		if int(z) < n {
			t.Errorf("%d zeros were compressed to %d bytes", n, z)
		}
	}
}

func TestPadme(t *testing.T) {
	for _, c := range [][2]uint64{
		{0, 0},
		{1, 1},
		{2, 2},
		{3, 3},
		{4, 4},
		{5, 5},
		{8, 8},
		{9, 10},
		{10, 10},
		{31, 32},
		{33, 36},
		{100, 104},
		{1000, 1024},
		{1025, 1088},
		{1 << 20, 1 << 20},
		{1<<20 + 1, 1<<20 + 1<<15},
		{math.MaxUint64, math.MaxUint64},
	} {
		if got := padme(c[0]); got != c[1] {
			t.Errorf("padme(%d) = %d, want %d", c[0], got, c[1])
		}
	}
	for n := uint64(1); n < 1<<20; n += 37 {
		p := padme(n)
		if p < n || float64(p) > 1.12*float64(n)+1 || padme(p) != p {
			t.Fatalf("padme(%d) = %d", n, p)
		}
	}
}

// TestOpenFrameAllocatesNoDeclaredLength: a few bytes that declare much cost little.
func TestOpenFrameAllocatesNoDeclaredLength(t *testing.T) {
	bomb := []byte(rawHeader)
	bomb = binary.LittleEndian.AppendUint64(bomb, 1<<40)
	bomb = append(bomb, 1, 0, 0)
	frame := binary.BigEndian.AppendUint64(nil, uint64(len(bomb)))
	frame = append(frame, bomb...)
	frame = append(frame, make([]byte, int(padme(uint64(len(frame))))-len(frame))...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := OpenFrame(nil, frame, math.MaxUint64); !errors.Is(err, ErrDamaged) {
		t.Errorf("bomb: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("bomb: %d bytes allocated", n)
	}
}

func TestOpenFrameRefuses(t *testing.T) {
	good := AppendFrame(nil, noise(500), Fast)
	// Another zstd frame, a skippable one, or rubbish behind the first one.
	wrap := func(packed []byte) []byte {
		f := binary.BigEndian.AppendUint64(nil, uint64(len(packed)))
		f = append(f, packed...)
		return append(f, make([]byte, int(padme(uint64(len(f))))-len(f))...)
	}
	z := binary.BigEndian.Uint64(good)
	packed := good[lengthSize : lengthSize+z]
	noSize, _ := zstd.NewWriter(nil)
	var stream bytes.Buffer
	noSize.Reset(&stream)
	noSize.Write([]byte("abc"))
	noSize.Flush()
	noSize.Close()
	for name, frame := range map[string][]byte{
		"nothing":           nil,
		"half a length":     good[:7],
		"no padding":        good[:lengthSize+int(z)],
		"padded twice":      append(bytes.Clone(good), 0),
		"length too large":  append([]byte{1}, good[1:]...),
		"padding not zero":  append(bytes.Clone(good[:len(good)-1]), 1),
		"two frames":        wrap(append(bytes.Clone(packed), packed...)),
		"cut":               wrap(packed[:len(packed)-1]),
		"skippable":         wrap([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}),
		"no zstd":           wrap([]byte("no zstd at all")),
		"no bytes":          wrap(nil),
		"no content size":   wrap(stream.Bytes()),
		"rubbish behind":    wrap(append(bytes.Clone(packed), 1, 2, 3)),
		"declares one less": wrap(redeclare(packed, -1)),
		"declares one more": wrap(redeclare(packed, 1)),
	} {
		if name == "padding not zero" && len(good) == lengthSize+int(z) {
			t.Fatal("the good frame has no padding")
		}
		if got, err := OpenFrame(nil, frame, 1<<20); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// redeclare changes the 2-byte content size of a single-segment frame.
func redeclare(packed []byte, by int) []byte {
	p := bytes.Clone(packed)
	binary.LittleEndian.PutUint16(p[5:], uint16(int(binary.LittleEndian.Uint16(p[5:]))+by))
	return p
}

// FuzzOpenFrame: no panic, nothing over max, only damage as error.
func FuzzOpenFrame(f *testing.F) {
	for _, c := range allCompressions {
		for _, n := range []int{0, 5, 300, 70_000} {
			f.Add(AppendFrame(nil, bytes.Repeat([]byte{'a'}, n), c), uint64(n))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, max uint64) {
		max %= 1 << 20
		got, err := OpenFrame(nil, frame, max)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("%v is no damage", err)
			}
			return
		}
		if uint64(len(got)) > max {
			t.Errorf("%d bytes, max %d", len(got), max)
		}
		for _, c := range allCompressions {
			again, err := OpenFrame(nil, AppendFrame(nil, got, c), uint64(len(got)))
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("compression %d: %v", c, err)
			}
		}
	})
}
