package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
)

// Log is one lineage's log in an open repository. It is safe for concurrent use.
type Log struct {
	id      LineageID
	repo    *Repository
	b       chunkstore.Backend
	secrets *Secrets
	seal    sealer
	keys    EpochKeys // nil: the repository's identity serves
	store   *chunkstore.Store

	// pause waits between two tries of one create; tests make it return at once.
	pause func(ctx context.Context, d time.Duration) error

	// ahead is how many entries Load reads at once.
	ahead int

	// faults break the guards named in its fields; only tests set them, to see that
	// the model check finds each.
	faults faults

	mu     sync.Mutex
	opened map[uint64]chunkstore.Secret // epoch keys unwrapped with the identity; guarded by mu
}

func newLog(r *Repository, s *Secrets, id LineageID, keys EpochKeys) *Log {
	return &Log{
		id: id, repo: r, b: r.b, secrets: s, seal: newSealer(s.Chunk.Seal), keys: keys,
		store: chunkstore.New(r.b, s.Chunk), pause: pause, ahead: 4, opened: map[uint64]chunkstore.Secret{},
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// ID names the log.
func (l *Log) ID() LineageID { return l.id }

// Store gives the chunk store that knows this log's condemned names: what a writer
// puts chunks with.
func (l *Log) Store() *chunkstore.Store { return l.store }

// get reads one entry. chunkstore.ErrNotFound when it is absent.
func (l *Log) get(ctx context.Context, at Position) (*entry, error) {
	b, err := l.b.Get(ctx, l.id.key(at))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", l.id.key(at), err)
	}
	return l.seal.open(l.id, at, b)
}

// exists reports whether there is an entry.
func (l *Log) exists(ctx context.Context, at Position) (bool, error) {
	if at.Epoch > maxNumber || at.Seq > maxNumber {
		return false, nil
	}
	_, err := l.b.Stat(ctx, l.id.key(at))
	if errors.Is(err, chunkstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", l.id.key(at), err)
	}
	return true, nil
}

// needed turns the absence of an entry that must be there into damage.
func (l *Log) needed(at Position, err error) error {
	if errors.Is(err, chunkstore.ErrNotFound) {
		return damaged(l.id.key(at), "the entry is missing: %w", err)
	}
	return err
}

// lastEpoch finds the last epoch by doubling and bisection over <epoch>/0, which
// are never deleted; ok is false when there is no entry at all.
func (l *Log) lastEpoch(ctx context.Context) (last uint64, ok bool, err error) {
	if ok, err = l.exists(ctx, Position{}); err != nil || !ok {
		return 0, false, err
	}
	low, high := uint64(0), uint64(1) // low exists
	for {
		if ok, err = l.exists(ctx, Position{Epoch: high}); err != nil {
			return 0, false, err
		}
		if !ok {
			break
		}
		low, high = high, 2*high
	}
	for low+1 < high {
		mid := low + (high-low)/2
		if ok, err = l.exists(ctx, Position{Epoch: mid}); err != nil {
			return 0, false, err
		}
		if ok {
			low = mid
		} else {
			high = mid
		}
	}
	return low, true, nil
}
