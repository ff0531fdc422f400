package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
)

// lenient takes complaints about broken laws as the point of the test.
type lenient struct {
	mu         sync.Mutex
	complaints []string
}

func (l *lenient) Helper() {}

func (l *lenient) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.complaints = append(l.complaints, fmt.Sprintf(format, args...))
}

func (l *lenient) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	panic(l)
}

func TestMemoryConforms(t *testing.T) {
	Conformance(t, func(*testing.T) chunkstore.Backend { return NewMemory(&lenient{}) })
}

// failed runs a check and returns its complaints.
func failed(ctx context.Context, c check, b chunkstore.Backend) (complaints []string) {
	l := &lenient{}
	defer func() {
		if r := recover(); r != nil && r != any(l) {
			panic(r)
		}
		complaints = l.complaints
	}()
	c.run(reporter{l}, ctx, b)
	return l.complaints
}

// broken is a backend that breaks one must.
type broken struct {
	*Memory
	create func(m *Memory, ctx context.Context, key string, data []byte) error
	get    func(data []byte, err error) ([]byte, error)
	list   func([]chunkstore.Info) []chunkstore.Info
	remove func(m *Memory, ctx context.Context, key string) error
}

func (b *broken) Create(ctx context.Context, key string, data []byte) error {
	if b.create != nil {
		return b.create(b.Memory, ctx, key, data)
	}
	return b.Memory.Create(ctx, key, data)
}

func (b *broken) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := b.Memory.Get(ctx, key)
	if b.get != nil {
		return b.get(data, err)
	}
	return data, err
}

func (b *broken) Remove(ctx context.Context, key string) error {
	if b.remove != nil {
		return b.remove(b.Memory, ctx, key)
	}
	return b.Memory.Remove(ctx, key)
}

func (b *broken) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	infos, err := b.Memory.list(ctx, prefix)
	if err != nil {
		return err
	}
	if b.list != nil {
		infos = b.list(infos)
	}
	for _, i := range infos {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

// looksThenWrites is the race of small S3 servers: of two creators each looks before
// the other writes.
func looksThenWrites() func(m *Memory, ctx context.Context, key string, data []byte) error {
	var mu sync.Mutex
	looked := map[string]chan struct{}{}
	return func(m *Memory, ctx context.Context, key string, data []byte) error {
		if _, err := m.Stat(ctx, key); err == nil {
			return chunkstore.ErrExists
		}
		mu.Lock()
		second := looked[key]
		if second == nil {
			looked[key] = make(chan struct{}, 1)
			second = looked[key]
			mu.Unlock()
			<-second
		} else {
			mu.Unlock()
			select {
			case second <- struct{}{}:
			default:
			}
		}
		m.Replace(key, data)
		return nil
	}
}

// TestConformanceFindsBrokenBackends plants one fault for each must; the check
// named beside it has to find it.
func TestConformanceFindsBrokenBackends(t *testing.T) {
	for _, c := range []struct {
		fault string
		check string
		b     broken
	}{
		{"overwrites", "create never overwrites", broken{create: func(m *Memory, _ context.Context, key string, data []byte) error {
			m.Replace(key, data)
			return nil
		}}},
		{"overwrites and says that it did not", "create never overwrites", broken{create: func(m *Memory, ctx context.Context, key string, data []byte) error {
			err := m.Create(ctx, key, data)
			m.Replace(key, data)
			return err
		}}},
		{"looks, then writes", "one creator wins", broken{create: looksThenWrites()}},
		{"says exists to everybody", "one creator wins", broken{create: func(m *Memory, ctx context.Context, key string, data []byte) error {
			if err := m.Create(ctx, key, data); err != nil {
				return err
			}
			return chunkstore.ErrExists
		}}},
		{"reads short", "whole objects", broken{get: func(b []byte, err error) ([]byte, error) { return b[:min(len(b), 1<<16)], err }}},
		{"absent is empty", "absent is not found", broken{get: func(b []byte, _ error) ([]byte, error) { return b, nil }}},
		{"could not tell", "absent is not found", broken{get: func(b []byte, err error) ([]byte, error) {
			if err != nil {
				err = ErrInjected
			}
			return b, err
		}}},
		{"lists in another order", "list in order", broken{list: func(i []chunkstore.Info) []chunkstore.Info { slices.Reverse(i); return i }}},
		{"lists one page", "list many", broken{list: func(i []chunkstore.Info) []chunkstore.Info { return i[:min(len(i), 1000)] }}},
		{"lists late", "seen at once and whole", broken{list: func([]chunkstore.Info) []chunkstore.Info { return nil }}},
		{"takes any key", "bad keys", broken{create: func(m *Memory, _ context.Context, key string, data []byte) error {
			m.Replace(key, data)
			return nil
		}}},
		{"keeps going", "ended context", broken{create: func(m *Memory, _ context.Context, key string, data []byte) error {
			return m.Create(context.Background(), key, data)
		}}},
		{"removes nothing", "remove", broken{remove: func(*Memory, context.Context, string) error { return nil }}},
		{"complains about nothing to remove", "remove", broken{remove: func(m *Memory, ctx context.Context, key string) error {
			if _, err := m.Stat(ctx, key); err != nil {
				return err
			}
			return m.Remove(ctx, key)
		}}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			checks := suite()
			i := slices.IndexFunc(checks, func(k check) bool { return k.name == c.check })
			if i < 0 {
				t.Fatalf("no check %q", c.check)
			}
			c.b.Memory = NewMemory(&lenient{})
			if got := failed(t.Context(), checks[i], &c.b); len(got) == 0 {
				t.Errorf("%q passes a backend that %s", c.check, c.fault)
			}
		})
	}
}

// TestMemoryEnforcesLaws: a user that breaks one is reported.
func TestMemoryEnforcesLaws(t *testing.T) {
	name := chunkstore.Name{1}
	for law, breakIt := range map[string]func(ctx context.Context, m *Memory){
		"a removed key is never used again": func(ctx context.Context, m *Memory) {
			m.Create(ctx, "log/1", nil)
			m.Remove(ctx, "log/1")
			m.Create(ctx, "log/1", nil)
		},
		"keys that every backend can hold": func(ctx context.Context, m *Memory) { m.Create(ctx, "a/../b", nil) },
		"a chunk lies at its name":         func(ctx context.Context, m *Memory) { m.Create(ctx, "chunk/ff/"+name.String(), []byte("LIFECHNK")) },
		"a chunk is a chunk":               func(ctx context.Context, m *Memory) { m.Create(ctx, name.Key(), []byte("x")) },
	} {
		l := &lenient{}
		breakIt(t.Context(), NewMemory(l))
		if len(l.complaints) == 0 {
			t.Errorf("%s: not enforced", law)
		}
	}
	l := &lenient{}
	m := NewMemory(l)
	m.Create(t.Context(), "log/1", []byte("a"))
	m.Create(t.Context(), "log/1", []byte("b")) // two writers raced: lawful
	m.Create(t.Context(), name.Key(), []byte("LIFECHNK"))
	if len(l.complaints) != 0 {
		t.Errorf("lawful use: %q", l.complaints)
	}
	if _, ok := m.WithoutRemove().(chunkstore.Remover); ok {
		t.Error("the agent's identity can remove")
	}
}

func TestMemoryCrash(t *testing.T) {
	m := NewMemory(t)
	m.FailNext(OpCreate, CrashAfter)
	if err := m.Create(t.Context(), "a", []byte("x")); err == nil || !m.Crashed() {
		t.Fatalf("create: %v", err)
	}
	if _, err := m.Get(t.Context(), "a"); err == nil {
		t.Error("a dead process reads")
	}
	after := m.Clone(t)
	if b, err := after.Get(t.Context(), "a"); err != nil || string(b) != "x" {
		t.Errorf("after the crash: %q, %v", b, err)
	}
	m.Restart()
	m.SetFault(func(op Op, key string) Fault {
		if op == OpGet && key == "a" {
			return ErrBefore
		}
		return None
	})
	if _, err := m.Get(t.Context(), "a"); err == nil {
		t.Error("no fault")
	}
	if _, err := m.Stat(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}
