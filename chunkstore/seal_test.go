package chunkstore

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// oneKey is the least backend for tests that need the package's inside (storetest
// cannot be imported here). It counts creates.
type oneKey struct {
	mu      sync.Mutex
	objects map[string][]byte
	creates int
}

func (b *oneKey) Create(_ context.Context, key string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.creates++
	if _, ok := b.objects[key]; ok {
		return ErrExists
	}
	if b.objects == nil {
		b.objects = map[string][]byte{}
	}
	b.objects[key] = bytes.Clone(data)
	return nil
}

func (b *oneKey) Get(_ context.Context, key string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if data, ok := b.objects[key]; ok {
		return bytes.Clone(data), nil
	}
	return nil, ErrNotFound
}

func (b *oneKey) Stat(context.Context, string) (Info, error)           { return Info{}, ErrNotFound }
func (b *oneKey) List(context.Context, string, func(Info) error) error { return nil }
func fixed(fill byte) Secret                                           { return Secret(bytes.Repeat([]byte{fill}, 32)) }

func fixedKeys() Keys { return Keys{fixed(1), fixed(2), fixed(3), fixed(4), 0x3DA3358B4DC173} }

func sum(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// TestLayout reads an object with nothing but the formulas of the package comment.
func TestLayout(t *testing.T) {
	b, k := &oneKey{}, fixedKeys()
	plaintext := []byte(strings.Repeat("1\tone\t\\N\n", 40))
	for _, c := range []Compression{Fast, Default, Stored} {
		b.objects = nil
		p, err := New(b, k).Put(t.Context(), KindRows, plaintext, c)
		if err != nil {
			t.Fatal(err)
		}
		d := sha256.Sum256(append([]byte("r"), plaintext...))
		gen := make([]byte, 16)
		name := sum(k.Name[:], gen, d[:])
		if d != p.Ref.D || !bytes.Equal(name, p.Name[:]) {
			t.Fatalf("name %s", p.Name)
		}
		x := hex.EncodeToString(name)
		object := b.objects["chunk/"+x[:2]+"/"+x]
		if string(object[:10]) != "LIFECHNK\x01r" {
			t.Errorf("head %q", object[:10])
		}
		body, trailer := object[:len(object)-32], object[len(object)-32:]
		kt, _ := hkdf.Key(sha256.New, k.Seal[:], nil, "lifeboat/1/trailer", 32)
		if !bytes.Equal(trailer, sum(kt, name, body)) {
			t.Error("trailer")
		}
		block, _ := aes.NewCipher(sum(k.Chunk[:], []byte{1}, d[:]))
		gcm, _ := cipher.NewGCM(block)
		nonce := body[10:22]
		frame, err := gcm.Open(nil, nonce, body[22:], body[:10])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(nonce, sum(sum(k.Chunk[:], []byte{2}, d[:]), frame)[:12]) {
			t.Error("nonce")
		}
		z := binary.BigEndian.Uint64(frame)
		r, _ := zstd.NewReader(nil)
		got, err := r.DecodeAll(frame[8:8+z], nil)
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("compression %d: %d bytes, %v", c, len(got), err)
		}
		if len(bytes.Trim(frame[8+z:], "\x00")) != 0 {
			t.Error("padding")
		}
		r.Close()
	}
}

// TestGoldenObject fixes every byte of a chunk. [Stored] and [AppendFrame]'s padding
// are ours; what zstd makes of a text may change with its version.
func TestGoldenObject(t *testing.T) {
	b := &oneKey{}
	p, err := New(b, fixedKeys()).Put(t.Context(), KindRows, []byte("1\tone\n2\ttwo\n"), Stored)
	if err != nil {
		t.Fatal(err)
	}
	const name = "1d2fa952f6803e94ed4fc0db213662d6a161c3876b89f869c0a6420cab13d3a2"
	const object = "4c49464543484e4b0172" + // magic, version, kind
		"07135a86b4760715524cf6c1" + // nonce
		"838013b2a612275c225974ff0dc440c254653ba856aaa5fc6ab74deb073fa4de9845fb705acca8b9" + // sealed frame
		"a6b8f19fa929f8d4c6eecce919f552f2" + // tag
		"547ef5cbbee2600d41241eb0f238aa5d915f2c7b8fee3f395e8ed69c071d8b17" // trailer
	if got := p.Name.String(); got != name {
		t.Errorf("name %s", got)
	}
	if got := hex.EncodeToString(b.objects[p.Name.Key()]); got != object {
		t.Errorf("object %s", got)
	}
}

// S4: a seal that opens and a trailer that matches do not make another plaintext
// that of d (AES-GCM commits to no key, and an agent's keys may be stolen).
func TestS4_PlaintextMustBeThatOfD(t *testing.T) {
	b := &oneKey{}
	s := New(b, fixedKeys())
	p, err := s.Put(t.Context(), KindRows, []byte("1\tone\n"), Fast)
	if err != nil {
		t.Fatal(err)
	}
	forged := s.seal(nil, KindRows, p.Ref.D, []byte("1\tTWO\n"), Fast)
	trailer := s.trailerOf(p.Name, forged)
	b.objects[p.Name.Key()] = append(forged, trailer[:]...)
	if got, err := s.Get(t.Context(), KindRows, p.Ref); !errors.Is(err, ErrDamaged) {
		t.Errorf("get: %q, %v", got, err)
	}
	if again, err := s.Put(t.Context(), KindRows, []byte("1\tone\n"), Fast); err != nil || !again.New {
		t.Errorf("put: %+v, %v", again, err)
	}
}

// S5: what is sealed is opened and compared before it is sent.
func TestS5_WhatDoesNotOpenIsNotSent(t *testing.T) {
	plaintext := bytes.Repeat([]byte("x\ty\n"), 1000)
	for at := range minObject - trailerSize {
		b := &oneKey{}
		s := New(b, fixedKeys())
		s.tamper = func(object []byte) { object[at] ^= 4 }
		_, err := s.Put(t.Context(), KindRows, plaintext, Fast)
		if !errors.Is(err, errSelf) || errors.Is(err, ErrDamaged) || b.creates != 0 {
			t.Errorf("byte %d: %v, %d creates", at, err, b.creates)
		}
	}
	b := &oneKey{}
	s := New(b, fixedKeys())
	other := New(b, fixedKeys())
	s.tamper = func(object []byte) { // another plaintext of equal length, sealed well
		copy(object, other.seal(nil, KindRows, digest(KindRows, plaintext), bytes.Repeat([]byte("x\tz\n"), 1000), Fast))
	}
	if _, err := s.Put(t.Context(), KindRows, plaintext, Fast); !errors.Is(err, errSelf) || b.creates != 0 {
		t.Errorf("another plaintext: %v, %d creates", err, b.creates)
	}
}

// S6: one key never seals two different frames under one nonce. The key depends on
// d, so a key's frames are those of one content: its compressions; and whatever
// depends on the generation stays outside the seal.
func TestS6_OneNonceOneFrame(t *testing.T) {
	s := New(&oneKey{}, fixedKeys())
	plaintext := bytes.Repeat([]byte("1\tone\n"), 5000)
	d := digest(KindRows, plaintext)
	frames := map[string]string{}
	for range 2 {
		for _, c := range []Compression{Fast, Default, Stored} {
			frame := AppendFrame(nil, plaintext, c)
			object := s.seal(nil, KindRows, d, plaintext, c)
			nonce := string(object[headSize:sealedAt])
			if was, ok := frames[nonce]; ok && was != string(frame) {
				t.Errorf("compression %d: nonce of another frame", c)
			}
			frames[nonce] = string(frame)
		}
	}
	if len(frames) < 2 {
		t.Error("the compressions made one frame, nothing was tried")
	}
	var sealed [][]byte
	for _, gen := range []Gen{{}, {1}} {
		b := &oneKey{}
		s := New(b, fixedKeys())
		if gen != (Gen{}) {
			n := s.name(Gen{}, d)
			s.Condemn(gen, [][8]byte{[8]byte(n[:8])})
		}
		p, err := s.Put(t.Context(), KindRows, plaintext, Fast)
		if err != nil || p.Ref.Gen != gen {
			t.Fatalf("%+v, %v", p, err)
		}
		object := b.objects[p.Name.Key()]
		sealed = append(sealed, object[:len(object)-trailerSize])
	}
	if !bytes.Equal(sealed[0], sealed[1]) {
		t.Error("the generation changes what is sealed under one key and nonce")
	}
}

// FuzzOpenChunk: nothing that lies at a name makes the reader panic, and what it
// returns is what d says. Trailers and seals are made right half of the time, so
// that the inside is reached.
func FuzzOpenChunk(f *testing.F) {
	plaintext := []byte("1\tone\n2\ttwo\n")
	d := digest(KindRows, plaintext)
	s := New(&oneKey{}, fixedKeys())
	for _, c := range []Compression{Fast, Default, Stored} {
		object := s.seal(nil, KindRows, d, plaintext, c)
		t := s.trailerOf(s.name(Gen{}, d), object)
		f.Add(append(object, t[:]...), uint64(len(plaintext)), uint8(0))
		f.Add(object, uint64(len(plaintext)), uint8(1))
		f.Add(AppendFrame(nil, plaintext, c), uint64(len(plaintext)), uint8(2))
	}
	f.Add([]byte{}, uint64(0), uint8(0))
	f.Fuzz(func(t *testing.T, object []byte, size uint64, right uint8) {
		n := s.name(Gen{}, d)
		if right == 2 { // the input is a frame
			h := head(KindRows)
			nonce := s.nonce(d, object)
			object = s.aead(d).Seal(append(h[:], nonce[:]...), nonce[:], object, h[:])
		}
		if right >= 1 {
			trailer := s.trailerOf(n, object)
			object = append(bytes.Clone(object), trailer[:]...)
		}
		got, err := s.open(nil, n, KindRows, Ref{D: d, Size: size % MaxSize}, bytes.Clone(object))
		switch {
		case err == nil && !bytes.Equal(got, plaintext):
			t.Errorf("opened to %q", got)
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion):
			t.Errorf("%v is neither damage nor version", err)
		}
	})
}
