package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// table is what the agent knows of one captured table. capture.mu guards it.
type table struct {
	oid uint32
	// rel is how rows are stored now; immutable, replaced when the catalog changes.
	rel *record.Relation
	// generated names the columns that the stream may bring and we do not store.
	generated []string
	// fingerprint is the catalog's, as last seen.
	fingerprint [32]byte
	// member is its stay in the publication, as last seen; "": not in it, or not known.
	member string

	// digest is the running digest after the newest received commit, when known.
	digest record.Digest
	known  bool
	// recordBytes is the size of the records since the base; baseBytes of the base.
	recordBytes uint64
	baseBytes   int64
	// live is how many rows there are after the newest received commit; with a minimal
	// identity after a restart about as many.
	live      int64
	watch     watch
	exactFrom record.LSN
	copied    time.Time
	pause     time.Duration // after copied, see again

	// open: an incomplete interval, from openFrom on, waits for a copy.
	open     bool
	openFrom record.LSN
	// resumed: rel is known by name only until the first look at the catalog.
	resumed bool
	// wanted: a copy is asked for; why is said in the log.
	wanted string
	// due: a copy anew is asked for, which may wait for its hours.
	due string
	// proving: a copy is under way, or waits for its verdict.
	proving bool
}

func (t *table) name() string { return t.rel.String() }

// delta is what one transaction does to one table.
type delta struct {
	table  *table
	oid    uint32
	reset  bool
	sum    record.Digest
	unsure bool
	bytes  uint64
	// rows is the change of the table's number of rows; touched counts rows of a minute
	// ago that are gone, see watch.
	rows    tally
	touched int64
}

func (d *delta) apply(to record.Digest) record.Digest {
	if d.reset {
		return d.sum
	}
	to.Add(d.sum)
	return to
}

// recentCommit is kept while a snapshot may still not see it (protocol §4).
type recentCommit struct {
	xid         record.XID
	commit, end record.LSN
	deltas      []delta
}

// tracker follows one copy from its snapshot to its verdict.
type tracker struct {
	oid  uint32
	snap record.Snapshot
	// predicted is the digest of exactly the commits that the snapshot sees.
	predicted record.Digest
	known     bool
	// recordsFrom is the commit LSN of the first received commit that the snapshot
	// does not see; received is the position when the snapshot was taken.
	recordsFrom, received record.LSN
	found                 bool
	// after is the effect, so far, of the commits that the snapshot does not see.
	after  delta
	bytes  uint64
	broken string
	// suspect: the table became incomplete after the snapshot, and why.
	suspect string
}

// start sets the tracker up from the running state; c.mu is held.
func (c *capture) track(oid uint32, snap record.Snapshot) *tracker {
	k := &tracker{oid: oid, snap: snap, received: c.received}
	if t := c.tables[oid]; t != nil {
		k.predicted, k.known = t.digest, t.known
	}
	for i := range c.recent {
		r := &c.recent[i]
		if snap.Sees(r.xid) {
			continue
		}
		k.unseen(r.commit)
		for j := range r.deltas {
			if d := &r.deltas[j]; d.oid == oid {
				if d.reset {
					// A truncate that the snapshot does not see would still hold its lock, and
					// the copy could not have begun.
					k.broken = "a truncate that its own lock should have excluded"
				}
				k.predicted.Sub(d.sum)
				k.later(d)
			}
		}
	}
	c.trackers[k] = struct{}{}
	return k
}

func (k *tracker) unseen(commit record.LSN) {
	if !k.found {
		k.recordsFrom, k.found = commit, true
	}
}

func (k *tracker) later(d *delta) {
	k.bytes += d.bytes
	k.after.unsure = k.after.unsure || d.unsure
	if d.reset {
		k.after.reset, k.after.sum, k.after.rows = true, d.sum, d.rows
		return
	}
	k.after.rows.n += d.rows.n
	k.after.sum.Add(d.sum)
}

// commit takes one received commit into account; c.mu is held.
func (k *tracker) commit(r *recentCommit) {
	seen := k.snap.Sees(r.xid)
	if !seen {
		k.unseen(r.commit)
	}
	for j := range r.deltas {
		d := &r.deltas[j]
		if d.oid != k.oid {
			continue
		}
		if !seen {
			k.later(d)
			continue
		}
		k.predicted = d.apply(k.predicted)
		k.known = k.known && !d.unsure
	}
}

// from gives records-from: every commit ending at or before it is visible in the
// snapshot (protocol §4).
func (k *tracker) from() record.LSN {
	if k.found {
		return min(k.recordsFrom, k.received)
	}
	return k.received
}

// hold keeps every recent commit until release: between a copy's snapshot and its
// track, a later look at the catalog must not forget what that snapshot does not
// see. release may be called again and needs no lock.
func (c *capture) hold() (release func()) {
	c.held.Add(1)
	var once sync.Once
	return func() { once.Do(func() { c.held.Add(-1) }) }
}

// prune forgets the commits that every later snapshot sees: those below xmin.
func (c *capture) prune(xmin record.XID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held.Load() > 0 {
		return
	}
	c.recent = slices.DeleteFunc(c.recent, func(r recentCommit) bool { return r.xid < xmin })
}

// states lists the tables' digests after the newest received commit, by oid.
func (c *capture) states() []history.TableState {
	out := make([]history.TableState, 0, len(c.tables))
	for _, oid := range slices.Sorted(maps.Keys(c.tables)) {
		t := c.tables[oid]
		out = append(out, history.TableState{Table: oid, Digest: t.digest, Known: t.known, RecordBytes: t.recordBytes, Fingerprint: t.fingerprint, Member: t.member})
	}
	return out
}

func (c *capture) setProving(oid uint32, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tables[oid]; t != nil {
		t.proving = on
	}
}

// copying reports whether a table is being copied, or is to be.
func (c *capture) copying() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tables {
		if t.wanted != "" || t.proving {
			return true
		}
	}
	return false
}

// position is what was received so far, or why nothing more will be.
func (c *capture) position() (record.LSN, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received, c.stopped
}
