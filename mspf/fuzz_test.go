package mspf

import (
	"bytes"
	"io"
	"path/filepath"
	"testing"
)

// fuzzLimits keep one input from costing seconds.
var fuzzLimits = Limits{FileBytes: 1 << 20, Files: 100, Ratio: 1000}

// Any bytes are an archive or an error; nothing panics.
func FuzzArchive(f *testing.F) {
	for _, x := range hostile(f) {
		if len(x.bytes) < 64<<10 {
			f.Add(x.bytes)
		}
	}
	for _, form := range forms[1:] {
		path := filepath.Join(f.TempDir(), form)
		_, err := Write(f.Context(), path, newWorld(f, "10").contents(), plain())
		must(f, err)
		f.Add(read(f, path))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		src, err := unpack(bytes.NewReader(b), nil, fuzzLimits)
		if err != nil {
			return
		}
		src.file = io.NopCloser(nil)
		v := newVerifier()
		_ = newWalker(t.Context(), ReadOptions{AllowIncomplete: true, Limits: fuzzLimits}, hooks{element: v.element, file: v.file}).files(src)
		v.finish()
		_ = src.Close()
	})
}

// What the scanner takes for one value, the decoder reads, but for what only it looks
// at; and what is in deterministic form is written like that.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"\x00", "\x1b\xff\xff\xff\xff\xff\xff\xff\xff", "\xa1\x61a\x81\xf9\x3c\x00", "\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00", "\xf6", "\xfb\x3f\xf0\x00\x00\x00\x00\x00\x01", "\x80", "\xa2\x61a\xf5\x61b\x63\xe2\x82\xac"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScanner(bytes.NewReader(b))
		raw, err := s.value()
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, raw) {
			t.Fatal("not the bytes that were there")
		}
		tree, err := decodeTree(raw)
		if err != nil {
			return // a key twice, not UTF-8
		}
		again, err := encode(tree)
		must(t, err)
		twice, err := decodeTree(again)
		must(t, err)
		third, err := encode(twice)
		must(t, err)
		if !bytes.Equal(again, third) {
			t.Fatalf("%x becomes %x", again, third)
		}
		for _, p := range parts() {
			_ = p.value.check(tree, "x")
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":0,"items":{"m.core":{"v":1},"m.e2e.keys":{"v":1,"im.lifeboat.layout":1},"org.x":{}}}`))
	f.Add([]byte(`{"version":0,"items":{"m.future":{}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readManifest(b, []string{"m.future"})
		if err != nil {
			return
		}
		for item := range p.known {
			if checkItemName(item) != nil {
				t.Fatalf("%q", item)
			}
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"m.core.json", "m.events/events.1.cbor", "../x", "m/x", "a//b", "m.events/events.01.cbor"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, n, ok := partOf(parts(), s)
		if ok && checkPath(s) != nil {
			t.Fatalf("%q is file %d of %s and no path", s, n, p.item)
		}
	})
}
