package history

import (
	"context"
	"errors"

	"lifeboat.im/lifeboat/chunkstore"
)

// proc is a process of the model, whose calls go wrong.
type proc struct {
	w     *world
	name  string
	dead  bool // until it is started again
	steps int
	at    int // the step at which kind happens; 0: never
	kind  int
	// resume wakes it from standing still in the midst of a call.
	resume chan struct{}
	parked bool
}

// The ways in which one step goes wrong.
const (
	failBefore = iota
	failAfter
	loseReply
	crashBefore
	crashAfter
	outage
	freeze
	freezeMore
	kinds
)

// event is what a process that was let go on came to.
type event struct {
	p    *proc
	done bool
	err  error
}

// play lets a process do something until it is done or stands still.
func (w *world) play(p *proc, f func() error) error {
	go func() { w.events <- event{p, true, f()} }()
	return w.next()
}

func (w *world) next() error {
	e := <-w.events
	if e.done {
		return e.err
	}
	e.p.parked = true
	w.frozen = append(w.frozen, e.p)
	w.say("%s stands still", e.p.name)
	return nil
}

// thaw lets one that stands still go on.
func (w *world) thaw(i int) error {
	p := w.frozen[i]
	w.frozen = append(w.frozen[:i:i], w.frozen[i+1:]...)
	p.parked = false
	w.say("%s goes on", p.name)
	p.resume <- struct{}{}
	return w.next()
}

// park stands still until the world says so.
func (p *proc) park() {
	if p.w.still {
		return
	}
	p.resume = make(chan struct{})
	p.w.events <- event{p: p}
	<-p.resume
}

// step does one call of the store or the key directory.
func (p *proc) step(f func() error, create bool) error {
	if p.dead {
		return errDead
	}
	p.steps++
	if p.at == 0 || p.steps < p.at || p.steps > p.at && p.kind != outage {
		return f()
	}
	switch p.kind {
	case failBefore:
		return errFault
	case failAfter:
		_ = f()
		return errFault
	case loseReply:
		err := f()
		if err == nil && create {
			return chunkstore.ErrExists
		}
		return err
	case crashBefore:
		p.dead = true
		return errDead
	case crashAfter:
		_ = f()
		p.dead = true
		return errDead
	case outage:
		if p.steps == p.at && p.w.rng.IntN(2) == 0 {
			_ = f()
		}
		return errFault
	}
	p.park()
	if p.kind == freezeMore { // once more, some steps on
		p.at += 1 + p.w.rng.IntN(20)
	}
	return f()
}

// arm decides whether and how something goes wrong in the next operation, within about
// its first steps.
func (p *proc) arm(within int) {
	p.steps, p.at = 0, 0
	if p.w.rng.IntN(3) == 0 && !p.w.still {
		p.at, p.kind = 1+p.w.rng.IntN(within), p.w.rng.IntN(kinds)
	}
}

func (p *proc) Create(ctx context.Context, key string, data []byte) error {
	return p.step(func() error { return p.w.mem.Create(ctx, key, data) }, true)
}

func (p *proc) Get(ctx context.Context, key string) (b []byte, err error) {
	err = p.step(func() (err error) { b, err = p.w.mem.Get(ctx, key); return err }, false)
	return b, err
}

func (p *proc) Stat(ctx context.Context, key string) (i chunkstore.Info, err error) {
	err = p.step(func() (err error) { i, err = p.w.mem.Stat(ctx, key); return err }, false)
	return i, err
}

func (p *proc) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	return p.step(func() error { return p.w.mem.List(ctx, prefix, f) }, false)
}

// failed reports that an error is one of the model's.
func failed(err error) bool { return errors.Is(err, errFault) || errors.Is(err, errDead) }
