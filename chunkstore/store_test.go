package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
)

// secret is a fixed one, so that names in tests are the same every time.
func secret(fill byte) chunkstore.Secret { return chunkstore.Secret(bytes.Repeat([]byte{fill}, 32)) }

func testKeys() chunkstore.Keys {
	return chunkstore.Keys{
		Name: secret(1), Chunk: secret(2), Seal: secret(3), Cut: secret(4),
		Polynomial: 0x3DA3358B4DC173, // restic/chunker's own test polynomial
	}
}

func newStore(t *testing.T) (*chunkstore.Store, *storetest.Memory) {
	t.Helper()
	m := storetest.NewMemory(t)
	return chunkstore.New(m, testKeys()), m
}

// rows is n bytes that look like lines of COPY text.
func rows(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := strings.Fields("m.room.message m.room.member !abcdefgh:example.org @user:example.org join leave \\N t f body msgtype m.text origin_server_ts")
	b := make([]byte, 0, n+200)
	for len(b) < n {
		b = fmt.Appendf(b, "%d\t$%x\t", r.Uint64N(1e9), r.Uint64())
		for range 20 {
			b = append(append(b, words[r.IntN(len(words))]...), ' ')
		}
		b = append(b, '\n')
	}
	return b[:n]
}

func put(t *testing.T, s *chunkstore.Store, kind chunkstore.Kind, b []byte, c chunkstore.Compression) chunkstore.Put {
	t.Helper()
	p, err := s.Put(t.Context(), kind, b, c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantGet(t *testing.T, s *chunkstore.Store, kind chunkstore.Kind, r chunkstore.Ref, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), kind, r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("get: %d bytes that differ from the %d put", len(got), len(want))
	}
}

var compressions = []chunkstore.Compression{chunkstore.Fast, chunkstore.Default, chunkstore.Stored}

func TestRoundTrip(t *testing.T) {
	s, m := newStore(t)
	for _, kind := range []chunkstore.Kind{chunkstore.KindRows, chunkstore.KindRecords, chunkstore.KindBytes, chunkstore.KindIndex} {
		for i, n := range []int{0, 1, 255, 256, 1023, 1024, 1025, 128 << 10, 128<<10 + 1, 1 << 20, 3<<20 + 7} {
			b := rows(n, uint64(i))
			p := put(t, s, kind, b, compressions[i%3])
			if !p.New || p.Ref.Size != uint64(n) || p.Name != s.Name(p.Ref) || p.Stored != int64(len(m.Object(p.Name.Key()))) {
				t.Errorf("put %d bytes: %+v", n, p)
			}
			wantGet(t, s, kind, p.Ref, b)
			if err := s.Scrub(t.Context(), p.Name); err != nil {
				t.Error(err)
			}
		}
	}
}

// S1: a name depends only on content, generation and repository key.
func TestS1_NameDependsOnContentGenerationAndKey(t *testing.T) {
	s, m := newStore(t)
	b := rows(100_000, 1)
	first := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	for _, c := range compressions {
		again := put(t, s, chunkstore.KindRows, b, c)
		if again.New || again.Ref != first.Ref || again.Name != first.Name {
			t.Errorf("compression %d: %+v, want the chunk %+v", c, again, first)
		}
	}
	if got := m.Keys(); len(got) != 1 {
		t.Errorf("one content, %d objects", len(got))
	}
	names := map[chunkstore.Name]string{first.Name: "first"}
	other := func(what string, n chunkstore.Name) {
		if was, ok := names[n]; ok {
			t.Errorf("%s has the name of %s", what, was)
		}
		names[n] = what
	}
	other("another kind", put(t, s, chunkstore.KindRecords, b, chunkstore.Fast).Name)
	other("another content", put(t, s, chunkstore.KindRows, b[1:], chunkstore.Fast).Name)
	other("another generation", s.Name(chunkstore.Ref{D: first.Ref.D, Gen: chunkstore.Gen{1}, Size: first.Ref.Size}))
	k := testKeys()
	k.Name = secret(9)
	other("another repository", chunkstore.New(m, k).Name(first.Ref))
	k = testKeys()
	k.Chunk, k.Seal, k.Cut = secret(7), secret(8), secret(9)
	if chunkstore.New(m, k).Name(first.Ref) != first.Name {
		t.Error("the name depends on other keys than K_name")
	}
}

// S2: Put returns nil only when a power cut cannot undo it: never when Create did
// not say so, and after an unclear answer the next Put settles it.
func TestS2_PutIsDurableOrAnError(t *testing.T) {
	for _, c := range []struct {
		name      string
		fault     storetest.Fault
		err       error
		persisted bool
	}{
		{"error, not persisted", storetest.ErrBefore, storetest.ErrInjected, false},
		{"error, but persisted", storetest.ErrAfter, storetest.ErrInjected, true},
		{"reply lost, the retry meets its own object", storetest.LostReply, nil, true},
		{"crash before", storetest.Crash, storetest.ErrCrashed, false},
		{"crash after", storetest.CrashAfter, storetest.ErrCrashed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, m := newStore(t)
			b := rows(50_000, 2)
			m.FailNext(storetest.OpCreate, c.fault)
			if _, err := s.Put(t.Context(), chunkstore.KindRows, b, chunkstore.Fast); !errors.Is(err, c.err) {
				t.Fatalf("put: %v, want %v", err, c.err)
			}
			if got := len(m.Keys()) == 1; got != c.persisted {
				t.Errorf("persisted: %t, want %t", got, c.persisted)
			}
			m.Restart()
			p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
			if p.New == c.persisted {
				t.Errorf("put again: new %t", p.New)
			}
			wantGet(t, s, chunkstore.KindRows, p.Ref, b)
		})
	}
	t.Run("hang", func(t *testing.T) {
		s, m := newStore(t)
		m.FailNext(storetest.OpCreate, storetest.Hang)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := s.Put(ctx, chunkstore.KindRows, []byte("x"), chunkstore.Fast)
			done <- err
		}()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("put: %v", err)
		}
	})
}

// S2: what lay there before counts only when it could be read and is whole.
func TestS2_ExistingObjectIsOpenedFirst(t *testing.T) {
	s, m := newStore(t)
	b := rows(50_000, 3)
	p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	m.FailNext(storetest.OpGet, storetest.ErrBefore)
	if _, err := s.Put(t.Context(), chunkstore.KindRows, b, chunkstore.Fast); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("put over an unreadable object: %v", err)
	}
	m.ClearLog()
	s.Trust(p.Name)
	if again := put(t, s, chunkstore.KindRows, b, chunkstore.Fast); again.New || again.Stored != p.Stored || again.Ref != p.Ref {
		t.Errorf("put a trusted chunk: %+v, want %+v", again, p)
	}
	if log := m.Log(); len(log) != 1 || log[0].Op != storetest.OpStat {
		t.Errorf("put a trusted chunk: %+v, want one stat", log)
	}
	m.FailNext(storetest.OpStat, storetest.ErrBefore)
	if _, err := s.Put(t.Context(), chunkstore.KindRows, b, chunkstore.Fast); !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("put when it cannot be told: %v", err)
	}
	m.Lose(p.Name.Key())
	if again := put(t, s, chunkstore.KindRows, b, chunkstore.Fast); !again.New {
		t.Error("a trusted chunk that is gone was not stored again")
	}
	wantGet(t, s, chunkstore.KindRows, p.Ref, b)
}

// S3: a damaged object is never overwritten; its content gets another name, the
// same one for the rest of the process.
func TestS3_DamagedIsReplacedElsewhere(t *testing.T) {
	s, m := newStore(t)
	b := rows(10_000, 4)
	p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	key := p.Name.Key()
	whole := m.Object(key)
	damages := map[string]func(){
		"flip in the magic":      func() { m.Corrupt(key, 0) },
		"flip in the version":    func() { m.Corrupt(key, 8) },
		"flip in the kind":       func() { m.Corrupt(key, 9) },
		"flip in the nonce":      func() { m.Corrupt(key, 12) },
		"flip in the seal":       func() { m.Corrupt(key, 1000) },
		"flip in the trailer":    func() { m.Corrupt(key, -1) },
		"cut":                    func() { m.Truncate(key, len(whole)-1) },
		"cut to nothing":         func() { m.Truncate(key, 0) },
		"another chunk's object": func() { m.Replace(key, m.Object(put(t, s, chunkstore.KindRows, b[1:], 0).Name.Key())) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			damage()
			defer m.Replace(key, whole)
			damaged := m.Object(key)
			s := chunkstore.New(m, testKeys()) // another process
			next := put(t, s, chunkstore.KindRows, b, chunkstore.Default)
			if !next.New || next.Name == p.Name || next.Ref.Gen == (chunkstore.Gen{}) || next.Ref.D != p.Ref.D {
				t.Errorf("put over damage: %+v", next)
			}
			if again := put(t, s, chunkstore.KindRows, b, chunkstore.Fast); again.New || again.Ref != next.Ref {
				t.Errorf("put again: %+v, want %+v", again, next)
			}
			wantGet(t, s, chunkstore.KindRows, next.Ref, b)
			if !bytes.Equal(m.Object(key), damaged) {
				t.Error("the damaged object was touched")
			}
		})
	}
}

// S4: every single-byte flip and every cut of an object is an error, of Get and of
// Scrub.
func TestS4_EveryFlipIsFound(t *testing.T) {
	s, m := newStore(t)
	b := rows(700, 5)
	p := put(t, s, chunkstore.KindRows, b, chunkstore.Stored)
	key := p.Name.Key()
	whole := m.Object(key)
	scrubber := chunkstore.New(m, chunkstore.Keys{Seal: testKeys().Seal})
	damaged := func(what string) {
		t.Helper()
		_, err := s.Get(t.Context(), chunkstore.KindRows, p.Ref)
		if !errors.Is(err, chunkstore.ErrDamaged) && !errors.Is(err, chunkstore.ErrVersion) {
			t.Errorf("%s: get: %v", what, err)
		}
		err = scrubber.Scrub(t.Context(), p.Name)
		if !errors.Is(err, chunkstore.ErrDamaged) && !errors.Is(err, chunkstore.ErrVersion) {
			t.Errorf("%s: scrub: %v", what, err)
		}
	}
	for i := range whole {
		for _, bit := range []byte{1, 0x80} {
			b := slices.Clone(whole)
			b[i] ^= bit
			m.Replace(key, b)
			damaged(fmt.Sprintf("byte %d ^ %#x", i, bit))
		}
		m.Replace(key, whole[:i])
		damaged(fmt.Sprintf("cut to %d", i))
	}
	m.Replace(key, append(whole, 0))
	damaged("one byte more")
	m.Replace(key, whole)
	wantGet(t, s, chunkstore.KindRows, p.Ref, b)
	if err := scrubber.Scrub(t.Context(), p.Name); err != nil {
		t.Error(err)
	}
}

// S4: a reference that does not fit its chunk is an error, and so are foreign keys.
func TestS4_WrongReference(t *testing.T) {
	s, m := newStore(t)
	b := rows(5000, 6)
	p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	for name, size := range map[string]uint64{"shorter": 4999, "longer": 5001, "huge": 1 << 62} {
		r := p.Ref
		r.Size = size
		if _, err := s.Get(t.Context(), chunkstore.KindRows, r); !errors.Is(err, chunkstore.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Get(t.Context(), chunkstore.KindBytes, p.Ref); !errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("another kind: %v", err)
	}
	r := p.Ref
	r.Gen = chunkstore.Gen{1}
	if _, err := s.Get(t.Context(), chunkstore.KindRows, r); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("another generation: %v", err)
	}
	for name, change := range map[string]func(*chunkstore.Keys){
		"K_chunk": func(k *chunkstore.Keys) { k.Chunk = secret(9) },
		"K_seal":  func(k *chunkstore.Keys) { k.Seal = secret(9) },
	} {
		k := testKeys()
		change(&k)
		if _, err := chunkstore.New(m, k).Get(t.Context(), chunkstore.KindRows, p.Ref); !errors.Is(err, chunkstore.ErrDamaged) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	m.FailNext(storetest.OpGet, storetest.ErrBefore)
	_, err := s.Get(t.Context(), chunkstore.KindRows, p.Ref)
	if !errors.Is(err, storetest.ErrInjected) || errors.Is(err, chunkstore.ErrNotFound) || errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("could not tell: %v", err)
	}
}

// S3: also a replacement that is damaged in its turn is replaced.
func TestS3_DamagedReplacement(t *testing.T) {
	s, m := newStore(t)
	b := rows(10_000, 9)
	seen := map[chunkstore.Gen]bool{}
	for range 3 {
		p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
		if !p.New || seen[p.Ref.Gen] {
			t.Errorf("put: %+v", p)
		}
		seen[p.Ref.Gen] = true
		wantGet(t, s, chunkstore.KindRows, p.Ref, b)
		m.Corrupt(p.Name.Key(), 100)
	}
}

func TestVersionIsNotDamage(t *testing.T) {
	s, m := newStore(t)
	p := put(t, s, chunkstore.KindRows, []byte("x"), chunkstore.Fast)
	b := m.Object(p.Name.Key())
	b[8] = 0
	m.Replace(p.Name.Key(), b)
	_, get := s.Get(t.Context(), chunkstore.KindRows, p.Ref)
	for _, err := range []error{get, s.Scrub(t.Context(), p.Name)} {
		if !errors.Is(err, chunkstore.ErrVersion) || errors.Is(err, chunkstore.ErrDamaged) {
			t.Errorf("%v, want %v", err, chunkstore.ErrVersion)
		}
	}
}

func TestGetIntoUsesRoom(t *testing.T) {
	s, _ := newStore(t)
	b := rows(5000, 7)
	p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	room := make([]byte, 10, 8000)
	got, err := s.GetInto(t.Context(), chunkstore.KindRows, p.Ref, room)
	if err != nil || !bytes.Equal(got, b) || &got[0] != &room[0] {
		t.Errorf("get into room: %d bytes, %v", len(got), err)
	}
}

func TestCondemnedNamesAreNeverUsedAgain(t *testing.T) {
	b := rows(3000, 8)
	run1, run2 := chunkstore.Gen{1}, chunkstore.Gen{2}
	condemn := func(s *chunkstore.Store, gen chunkstore.Gen, names ...chunkstore.Name) {
		var p [][8]byte
		for _, n := range names {
			p = append(p, [8]byte(n[:8]))
		}
		s.Condemn(gen, p)
	}
	s, m := newStore(t)
	first := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	s.Trust(first.Name)
	condemn(s, run1, first.Name)
	if !s.Condemned(first.Name) {
		t.Error("condemned name is not condemned")
	}
	second := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	if second.Ref.Gen != run1 || !second.New || s.Condemned(second.Name) {
		t.Errorf("after run 1: %+v", second)
	}
	condemn(s, run2, second.Name)
	third := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	if third.Ref.Gen != run2 || !third.New {
		t.Errorf("after run 2: %+v", third)
	}
	if other := put(t, s, chunkstore.KindRows, b[1:], chunkstore.Fast); other.Ref.Gen != (chunkstore.Gen{}) {
		t.Errorf("a content that nobody condemned: %+v", other)
	}
	// Another writer that has read the same notes, each log's copy of them too,
	// decides alike.
	another := chunkstore.New(m, testKeys())
	condemn(another, run1, first.Name)
	condemn(another, run2, second.Name)
	condemn(another, run1)
	condemn(another, run1, first.Name)
	if p := put(t, another, chunkstore.KindRows, b, chunkstore.Stored); p.Ref != third.Ref || p.New {
		t.Errorf("another writer: %+v, want %+v", p, third)
	}
	// A first generation condemned by the second run only.
	late := chunkstore.New(m, testKeys())
	condemn(late, run1)
	condemn(late, run2, first.Name)
	if p := put(t, late, chunkstore.KindRows, b, chunkstore.Fast); p.Ref.Gen != run2 {
		t.Errorf("condemned by run 2: %+v", p)
	}
	// A name condemned by both.
	both := chunkstore.New(m, testKeys())
	condemn(both, run1, first.Name)
	condemn(both, run2, first.Name)
	if p := put(t, both, chunkstore.KindRows, b, chunkstore.Fast); p.Ref.Gen != run2 {
		t.Errorf("condemned by both runs: %+v", p)
	}
	// Every generation condemned, by false matches: a random one.
	condemn(s, run2, third.Name)
	fourth := put(t, s, chunkstore.KindRows, b, chunkstore.Fast)
	if !fourth.New || fourth.Ref.Gen == run1 || fourth.Ref.Gen == run2 || fourth.Ref.Gen == (chunkstore.Gen{}) {
		t.Errorf("all condemned: %+v", fourth)
	}
	if p := put(t, s, chunkstore.KindRows, b, chunkstore.Fast); p.New || p.Ref != fourth.Ref {
		t.Errorf("all condemned, again: %+v, want %+v", p, fourth)
	}
	wantGet(t, s, chunkstore.KindRows, fourth.Ref, b)
}

func TestManyPutsAtOnce(t *testing.T) {
	s, m := newStore(t)
	const workers, contents = 8, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	created := 0
	for w := range workers {
		wg.Go(func() {
			for i := range contents {
				b := rows(20_000+i, uint64(i))
				p, err := s.Put(t.Context(), chunkstore.KindRows, b, compressions[w%3])
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Get(t.Context(), chunkstore.KindRows, p.Ref); err != nil || !bytes.Equal(got, b) {
					t.Errorf("get: %d bytes, %v", len(got), err)
				}
				if p.New {
					mu.Lock()
					created++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if n := len(m.Keys()); n != contents || created != contents {
		t.Errorf("%d objects, %d new, want %d", n, created, contents)
	}
}

func TestPutRefuses(t *testing.T) {
	s, m := newStore(t)
	if _, err := s.Put(t.Context(), 'x', nil, chunkstore.Fast); err == nil {
		t.Error("an unknown kind was put")
	}
	if _, err := s.Put(t.Context(), chunkstore.KindRows, make([]byte, chunkstore.MaxSize+1), chunkstore.Fast); err == nil {
		t.Error("a chunk over MaxSize was put")
	}
	if len(m.Keys()) != 0 {
		t.Errorf("stored: %q", m.Keys())
	}
}

func BenchmarkPut(b *testing.B) {
	for name, c := range map[string]chunkstore.Compression{"fast": chunkstore.Fast, "default": chunkstore.Default, "stored": chunkstore.Stored} {
		b.Run(name, func(b *testing.B) {
			s := chunkstore.New(storetest.NewMemory(b), testKeys())
			data := rows(1<<20, 1)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				copy(data, fmt.Sprintf("%016x", i))
				if _, err := s.Put(b.Context(), chunkstore.KindRows, data, c); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/zstd alone", func(b *testing.B) {
			data := rows(1<<20, 1)
			b.SetBytes(int64(len(data)))
			var dst []byte
			for b.Loop() {
				dst = chunkstore.AppendFrame(dst[:0], data, c)
			}
		})
	}
}
