package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
)

// Conformance tries the musts of [chunkstore.Backend] on empty backends that open
// makes, one for each check.
func Conformance(t *testing.T, open func(t *testing.T) chunkstore.Backend) {
	t.Helper()
	for _, c := range suite() {
		t.Run(c.name, func(t *testing.T) { c.run(reporter{t}, t.Context(), open(t)) })
	}
}

// reporter is a check's way to fail: a *testing.T, or in the suite's own tests one
// that expects failures.
type reporter struct{ failer }

type failer interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// check is one part of the suite.
type check struct {
	name string
	run  func(t reporter, ctx context.Context, b chunkstore.Backend)
}

// suite lists the checks.
func suite() []check {
	return []check{
		{"whole objects", checkWhole},
		{"create never overwrites", checkOverwrite},
		{"one creator wins", checkRace},
		{"folders are no objects", checkFolders},
		{"absent is not found", checkAbsent},
		{"slices are not shared", checkShared},
		{"stat", checkStat},
		{"list in order", checkList},
		{"list by prefix", checkPrefix},
		{"list many", checkMany},
		{"list stops", checkStop},
		{"seen at once and whole", checkVisible},
		{"bad keys", checkKeys},
		{"ended context", checkContext},
		{"remove", checkRemove},
	}
}

func (t reporter) create(ctx context.Context, b chunkstore.Backend, key string, data []byte) {
	t.Helper()
	if err := b.Create(ctx, key, data); err != nil {
		t.Fatalf("create %s: %v", key, err)
	}
}

func (t reporter) holds(ctx context.Context, b chunkstore.Backend, key string, want []byte) {
	t.Helper()
	got, err := b.Get(ctx, key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("get %s: %d bytes that differ from the %d stored", key, len(got), len(want))
	}
}

func (t reporter) list(ctx context.Context, b chunkstore.Backend, prefix string) []chunkstore.Info {
	t.Helper()
	var infos []chunkstore.Info
	err := b.List(ctx, prefix, func(i chunkstore.Info) error {
		infos = append(infos, i)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	return infos
}

func (t reporter) lists(ctx context.Context, b chunkstore.Backend, prefix string, want ...string) {
	t.Helper()
	got := []string{}
	for _, i := range t.list(ctx, b, prefix) {
		got = append(got, i.Key)
	}
	if !slices.Equal(got, want) {
		t.Errorf("list %q: %q, want %q", prefix, got, want)
	}
}

// pattern is n bytes that depend on seed.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func checkWhole(t reporter, ctx context.Context, b chunkstore.Backend) {
	for i, n := range []int{0, 1, 4095, 4096, 4097, 1<<20 + 3, 9 << 20} {
		key := fmt.Sprintf("log/x/%d", i)
		t.create(ctx, b, key, pattern(n, byte(i)))
		t.holds(ctx, b, key, pattern(n, byte(i)))
	}
}

func checkOverwrite(t reporter, ctx context.Context, b chunkstore.Backend) {
	const key = "a/b/c"
	first := pattern(5000, 1)
	t.create(ctx, b, key, first)
	for _, other := range [][]byte{pattern(5000, 2), first, nil, pattern(9000, 3)} {
		if err := b.Create(ctx, key, other); !errors.Is(err, chunkstore.ErrExists) {
			t.Errorf("create again: %v, want %v", err, chunkstore.ErrExists)
		}
		t.holds(ctx, b, key, first)
	}
}

func checkRace(t reporter, ctx context.Context, b chunkstore.Backend) {
	const creators = 8
	for round := range 20 {
		key := fmt.Sprintf("race/%d", round)
		errs := make([]error, creators)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range creators {
			wg.Go(func() {
				<-start
				errs[i] = b.Create(ctx, key, pattern(3000+i, byte(i)))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: creators %d and %d both won", round, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, chunkstore.ErrExists):
				t.Fatalf("round %d: creator %d: %v", round, i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		t.holds(ctx, b, key, pattern(3000+winner, byte(winner)))
	}
}

func checkFolders(t reporter, ctx context.Context, b chunkstore.Backend) {
	t.create(ctx, b, "a/b/c", []byte("x"))
	if err := b.Create(ctx, "a/b/c/d", nil); errors.Is(err, chunkstore.ErrExists) {
		t.Errorf("create below an object: %v", err)
	}
	if err := b.Create(ctx, "a/b", nil); errors.Is(err, chunkstore.ErrExists) {
		t.Errorf("create a folder's name: %v", err)
	}
}

func checkAbsent(t reporter, ctx context.Context, b chunkstore.Backend) {
	t.create(ctx, b, "a/b/c", []byte("x"))
	for _, key := range []string{"z", "a", "a/b", "a/b/d", "a/b/c/d", "a/b/cc", "a/b2/c"} {
		if _, err := b.Get(ctx, key); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("get %s: %v, want %v", key, err, chunkstore.ErrNotFound)
		}
		if _, err := b.Stat(ctx, key); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("stat %s: %v, want %v", key, err, chunkstore.ErrNotFound)
		}
	}
}

func checkShared(t reporter, ctx context.Context, b chunkstore.Backend) {
	data := pattern(2000, 1)
	t.create(ctx, b, "k", data)
	clear(data)
	t.holds(ctx, b, "k", pattern(2000, 1))
	got, err := b.Get(ctx, "k")
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	clear(got)
	t.holds(ctx, b, "k", pattern(2000, 1))
}

func checkStat(t reporter, ctx context.Context, b chunkstore.Backend) {
	t.create(ctx, b, "first", pattern(10, 1))
	t.create(ctx, b, "second", pattern(70000, 1))
	for key, size := range map[string]int64{"first": 10, "second": 70000} {
		info, err := b.Stat(ctx, key)
		if err != nil {
			t.Fatalf("stat %s: %v", key, err)
		}
		if info.Key != key || info.Size != size || info.Modified.IsZero() {
			t.Errorf("stat %s: %+v, want %d bytes and a time", key, info, size)
		}
		for _, listed := range t.list(ctx, b, key) {
			if listed.Size != size || listed.Modified.IsZero() {
				t.Errorf("list %s: %+v, want %d bytes and a time", key, listed, size)
			}
		}
	}
}

func checkList(t reporter, ctx context.Context, b chunkstore.Backend) {
	// '-' and '.' sort before '/', digits and letters after it.
	for _, key := range []string{"b", "a/b/d/e", "a0", "a.b", "aa/b", "a-b/c"} {
		t.create(ctx, b, key, []byte(key))
	}
	t.lists(ctx, b, "", "a-b/c", "a.b", "a/b/d/e", "a0", "aa/b", "b")
	t.lists(ctx, b, "nothing")
}

func checkPrefix(t reporter, ctx context.Context, b chunkstore.Backend) {
	for _, key := range []string{"log/a/1", "log/a/10", "log/a/2", "log/ab/1", "logs", "chunk/ab/1"} {
		t.create(ctx, b, key, nil)
	}
	t.lists(ctx, b, "log/a/", "log/a/1", "log/a/10", "log/a/2")
	t.lists(ctx, b, "log/a", "log/a/1", "log/a/10", "log/a/2", "log/ab/1")
	t.lists(ctx, b, "log/a/1", "log/a/1", "log/a/10")
	t.lists(ctx, b, "lo", "log/a/1", "log/a/10", "log/a/2", "log/ab/1", "logs")
	t.lists(ctx, b, "log/a/1/")
	t.lists(ctx, b, "../")
	t.lists(ctx, b, "chunk", "chunk/ab/1")
}

func checkMany(t reporter, ctx context.Context, b chunkstore.Backend) {
	const n, workers = 1100, 8 // more than a page of 1,000
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("log/%04d", i))
	}
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = b.Create(ctx, want[i], []byte{1})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("create: %v", err)
	}
	t.lists(ctx, b, "log/", want...)
}

func checkStop(t reporter, ctx context.Context, b chunkstore.Backend) {
	for _, key := range []string{"a", "b/c", "d"} {
		t.create(ctx, b, key, nil)
	}
	stop := errors.New("stop")
	var seen int
	err := b.List(ctx, "", func(chunkstore.Info) error {
		if seen++; seen == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || seen != 2 {
		t.Errorf("list: %v after %d keys, want %v after 2", err, seen, stop)
	}
	err = b.List(ctx, "", func(i chunkstore.Info) error {
		_, err := b.Get(ctx, i.Key) // f may use the backend
		return err
	})
	if err != nil {
		t.Errorf("list: %v", err)
	}
}

func checkVisible(t reporter, ctx context.Context, b chunkstore.Backend) {
	const key = "half/or/whole"
	data := pattern(4<<20, 1)
	done := make(chan error, 1)
	go func() { done <- b.Create(ctx, key, data) }()
	for created := false; !created; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			created = true
		default:
		}
		got, err := b.Get(ctx, key)
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Fatalf("get while it is created: %d bytes, not the %d stored", len(got), len(data))
		case err != nil && (created || !errors.Is(err, chunkstore.ErrNotFound)):
			t.Fatalf("get: %v", err)
		}
	}
	if _, err := b.Stat(ctx, key); err != nil {
		t.Errorf("stat: %v", err)
	}
	t.lists(ctx, b, "half", key)
}

func checkKeys(t reporter, ctx context.Context, b chunkstore.Backend) {
	bad := []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", ".tmp/x", "a/.b", "a b", "a\x00b", "a\\b",
		"é", "a:b", strings.Repeat("a", 256), strings.Repeat("a/", 300) + "a",
	}
	for _, key := range bad {
		err := b.Create(ctx, key, []byte("x"))
		if err == nil || errors.Is(err, chunkstore.ErrExists) {
			t.Errorf("create %q: %v, want an error", key, err)
		}
	}
	t.lists(ctx, b, "")
	good := []string{"-", "A_b.c-9", strings.Repeat("a", 255), strings.Repeat("a/", 200) + "a"}
	for _, key := range good {
		t.create(ctx, b, key, []byte(key))
		t.holds(ctx, b, key, []byte(key))
	}
}

func checkContext(t reporter, ctx context.Context, b chunkstore.Backend) {
	t.create(ctx, b, "there", nil)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, get := b.Get(ended, "there")
	_, stat := b.Stat(ended, "absent")
	errs := map[string]error{
		"create": b.Create(ended, "new", nil), "get": get, "stat": stat,
		"list": b.List(ended, "", func(chunkstore.Info) error { return nil }),
	}
	for op, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", op, err, context.Canceled)
		}
	}
}

func checkRemove(t reporter, ctx context.Context, b chunkstore.Backend) {
	r, ok := b.(chunkstore.Remover)
	if !ok {
		return
	}
	for _, key := range []string{"a/b", "a/c", "d"} {
		t.create(ctx, b, key, []byte(key))
	}
	for _, key := range []string{"a/b", "a/b", "never", "never/was", "a"} {
		if err := r.Remove(ctx, key); err != nil {
			t.Errorf("remove %s: %v", key, err)
		}
	}
	if _, err := b.Get(ctx, "a/b"); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("get what was removed: %v", err)
	}
	t.lists(ctx, b, "", "a/c", "d")
	t.holds(ctx, b, "a/c", []byte("a/c"))
}
