package agent

import (
	"context"
	"errors"
	"sync"

	"lifeboat.im/lifeboat/chunkstore"
)

// errPlanned is what a gate gives when it is told to fail.
var errPlanned = errors.New("planned failure of the store")

// gate is a backend that a test can close (creates wait) or make fail.
type gate struct {
	chunkstore.Backend
	mu    sync.Mutex
	open  chan struct{}                         // closed when creates may go on
	fail  func(key string) (before, after bool) // called under mu
	waits int
}

func newGate(b chunkstore.Backend) *gate {
	g := &gate{Backend: b, open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

func (g *gate) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
}

func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waits
}

// planned asks the plan; creates come from several goroutines.
func (g *gate) planned(key string) (before, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail == nil {
		return false, false
	}
	return g.fail(key)
}

// Create waits while the gate is shut, then fails as planned or passes on.
func (g *gate) Create(ctx context.Context, key string, data []byte) error {
	g.mu.Lock()
	open := g.open
	g.waits++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.waits--
		g.mu.Unlock()
	}()
	select {
	case <-open:
	case <-ctx.Done():
		return ctx.Err()
	}
	before, after := g.planned(key)
	if before {
		return errPlanned
	}
	err := g.Backend.Create(ctx, key, data)
	if err == nil && after {
		return errPlanned
	}
	return err
}
