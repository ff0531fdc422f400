package proof

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"

	"lifeboat.im/lifeboat/chunkstore"
)

// errInjected is every failure of a faulty store.
var errInjected = errors.New("injected failure of the store")

// faults are how often, in 1,000 calls, a store fails.
type faults struct {
	Seed uint64
	// Before: a create fails and nothing is persisted. After: it is persisted, and
	// the reply is lost. Read: a get, stat or list fails.
	Before, After, Read int
	// Kill: SIGKILL hits the process around a create, half of the time after it was
	// persisted.
	Kill int
}

// faulty is a store that fails as faults say.
type faulty struct {
	chunkstore.Backend
	f faults

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func newFaulty(b chunkstore.Backend, f faults) *faulty {
	return &faulty{Backend: b, f: f, rng: rand.New(rand.NewPCG(f.Seed, uint64(os.Getpid())))}
}

func (b *faulty) roll() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.IntN(1000)
}

func (b *faulty) Create(ctx context.Context, key string, data []byte) error {
	n := b.roll()
	switch f := b.f; {
	case n < f.Before:
		return fmt.Errorf("create %s: nothing persisted: %w", key, errInjected)
	case n < f.Before+f.After:
		_ = b.Backend.Create(ctx, key, data)
		return fmt.Errorf("create %s: the reply is lost: %w", key, errInjected)
	case n < f.Before+f.After+f.Kill:
		if n%2 == 0 {
			_ = b.Backend.Create(ctx, key, data)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it comes at once
	}
	return b.Backend.Create(ctx, key, data)
}

func (b *faulty) Get(ctx context.Context, key string) ([]byte, error) {
	if b.roll() < b.f.Read {
		return nil, fmt.Errorf("get %s: %w", key, errInjected)
	}
	return b.Backend.Get(ctx, key)
}

func (b *faulty) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	if b.roll() < b.f.Read {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, errInjected)
	}
	return b.Backend.Stat(ctx, key)
}

func (b *faulty) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	if b.roll() < b.f.Read {
		return fmt.Errorf("list %s: %w", prefix, errInjected)
	}
	return b.Backend.List(ctx, prefix, f)
}
