package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// overwriting is a store that does not look before it writes.
type overwriting struct{ *storetest.Memory }

func (o overwriting) Create(_ context.Context, key string, data []byte) error {
	o.Replace(key, data)
	return nil
}

func probing(t *testing.T) Options {
	return Options{State: t.TempDir(), ProbeEvery: time.Hour, Now: time.Now, Log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
}

// What init found can change: the server is replaced, or what stands before it.
func TestProbeOfTheAgent(t *testing.T) {
	o := probing(t)
	if err := probe(t.Context(), overwriting{storetest.NewMemory(t)}, o); !errors.Is(err, chunkstore.ErrUnsafe) || !permanent(err) {
		t.Errorf("probe of a store that overwrites: %v, want %v, for good", err, chunkstore.ErrUnsafe)
	}
	if _, err := os.Stat(filepath.Join(o.State, probedFile)); err == nil {
		t.Error("an unsafe store is on record as good")
	}

	m := storetest.NewMemory(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- probe(ctx, m.WithoutRemove(), o) }()
	testpg.WaitFor(t, 2*time.Minute, "the store is on record as good", func() bool {
		_, err := os.Stat(filepath.Join(o.State, probedFile))
		return err == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("probe of a good store: %v", err)
	}
	if wait := untilProbe(o); wait < 59*time.Minute || wait > time.Hour {
		t.Errorf("the next try is in %v, want an hour", wait)
	}
	for text, want := range map[string]time.Duration{"": 0, "yesterday": 0, "2001-01-01T00:00:00Z": 0, "2999-01-01T00:00:00Z": time.Hour} {
		if err := os.WriteFile(filepath.Join(o.State, probedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if wait := untilProbe(o); wait != want {
			t.Errorf("after %q the next try is in %v, want %v", text, wait, want)
		}
	}
}

// changed is a good store that becomes another one.
type changed struct {
	chunkstore.Backend
	careless atomic.Bool
}

func (c *changed) Create(ctx context.Context, key string, data []byte) error {
	err := c.Backend.Create(ctx, key, data)
	if c.careless.Load() && errors.Is(err, chunkstore.ErrExists) {
		return nil
	}
	return err
}

// The service ends when the store is unsafe.
func TestUnsafeStoreEndsTheRun(t *testing.T) {
	var store *changed
	b := newBench(t, testpg.Shared(t, testpg.Newest), func(disk chunkstore.Backend) chunkstore.Backend {
		store = &changed{Backend: disk}
		return store
	}, "CREATE TABLE t (id int PRIMARY KEY)")
	b.attach()
	store.careless.Store(true)
	b.o.ProbeEvery = time.Hour
	if err := Run(t.Context(), b.repo, b.agentSecrets(), b.o); !errors.Is(err, chunkstore.ErrUnsafe) {
		t.Errorf("run: %v, want %v", err, chunkstore.ErrUnsafe)
	}
}

func TestDoctorKnowsTheStore(t *testing.T) {
	o := probing(t)
	for _, single := range []bool{false, true} {
		repo, _, err := history.Create(t.Context(), storetest.NewMemory(t), history.CreateOptions{Plaintext: true, SingleWriter: single})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			ago   time.Duration // 0: never
			state string
		}{{0, "warn"}, {time.Hour, "ok"}, {20 * 24 * time.Hour, "ok"}, {22 * 24 * time.Hour, "warn"}} {
			path := filepath.Join(o.State, probedFile)
			_ = os.Remove(path)
			if c.ago > 0 {
				if err := os.WriteFile(path, []byte(o.Now().Add(-c.ago).UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want := c.state
			if single {
				want = "ok"
			}
			if f := storeFinding(repo, o); f.Why == "" || f.State != want || (f.Mend == "") != (want == "ok") {
				t.Errorf("single writer %t, tried %s ago: %+v", single, c.ago, f)
			}
		}
	}
}
