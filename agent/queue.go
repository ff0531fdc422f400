package agent

import (
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// close hands the current batch to the flusher and waits while one waits already
// (G3: behind, we slow down; the log says so).
func (c *capture) close() error {
	b := c.cur
	b.states = c.states()
	if len(c.ready) > 0 {
		began := c.now()
		for len(c.ready) > 0 && c.stopped == nil {
			c.room.Wait()
		}
		if d := c.now().Sub(began); d > 5*time.Second {
			c.log.Warn("the store is slower than the source; reading waited", "waited", d.Round(time.Millisecond))
		}
	}
	if c.stopped != nil {
		return c.stopped
	}
	if c.cur != b {
		return nil // the flusher took it meanwhile
	}
	c.ready = append(c.ready, b)
	c.cur = newBatch()
	signal(c.wake)
	return nil
}

// stop makes every wait end with err.
func (c *capture) stop(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped == nil {
		c.stopped = err
	}
	c.room.Broadcast()
}

// take gives the next batch that is due: a closed one, or the current one when it
// has waited for rpo or all is asked for. It gives nil when nothing is due, with
// how long until something is (0: until the next signal).
func (c *capture) take(rpo time.Duration, all bool) (*batch, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ready) > 0 {
		b := c.ready[0]
		c.ready = c.ready[1:]
		c.room.Broadcast()
		return b, 0
	}
	if c.cur.empty() {
		return nil, 0
	}
	age := c.now().Sub(c.cur.first)
	if !all && age < rpo {
		return nil, rpo - age
	}
	b := c.cur
	b.states = c.states()
	c.cur = newBatch()
	return b, 0
}

// pending reports whether anything received is not yet handed to the flusher, and
// the position received.
func (c *capture) pending() (bool, record.LSN) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ready) > 0 || !c.cur.empty(), c.received
}

// takeNotes gives the notes that must be durable before the next segment.
func (c *capture) takeNotes() []history.Note {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.notes
	c.notes = nil
	return n
}

// giveBack puts notes that could not be written before those that came since.
func (c *capture) giveBack(n []history.Note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(n, c.notes...)
}
