package s3

import (
	"errors"
	"io"
	"sync"
	"time"
)

// pace lets so many bytes a second go, over all requests together, in the order in
// which they ask.
type pace struct {
	rate int64 // bytes a second; 0: as fast as it goes
	now  func() time.Time

	mu   sync.Mutex
	free time.Time // when the next byte may go
}

// piece is how much may be asked for at once: a quarter of a second, so that several
// uploads share the line, and 32 KiB at most.
func (p *pace) piece(n int) int {
	if p.rate == 0 {
		return n
	}
	return int(min(int64(n), 32<<10, max(p.rate/4, 512)))
}

// after says how long to wait before n bytes may go, and takes them.
func (p *pace) after(n int) time.Duration {
	if p.rate == 0 || n == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.free.Before(now) {
		p.free = now
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return wait
}

// body is what one PUT sends. The HTTP library may go on reading it in the background
// after the request has returned, so it is taken away then: from there on the bytes are
// the caller's again.
type body struct {
	pace *pace
	done <-chan struct{} // closed when the request is over

	mu   sync.Mutex
	data []byte // what is still to be sent
	gone bool
}

// Read implements [io.Reader], no faster than the pace.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.take(p)
	wait := b.pace.after(n)
	if wait <= 0 {
		return n, err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return n, err
	case <-b.done:
		return 0, errGone
	}
}

func (b *body) take(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.gone:
		return 0, errGone
	case len(b.data) == 0:
		return 0, io.EOF
	}
	n := copy(p[:b.pace.piece(len(p))], b.data)
	b.data = b.data[n:]
	return n, nil
}

// leave gives the bytes back; a Read that runs is over when it returns.
func (b *body) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data, b.gone = nil, true
}

var errGone = errors.New("the request is over")
