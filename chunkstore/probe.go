package chunkstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrUnsafe: a backend does not keep what it promises; two agents, or one that was
// interrupted, could overwrite each other's entries there.
var ErrUnsafe = errors.New("the store does not keep what the log is built on")

// ProbePrefix begins the keys of what [Probe] leaves behind; nothing reads them.
const ProbePrefix = "probe/"

// Check is one thing that [Probe] tried.
type Check struct {
	// Name of what must hold.
	Name string `json:"name"`
	// Failure says what happened instead; "" when it holds.
	Failure string `json:"failure,omitempty"`
}

const (
	probeRacers = 8
	probeRounds = 4
	probeBytes  = 3000
)

// Probe tries the musts of a [Backend] which a server can claim and not keep: that of
// many creators of one key, racing on connections of their own, exactly one wins; that
// nothing is overwritten; that what was stored is read, described and listed at once;
// and, where downloads go on after a break, that a range is the one asked for.
//
// It creates a handful of small objects under keys that were never used, and removes
// them when b is a [Remover] that may. The error is that of a backend which could not be
// asked, and then the checks say nothing; otherwise see [Unsafe].
func Probe(ctx context.Context, b Backend) ([]Check, error) {
	p := &probe{b: b, at: ProbePrefix + strings.ToLower(rand.Text()) + "/"}
	defer p.tidy(ctx)
	for _, step := range []func(context.Context) error{p.race, p.overwrite, p.read, p.ranges, p.list} {
		err := step(ctx)
		if errors.Is(err, ErrUnsafe) { // it says so itself
			p.is("create if absent", false, "%v", err)
			return p.checks, nil
		}
		if err != nil {
			return nil, fmt.Errorf("probe store: %w", err)
		}
	}
	return p.checks, nil
}

// Unsafe is [ErrUnsafe] with what failed, or nil when all checks hold.
func Unsafe(checks []Check) error {
	var failed []string
	for _, c := range checks {
		if c.Failure != "" {
			failed = append(failed, c.Name+": "+c.Failure)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnsafe, strings.Join(failed, "; "))
}

// probe is one run.
type probe struct {
	b      Backend
	at     string // the beginning of its keys
	checks []Check
	keys   []string // created
	first  []byte   // what the first key must hold
	last   []byte   // what the last key must hold
}

// is reports a check; the failure counts when it is not to hold.
func (p *probe) is(name string, holds bool, failure string, args ...any) {
	c := Check{Name: name}
	if !holds {
		c.Failure = fmt.Sprintf(failure, args...)
	}
	p.checks = append(p.checks, c)
}

// race lets creators loose on one key at once, several times: a server that looks first
// and then writes is caught only when two do both at the same moment.
func (p *probe) race(ctx context.Context) error {
	most, none := 0, 0
	for round := range probeRounds {
		key := fmt.Sprintf("%srace-%d", p.at, round)
		p.keys = append(p.keys, key)
		winners, err := p.once(ctx, key)
		if err != nil {
			return err
		}
		most = max(most, len(winners))
		if len(winners) == 0 {
			none++
			continue
		}
		got, err := p.b.Get(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if round == 0 {
			p.first = winners[0]
		}
		if !bytes.Equal(got, winners[0]) {
			most = max(most, 2) // somebody else's bytes are there
		}
	}
	p.is("create if absent", most <= 1 && none == 0,
		"of %d that created one object at once, up to %d were told that they had won, and in %d of %d races nobody was", probeRacers, most, none, probeRounds)
	return nil
}

// once is one race; it gives the bytes of those who won.
func (p *probe) once(ctx context.Context, key string) ([][]byte, error) {
	errs := make([]error, probeRacers)
	data := make([][]byte, probeRacers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range probeRacers {
		data[i] = bytes.Repeat([]byte{byte('a' + i)}, probeBytes)
		wg.Go(func() {
			<-start
			errs[i] = p.b.Create(ctx, key, data[i])
		})
	}
	close(start)
	wg.Wait()
	var winners [][]byte
	for i, err := range errs {
		switch {
		case err == nil:
			winners = append(winners, data[i])
		case !errors.Is(err, ErrExists):
			return nil, err
		}
	}
	return winners, nil
}

// overwrite creates the first race's key once more.
func (p *probe) overwrite(ctx context.Context) error {
	err := p.b.Create(ctx, p.keys[0], []byte("never to be seen"))
	if err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	refused := errors.Is(err, ErrExists)
	got, err := p.b.Get(ctx, p.keys[0])
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	p.is("no overwriting", refused && bytes.Equal(got, p.first), "a second create was not refused, or changed what was there")
	return nil
}

// read looks for what was created a moment ago, each time anew.
func (p *probe) read(ctx context.Context) error {
	missing := 0
	for i := range 4 {
		key, data := fmt.Sprintf("%sread-%d", p.at, i), bytes.Repeat([]byte{byte('A' + i)}, probeBytes+i)
		p.keys, p.last = append(p.keys, key), data
		// Asked before: a server may remember that there was nothing.
		if _, err := p.b.Get(ctx, key); !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("get what was never there: %w", cmpErr(err))
		}
		if err := p.b.Create(ctx, key, data); err != nil {
			return err
		}
		got, err := p.b.Get(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		info, err := p.b.Stat(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if !bytes.Equal(got, data) || info.Size != int64(len(data)) {
			missing++
		}
	}
	p.is("read after write", missing == 0, "%d of 4 objects were not there, or not whole, right after they were stored", missing)
	return nil
}

// ranger is a backend that goes on with a download which was cut off.
type ranger interface {
	// GetFrom returns the object without its first bytes.
	GetFrom(ctx context.Context, key string, from int64) ([]byte, error)
}

// ranges reads the second half of an object, of backends that do such things.
func (p *probe) ranges(ctx context.Context) error {
	b, ok := p.b.(ranger)
	if !ok {
		return nil
	}
	const from = probeBytes / 2
	got, err := b.GetFrom(ctx, p.keys[len(p.keys)-1], from)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	p.is("range", bytes.Equal(got, p.last[from:]), "%d bytes came of the last %d of an object, or others", len(got), len(p.last)-from)
	return nil
}

// cmpErr turns "no error" into one.
func cmpErr(err error) error {
	if err == nil {
		return ErrExists
	}
	return err
}

// list wants every key, in order.
func (p *probe) list(ctx context.Context) error {
	var got []string
	if err := p.b.List(ctx, p.at, func(i Info) error { got = append(got, i.Key); return nil }); err != nil {
		return err
	}
	want := slices.Sorted(slices.Values(p.keys))
	p.is("list after write, in order", slices.Equal(got, want), "%d keys were listed of the %d just stored, or not in their order", len(got), len(want))
	return nil
}

// tidy removes what was created, where that is allowed.
func (p *probe) tidy(ctx context.Context) {
	r, ok := p.b.(Remover)
	if !ok {
		return
	}
	for _, key := range p.keys {
		if r.Remove(ctx, key) != nil {
			return // an identity without the right, or a store that is gone: they are small
		}
	}
}
