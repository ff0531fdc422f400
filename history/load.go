package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Load reads part 1 of what a reader needs: the newest checkpoint and every entry
// after it. ErrNoLineage when there is no entry at all; chunkstore.ErrDamaged
// names an entry that must be there and is not, or is not what was written.
//
// The last epoch is read first and whole, up to the first number that is absent:
// only ended epochs lose entries, so the tail is never in doubt (protocol §3). Its
// newest checkpoint is the lineage's; if it has none, its entry 0 names the newest.
// A number that is absent while a later one is there is damage too: what follows it
// would be taken for void.
//
// Another process may remove merged entries between two reads. What is missing counts
// as damage only when the log did not grow meanwhile, for without a newer checkpoint
// nothing is removed; else Load begins again, a few times.
func (l *Log) Load(ctx context.Context) (*View, error) {
	for try := 1; ; try++ {
		v, ends, err := l.load(ctx)
		if err == nil {
			return v, nil
		}
		if try == loadTries || !errors.Is(err, chunkstore.ErrDamaged) || !l.grew(ctx, ends) {
			return nil, err
		}
	}
}

// loadTries bounds how often Load begins.
const loadTries = 3

// grew reports that one of the entries with which the log would have gone on is there.
func (l *Log) grew(ctx context.Context, ends []Position) bool {
	return slices.ContainsFunc(ends, func(at Position) bool {
		there, err := l.exists(ctx, at)
		return err == nil && there
	})
}

// load is one try; ends are the entries that were not there when it read the end.
func (l *Log) load(ctx context.Context) (v *View, ends []Position, err error) {
	last, ok, err := l.lastEpoch(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		if err := l.noneBehind(ctx, Position{}); err != nil {
			return nil, nil, err
		}
		return nil, nil, fmt.Errorf("load %s: %w", l.id, ErrNoLineage)
	}
	ends = []Position{{Epoch: last + 1}}
	tail, err := l.readEpoch(ctx, Position{Epoch: last}, false)
	if err != nil {
		return nil, ends, err
	}
	ends = append(ends, tail[len(tail)-1].at.next())
	if err := l.noHole(ctx, tail[len(tail)-1]); err != nil {
		return nil, ends, err
	}
	v = &View{ID: l.id, log: l}
	from := -1
	for i, e := range tail {
		if e.sum.Checkpoint != nil {
			from = i
		}
	}
	if from >= 0 {
		if err := v.start(tail[from]); err != nil {
			return nil, ends, err
		}
		return v, ends, v.foldAll(tail[from+1:])
	}
	if err := l.loadBefore(ctx, v, tail[0]); err != nil {
		return nil, ends, err
	}
	return v, ends, v.foldAll(tail)
}

// Advance gives the picture that follows v, which stays as it is: only what came
// since is read, so that whoever waits for something need not read the whole tail at
// each look. A lost entry looks like the end; Load tells the two apart.
func (l *Log) Advance(ctx context.Context, v *View) (*View, error) {
	return l.advance(ctx, v, func(*entry) {})
}

// advance is Advance that shows each entry.
func (l *Log) advance(ctx context.Context, v *View, each func(*entry)) (*View, error) {
	v = v.clone()
	v.log = l
	for {
		at := v.Head.next()
		if v.Ended {
			at = Position{Epoch: v.Head.Epoch + 1}
		}
		e, err := l.get(ctx, at)
		if errors.Is(err, chunkstore.ErrNotFound) {
			return v, nil
		}
		if err != nil {
			return nil, err
		}
		if err := v.fold(e); err != nil {
			return nil, err
		}
		each(e)
	}
}

// noHole looks whether anything lies behind the entry that seems to be the last one.
// Entries are created in order, each when the one before is durable, so what a
// listing shows behind a number that is absent says that one was lost. A listing
// that shows too little finds less.
func (l *Log) noHole(ctx context.Context, last *entry) error {
	next := Position{Epoch: last.at.Epoch + 1}
	if last.kind != KindEnd {
		if err := l.noneBehind(ctx, last.at.next()); err != nil {
			return err
		}
	}
	if err := l.noneBehind(ctx, next); err != nil {
		return err
	}
	for k := uint64(1); k < epochsAhead; k++ {
		behind := Position{Epoch: next.Epoch + k}
		there, err := l.exists(ctx, behind)
		if err != nil {
			return err
		}
		if there {
			return l.notLost(ctx, next, behind)
		}
	}
	return nil
}

// noneBehind lists at's epoch for entries behind at, which was absent.
func (l *Log) noneBehind(ctx context.Context, at Position) error {
	behind, key := Position{}, l.id.key(at)
	err := l.b.List(ctx, key[:strings.LastIndexByte(key, '/')+1], func(i chunkstore.Info) error {
		if _, p, ok := parseEntryKey(i.Key); ok && at.Before(p) {
			behind = p
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list epoch %d of %s: %w", at.Epoch, l.id, err)
	}
	if behind == (Position{}) {
		return nil
	}
	return l.notLost(ctx, at, behind)
}

// epochsAhead is how far behind the last epoch the first entries of others are looked
// for: bisection stops before one that is lost.
const epochsAhead = 3

// notLost makes damage of an entry that is absent before one that is there; it may
// have come meanwhile.
func (l *Log) notLost(ctx context.Context, at, behind Position) error {
	there, err := l.exists(ctx, at)
	if err != nil || there {
		return err
	}
	return damaged(l.id.key(at), "the entry is missing, and a later one, %s, is there", behind)
}

// loadBefore brings v to the end of the epoch before the one that first opens.
func (l *Log) loadBefore(ctx context.Context, v *View, first *entry) error {
	if first.sum.Epoch == nil {
		return damaged(l.id.key(first.at), "it does not open an epoch")
	}
	from := Position{}
	if ref := first.sum.Epoch.Checkpoint; ref != (checkpointRef{}) {
		c, err := l.get(ctx, ref.At)
		if err != nil {
			return l.needed(ref.At, err)
		}
		if c.hash != ref.Hash || c.sum.Checkpoint == nil {
			return damaged(l.id.key(ref.At), "it is not the checkpoint that %s names", l.id.key(first.at))
		}
		if err := v.start(c); err != nil {
			return err
		}
		from = ref.At.next()
	}
	for from.Epoch < first.at.Epoch {
		run, err := l.readEpoch(ctx, from, true)
		if err != nil {
			return err
		}
		if err := v.foldAll(run); err != nil {
			return err
		}
		from = Position{Epoch: from.Epoch + 1}
	}
	return nil
}

// start takes a checkpoint for all that was before it. Of the condemned names it says
// only where they stand: a reader needs none, and Begin reads them.
func (v *View) start(c *entry) error {
	s, err := copyState(c.sum.Checkpoint)
	if err != nil {
		return err
	}
	v.State = *s
	v.Head, v.head = c.at, c.hash
	v.Checkpoint = checkpointRef{At: c.at, Hash: c.hash}
	return nil
}

// copyState gives a state that shares nothing with s.
func copyState(s *State) (*State, error) {
	b, err := record.Marshal(s)
	if err != nil {
		return nil, err
	}
	c := new(State)
	return c, record.Unmarshal(b, c)
}

func (v *View) foldAll(run []*entry) error {
	for _, e := range run {
		if err := v.fold(e); err != nil {
			return err
		}
	}
	return nil
}

// readEpoch reads an epoch's entries from a number on, up to its `end` or the
// first number that is absent. In an ended epoch no number may be absent. Of each
// only part 1 is kept, without the names it reaches.
func (l *Log) readEpoch(ctx context.Context, from Position, ended bool) ([]*entry, error) {
	var out []*entry
	for width := 1; ; width = min(2*width, l.ahead) {
		batch := l.getMany(ctx, from, width)
		for _, g := range batch {
			if !ended && len(out) > 0 && errors.Is(g.err, chunkstore.ErrNotFound) {
				return out, nil
			}
			if g.err != nil {
				return nil, l.needed(from, g.err)
			}
			out = append(out, g.entry)
			if g.entry.kind == KindEnd {
				return out, nil
			}
			from = from.next()
		}
	}
}

type got struct {
	entry *entry
	err   error
}

// getMany reads n entries at once. Memory: n whole entries.
func (l *Log) getMany(ctx context.Context, from Position, n int) []got {
	out := make([]got, n)
	var wg sync.WaitGroup
	for i := range out {
		at := Position{Epoch: from.Epoch, Seq: from.Seq + uint64(i)}
		read := func() {
			e, err := l.get(ctx, at)
			if e != nil {
				e.raw, e.sum.Reach, e.sum.ReachIndex = nil, nil, nil
			}
			out[i] = got{e, err}
		}
		if n == 1 {
			read()
			continue
		}
		wg.Go(read)
	}
	wg.Wait()
	return out
}
