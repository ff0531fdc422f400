package cdc

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// watcher frees whoever waits for a lock that a session of ours holds (protocol
// §6): by ending that session, at the server and here, because a cancel does not
// end a COPY that waits for its client. It polls while there is a hold and has a
// connection of its own.
type watcher struct {
	s *Source

	mu      sync.Mutex
	holds   map[*hold]struct{}
	conn    *session // used by the polling goroutine only, after guard opened it
	polling bool
	closed  bool
	done    chan struct{}
}

// hold is one session, or one child program by its application_name, that may hold
// a lock.
type hold struct {
	pid  uint32
	name string
	end  func() // ends it on our side; safe to call from any goroutine, more than once

	freed atomic.Bool
}

func newWatcher(s *Source) *watcher { return &watcher{s: s, holds: map[*hold]struct{}{}} }

const (
	pollEvery = 100 * time.Millisecond
)

// blind is how long the watcher may be without an answer before it ends what it
// cannot see.
func (w *watcher) blind() time.Duration { return max(time.Second, w.s.deadlock) }

// patience is how long somebody may wait for us: together with a poll's interval
// well below deadlock_timeout/2.
func (w *watcher) patience() time.Duration { return w.s.deadlock / 8 }

// guard watches h from now on. release ends that and says whether h was freed.
// Nothing may be locked before guard returned.
func (w *watcher) guard(ctx context.Context, h *hold) (release func() (freed bool), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("watch for waiters: the source is closed")
	}
	if !w.polling {
		if w.conn == nil || w.conn.IsClosed() {
			c, err := w.s.open(ctx, "watcher", sessionOptions{})
			if err != nil {
				return nil, err
			}
			w.conn = c
		}
		w.polling, w.done = true, make(chan struct{})
		go w.run(w.conn, w.done)
	}
	w.holds[h] = struct{}{}
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.holds, h)
		return h.freed.Load()
	}, nil
}

// guardSession is guard for one of our sessions.
func (w *watcher) guardSession(ctx context.Context, c *session) (release func() bool, err error) {
	return w.guard(ctx, &hold{pid: c.pid(), end: func() { _ = c.Conn().Close() }})
}

func (w *watcher) close() {
	w.mu.Lock()
	w.closed = true
	done, conn := w.done, w.conn
	for h := range w.holds {
		h.end()
	}
	clear(w.holds)
	w.mu.Unlock()
	if done != nil {
		<-done
	}
	if conn != nil {
		conn.shut()
	}
}

// current gives the holds, and ends the polling when there is none.
func (w *watcher) current() []*hold {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*hold, 0, len(w.holds))
	for h := range w.holds {
		out = append(out, h)
	}
	if len(out) == 0 {
		w.polling = false
	}
	return out
}

// run polls until there is no hold. One poll in flight; when it does not answer in
// time, everything that is held is ended on our side.
func (w *watcher) run(c *session, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		holds := w.current()
		if len(holds) == 0 {
			return
		}
		if err := w.round(c, holds); err != nil {
			w.s.log.Warn("cannot see who waits for us; ending what we hold", "error", err)
			for _, h := range holds {
				h.freed.Store(true)
				h.end()
			}
			c = w.reopen(c)
		}
		<-tick.C
	}
}

// reopen gives a new connection, or the closed one when there is none to be had:
// then the next round fails too and ends what was added meanwhile.
func (w *watcher) reopen(old *session) *session {
	old.shut()
	ctx, cancel := context.WithTimeout(context.Background(), w.blind())
	defer cancel()
	c, err := w.s.open(ctx, "watcher", sessionOptions{})
	if err != nil {
		return old
	}
	w.mu.Lock()
	w.conn = c
	w.mu.Unlock()
	return c
}

// waitersSQL gives each blocked process with each one that blocks it. Processes
// that stand before it in a lock's queue count (pg_blocking_pids), so a timed wait
// of ours is seen too.
const waitersSQL = `SELECT w.pid, b.pid, coalesce(a.application_name, ''),
	coalesce((extract(epoch FROM pg_catalog.clock_timestamp() - w.since) * 1000)::int8, 0)
FROM (SELECT pid, min(waitstart) AS since FROM pg_catalog.pg_locks WHERE NOT granted AND pid IS NOT NULL GROUP BY pid) w
CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) b(pid)
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid`

// round polls once and frees.
func (w *watcher) round(c *session, holds []*hold) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.blind())
	defer cancel()
	rows, err := c.query(ctx, waitersSQL)
	if err != nil {
		return err
	}
	ours := map[uint32]bool{}
	for _, h := range holds {
		ours[h.pid] = h.pid != 0
	}
	for _, row := range rows {
		r := scan(row)
		waiter, blocker, name, ms := r.oid(), r.oid(), r.text(), r.int64()
		if r.err != nil {
			return r.err
		}
		if ours[waiter] || time.Duration(ms)*time.Millisecond < w.patience() {
			continue
		}
		for _, h := range holds {
			if h.pid != 0 && h.pid == blocker || h.name != "" && h.name == name {
				w.free(ctx, c, h, blocker, waiter)
			}
		}
	}
	return nil
}

// free ends h. The server's process first: its locks go with it, whether our side
// reads its socket or not.
func (w *watcher) free(ctx context.Context, c *session, h *hold, pid, waiter uint32) {
	if !h.freed.Swap(true) {
		w.s.log.Info("another session waits for us; ending ours", "waiter", waiter, "ours", pid)
	}
	_, err := c.query(ctx, "SELECT pg_catalog.pg_terminate_backend($1::int)", fmt.Sprint(pid))
	h.end()
	if err != nil {
		w.s.log.Warn("end our own session", "pid", pid, "error", err)
	}
}
