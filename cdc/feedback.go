package cdc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"lifeboat.im/lifeboat/record"
)

// feedback is the goroutine that tells the server what is durable. It owns what is
// written to the connection until it has been stopped.
type feedback struct {
	kick chan struct{} // one pending report is enough
	done chan struct{} // closed by stop
	gone chan struct{} // closed by the goroutine
	once sync.Once

	mu     sync.Mutex
	err    error  // the first reason why reading must end
	cutOff func() // ends the read that is under way
}

// Reports are sent at least so often, and four times within wal_sender_timeout.
const reportEvery = 10 * time.Second

// reportInterval is how often to report under a wal_sender_timeout, 0 = none.
func reportInterval(timeout time.Duration) time.Duration {
	if timeout <= 0 {
		return reportEvery
	}
	return max(min(reportEvery, timeout/4), time.Millisecond)
}

// Confirm says that everything up to l is durable in the store. It is the only
// thing that moves the slot (C1): keepalives never do. Smaller positions than
// before change nothing. A position that this server neither sent nor had flushed
// when the stream began would lose what lies between: it ends the stream with
// ErrConfirm. Safe for concurrent use; it does not wait for the network.
func (st *Stream) Confirm(l record.LSN) {
	if sent := record.LSN(st.sent.Load()); l > sent {
		st.feedback.fail(fmt.Errorf("confirm %s, received up to %s: %w", l, sent, ErrConfirm))
		return
	}
	if raise(&st.confirmed, uint64(l)) {
		st.feedback.poke()
	}
}

// Heard is the number of bytes that the server has sent on the stream so far: as
// long as it grows within half a minute the server lives, with nothing to send too
// (it is asked for an answer). Safe for concurrent use.
func (st *Stream) Heard() int64 { return st.meter.bytes.Load() }

// Confirmed is the last Confirm, or where the stream began.
func (st *Stream) Confirmed() record.LSN { return record.LSN(st.confirmed.Load()) }

// startFeedback starts the goroutine and reports once at once.
func (st *Stream) startFeedback(timeout, silence time.Duration) {
	f := &st.feedback
	f.kick, f.done, f.gone = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	f.cutOff = func() { _ = st.conn.Conn().SetReadDeadline(time.Unix(1, 0)) }
	f.poke()
	go func() {
		defer close(f.gone)
		if err := st.runFeedback(reportInterval(timeout), silence); err != nil {
			f.fail(err)
		}
	}()
}

func (st *Stream) runFeedback(every, silence time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	heard, since := int64(-1), st.now()
	for {
		ask := false
		select {
		case <-st.feedback.done:
			return nil
		case <-st.feedback.kick:
		case <-tick.C:
			// Only a reader that waits can say that the server is silent; one that is busy
			// with its handler does not look.
			if n := st.meter.bytes.Load(); n != heard || !st.meter.waiting.Load() {
				heard, since = n, st.now()
			} else {
				ask = true
			}
			if quiet := st.now().Sub(since); quiet > silence {
				return fmt.Errorf("nothing was heard for %s: %w", quiet.Round(time.Second), ErrSilent)
			}
		}
		if err := st.report(ask); err != nil {
			return err
		}
	}
}

// report sends one status update: write, flush and apply are all the last Confirm,
// which is never zero (a zero would be filled with another of the three).
func (st *Stream) report(ask bool) error {
	l := pglogrepl.LSN(st.confirmed.Load())
	_ = st.conn.Conn().SetWriteDeadline(st.now().Add(reportEvery)) // a server that does not read is dead
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), st.conn.PgConn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: l, WALFlushPosition: l, WALApplyPosition: l, ClientTime: st.now(), ReplyRequested: ask,
	})
	if err != nil {
		return fmt.Errorf("report position %s: %w", record.LSN(l), err)
	}
	return nil
}

// poke makes the goroutine report at once.
func (f *feedback) poke() {
	select {
	case f.kick <- struct{}{}:
	default: // one is pending, and it will send the newest position
	}
}

// fail ends reading; the first reason stays.
func (f *feedback) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		f.cutOff()
	}
}

func (f *feedback) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// stop ends the goroutine and waits for it.
func (f *feedback) stop() {
	f.once.Do(func() { close(f.done) })
	<-f.gone
}
