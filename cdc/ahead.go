package cdc

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A copy reads ahead of its sink, so that a store that stands still for a while does
// not cost the session: the server ends one whose reader takes nothing for 5 s
// (tcp_user_timeout).
const (
	// aheadBlock is what is handed on at once, or one row that is larger; aheadUsual is
	// from how many bytes on the session waits for the sink.
	aheadBlock = 256 << 10
	aheadUsual = 1 << 20
	// While the sink stands still one more block is read every aheadPatience, of larger
	// rows up to every aheadSlowest, which keeps the server content, until aheadMost
	// bytes wait: 36 s, 25 s with the largest rows.
	aheadPatience = time.Second
	aheadSlowest  = 2500 * time.Millisecond
	aheadMost     = 10 << 20
	// aheadDirect is the size of a row from which it is not copied but waited for, so
	// that large values do not take their memory twice.
	aheadDirect = 1 << 20
	// aheadSocket is what the kernel is asked to keep of what was not read yet. Left to
	// itself it grows to tcp_rmem's largest (32 MiB on many machines), and a full buffer
	// tells the server of room only when a 16th of it is free (__tcp_select_window,
	// net/ipv4/tcp_output.c): with blocks of aheadBlock that is later than it waits.
	aheadSocket = 512 << 10
)

// fixedBuffer gives connections whose receive buffer does not grow beyond aheadSocket.
func fixedBuffer(d pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d(ctx, network, addr)
		if t, ok := c.(*net.TCPConn); ok && err == nil {
			if err := t.SetReadBuffer(aheadSocket); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
		return c, err
	}
}

// ahead is between the session that reads a COPY and the goroutine that feeds the sink.
type ahead struct {
	lines *lines
	full  chan block
	held  atomic.Int64 // bytes of the blocks that are not used up, but for direct ones
	free  chan []byte
	taken chan struct{} // one slot: a block was used up
	ended chan struct{} // closed when the sink's goroutine is done; err is final then
	gone  atomic.Bool   // what is left is not wanted
	err   error
	cur   []byte
}

// block is a run of COPY data.
type block struct {
	data []byte
	used chan struct{} // of a direct one: closed when data may change
}

func readAhead(l *lines) *ahead {
	a := &ahead{
		lines: l, full: make(chan block, aheadMost/aheadBlock), free: make(chan []byte, aheadUsual/aheadBlock),
		taken: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	go a.feed()
	return a
}

// feed gives blocks to the sink.
func (a *ahead) feed() {
	defer close(a.ended)
	for b := range a.full {
		if !a.gone.Load() {
			if _, a.err = a.lines.Write(b.data); a.err != nil {
				return
			}
		}
		if b.used != nil {
			close(b.used)
			continue
		}
		a.held.Add(-int64(len(b.data)))
		select {
		case a.free <- b.data[:0]:
		default:
		}
		select {
		case a.taken <- struct{}{}:
		default:
		}
	}
}

// Write takes one CopyData message.
func (a *ahead) Write(p []byte) (int, error) {
	if len(a.cur) > 0 && len(a.cur)+len(p) > aheadBlock {
		if err := a.pass(); err != nil {
			return 0, err
		}
	}
	if len(p) < aheadDirect {
		if a.cur == nil {
			a.cur = a.buffer()
		}
		a.cur = append(a.cur, p...)
		return len(p), nil
	}
	b := block{data: p, used: make(chan struct{})}
	if err := a.send(b); err != nil {
		return 0, err
	}
	select {
	case <-b.used:
		return len(p), nil
	case <-a.ended:
		return 0, a.err
	}
}

func (a *ahead) buffer() []byte {
	select {
	case b := <-a.free:
		return b
	default:
		return make([]byte, 0, aheadBlock)
	}
}

// pass hands the current block on: at once while little waits, else when enough was
// used up, or the server must not wait any longer and there is room.
func (a *ahead) pass() error {
	if a.held.Load() >= aheadUsual {
		t := time.NewTimer(min(aheadPatience*time.Duration(max(len(a.cur), aheadBlock))/aheadBlock, aheadSlowest))
		defer t.Stop()
		limit := int64(aheadUsual)
		for a.held.Load() >= limit {
			select {
			case <-a.taken:
			case <-t.C:
				limit = aheadMost - int64(len(a.cur))
			case <-a.ended:
				return a.err
			case <-a.lines.done:
				return context.Canceled
			}
		}
	}
	b := block{data: a.cur}
	a.cur = nil
	a.held.Add(int64(len(b.data)))
	return a.send(b)
}

func (a *ahead) send(b block) error {
	select {
	case a.full <- b:
		return nil
	case <-a.ended:
		return a.err
	case <-a.lines.done:
		return context.Canceled
	}
}

// finish waits until the sink has had everything; after an error of the session, until
// it is left alone. It gives what went wrong first.
func (a *ahead) finish(failed error) error {
	if failed == nil && len(a.cur) > 0 {
		failed = a.pass()
	}
	if failed != nil {
		a.gone.Store(true)
	}
	close(a.full)
	<-a.ended
	if failed != nil {
		return failed
	}
	return a.err
}
