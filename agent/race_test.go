package agent

import (
	"log/slog"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

func bareCapture() *capture {
	return newCapture(nil, chunkstore.Secret{}, 0, 1<<20, slog.New(slog.DiscardHandler), time.Now)
}

// TestCloseAfterTake: the flusher takes the batch that the stream waits to hand
// over; an empty one must not follow it.
func TestCloseAfterTake(t *testing.T) {
	c := bareCapture()
	c.ready = []*batch{{txs: make([]record.Transaction, 1), end: 1}}
	c.cur.txs, c.cur.end = make([]record.Transaction, 1), 2
	done := make(chan error)
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		done <- c.close()
	}()
	testpg.WaitFor(t, time.Minute, "close to wait", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.cur.states != nil
	})
	var took []record.LSN
	c.mu.Lock() // both are taken before close comes to itself
	for _, b := range append(c.ready, c.cur) {
		took = append(took, b.end)
	}
	c.ready, c.cur = nil, newBatch()
	c.room.Broadcast()
	c.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if b, _ := c.take(0, true); b != nil || len(took) != 2 {
		t.Errorf("after %v came a batch that ends at %s", took, b.end)
	}
}

// TestHoldKeepsRecent: a look at the catalog must not forget a commit that a
// snapshot which is taken, but not tracked yet, does not see.
func TestHoldKeepsRecent(t *testing.T) {
	c := bareCapture()
	c.tables[1] = &table{oid: 1, rel: &record.Relation{OID: 1}, known: true}
	c.recent = []recentCommit{{xid: 100, commit: 1000, end: 1010, deltas: []delta{{oid: 1, sum: record.Digest{Count: 1}}}}}
	c.tables[1].digest.Count = 1
	c.received = 1010
	release := c.hold()
	c.prune(200)
	snap := record.Snapshot{XMin: 100, XMax: 101, XIP: []record.XID{100}}
	k := c.track(1, snap)
	if k.predicted.Count != 0 || k.from() != 1000 {
		t.Errorf("predicted %d rows and records from %s, want 0 and %s", k.predicted.Count, k.from(), record.LSN(1000))
	}
	release()
	release()
	c.prune(200)
	if len(c.recent) != 0 {
		t.Error("a released copy still keeps commits")
	}
}
