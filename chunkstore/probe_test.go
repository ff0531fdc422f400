package chunkstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
)

func TestProbeOfAGoodStore(t *testing.T) {
	m := storetest.NewMemory(t)
	checks, err := chunkstore.Probe(t.Context(), m)
	if err != nil || chunkstore.Unsafe(checks) != nil {
		t.Fatalf("probe: %v, %v", checks, err)
	}
	if len(checks) != 4 {
		t.Errorf("%d checks, want 4: %v", len(checks), checks)
	}
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("the probe left %v behind, and may remove", keys)
	}
	if _, err := chunkstore.Probe(t.Context(), m.WithoutRemove()); err != nil {
		t.Errorf("probe under an identity that may not remove: %v", err)
	}
	for _, k := range m.Keys() {
		if !strings.HasPrefix(k, chunkstore.ProbePrefix) {
			t.Errorf("the probe made %s", k)
		}
	}
}

// careless is a store that breaks one law.
type careless struct {
	chunkstore.Backend
	create func(ctx context.Context, key string, data []byte) error
	get    func(ctx context.Context, key string) ([]byte, error)
	list   func(ctx context.Context, prefix string, f func(chunkstore.Info) error) error
}

func (c careless) Create(ctx context.Context, key string, data []byte) error {
	if c.create != nil {
		return c.create(ctx, key, data)
	}
	return c.Backend.Create(ctx, key, data)
}

func (c careless) Get(ctx context.Context, key string) ([]byte, error) {
	if c.get != nil {
		return c.get(ctx, key)
	}
	return c.Backend.Get(ctx, key)
}

func (c careless) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	if c.list != nil {
		return c.list(ctx, prefix, f)
	}
	return c.Backend.List(ctx, prefix, f)
}

func TestProbeOfCarelessStores(t *testing.T) {
	for name, make := range map[string]func(m *storetest.Memory) careless{
		"create if absent": func(m *storetest.Memory) careless { // the header is ignored
			return careless{create: func(_ context.Context, key string, data []byte) error {
				m.Replace(key, data)
				return nil
			}}
		},
		"no overwriting": func(m *storetest.Memory) careless { // refused, and overwritten all the same
			return careless{create: func(ctx context.Context, key string, data []byte) error {
				err := m.Create(ctx, key, data)
				if errors.Is(err, chunkstore.ErrExists) && len(data) < 100 {
					m.Replace(key, data)
				}
				return err
			}}
		},
		"read after write": func(m *storetest.Memory) careless {
			return careless{get: func(ctx context.Context, key string) ([]byte, error) {
				if strings.Contains(key, "read-2") {
					return nil, chunkstore.ErrNotFound
				}
				return m.Get(ctx, key)
			}}
		},
		"list after write, in order": func(m *storetest.Memory) careless {
			return careless{list: func(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
				return m.List(ctx, prefix, func(i chunkstore.Info) error {
					if strings.HasSuffix(i.Key, "race-1") {
						return nil
					}
					return f(i)
				})
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := storetest.NewMemory(t)
			b := make(m)
			b.Backend = m
			checks, err := chunkstore.Probe(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			err = chunkstore.Unsafe(checks)
			if !errors.Is(err, chunkstore.ErrUnsafe) || !strings.Contains(err.Error(), name) {
				t.Errorf("probe: %v, want %v of %q", err, chunkstore.ErrUnsafe, name)
			}
		})
	}
}

func TestProbeOfAStoreThatDoesNotAnswer(t *testing.T) {
	m := storetest.NewMemory(t)
	m.FailNext(storetest.OpGet, storetest.ErrBefore)
	if checks, err := chunkstore.Probe(t.Context(), m); !errors.Is(err, storetest.ErrInjected) || errors.Is(err, chunkstore.ErrUnsafe) {
		t.Errorf("probe: %v, %v; want the store's own error", checks, err)
	}
}
