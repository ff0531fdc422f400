package history

import (
	"cmp"
	"maps"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// fold takes the next entry into the picture, after checking that it is the next:
// its number, its chain, and the LSNs of a segment (R3, H7).
func (v *View) fold(e *entry) error {
	key := v.ID.key(e.at)
	first := v.head == entryHash{}
	if e.sum.Epoch != nil {
		f := e.sum.Epoch.Follows
		if first != (f == nil) || (f != nil && (*f != v.Head || e.at.Epoch != v.Head.Epoch+1 || (!v.Ended && !v.log.faults.skipEnd))) {
			return damaged(key, "it does not follow the end of epoch %d", v.Head.Epoch)
		}
	} else if first || v.Ended || e.at != v.Head.next() {
		return damaged(key, "it does not follow %s", v.Head)
	}
	if e.prev != v.head && !v.log.faults.acceptAnyPrev {
		return damaged(key, "it names another entry than %s before it", v.Head)
	}
	if !v.log.forged(v.ID, e.sum.Note) {
		if err := v.State.fold(e); err != nil {
			return damaged(key, "%w", err)
		}
	}
	v.Head, v.head = e.at, e.hash
	v.log.condemn(&e.sum)
	return nil
}

// condemn tells the chunk store what an entry condemns.
func (l *Log) condemn(sum *Summary) {
	if sum.Epoch != nil {
		for _, c := range sum.Epoch.Condemned {
			l.store.Condemn(c.Gen, c.Prefixes)
		}
	}
	if n := sum.Note; n != nil && n.Kind == NoteCondemn {
		l.store.Condemn(n.Gen, n.Prefixes)
	}
}

// clone gives a copy that shares nothing that fold changes.
func (v *View) clone() *View {
	c := *v
	c.Epochs = slices.Clone(v.Epochs)
	c.Segments = slices.Clone(v.Segments)
	c.Histories = slices.Clone(v.Histories)
	c.Bases = slices.Clone(v.Bases)
	c.Schemas = slices.Clone(v.Schemas)
	c.Incompletes = slices.Clone(v.Incompletes)
	c.Marks = slices.Clone(v.Marks)
	c.Pins = slices.Clone(v.Pins)
	c.Identities = slices.Clone(v.Identities)
	c.Mismatches = slices.Clone(v.Mismatches)
	c.Dropped = slices.Clone(v.Dropped)
	c.Condemns = slices.Clone(v.Condemns)
	c.Rounds = slices.Clone(v.Rounds)
	c.Alarms = slices.Clone(v.Alarms)
	c.Points = slices.Clone(v.Points)
	c.Holds = slices.Clone(v.Holds)
	c.Runs = slices.Clone(v.Runs)
	return &c
}

// fold takes one entry into the state.
func (s *State) fold(e *entry) error {
	switch sum := &e.sum; {
	case sum.Epoch != nil:
		s.foldEpoch(e.at, sum.Epoch)
	case sum.End != nil:
		s.Ended = true
	case sum.Segment != nil:
		return s.foldSegment(e.at, sum.Segment, e.size)
	case sum.Base != nil:
		s.foldBase(e.at, sum.Base)
	case sum.History != nil:
		return s.foldHistory(e.at, sum.History)
	case sum.Checkpoint != nil:
		s.Checkpoint = checkpointRef{At: e.at, Hash: e.hash}
	case sum.Schema != nil:
		if !s.Ready && len(s.Schemas) == 0 { // before it no restore knows what to make
			s.First = max(s.First, sum.Schema.From)
		}
		s.Schemas = append(s.Schemas, SchemaInfo{
			Position: e.at, From: sum.Schema.From, Until: sum.Schema.From, Fingerprint: sum.Schema.Fingerprint,
		})
	case sum.Note != nil:
		return s.foldNote(e.at, sum.Note)
	}
	return nil
}

func (s *State) foldEpoch(at Position, e *epochSummary) {
	s.Ended = false
	if len(s.Epochs) > 0 && e.Durable > s.Durable {
		s.foldGap()
	}
	s.Durable = max(s.Durable, e.Durable)
	s.Epochs = append(s.Epochs, e.info(at))
	if len(e.Condemned) > 0 {
		s.Condemns = append(s.Condemns, at)
	}
}

// foldGap opens an interval for every table: an epoch that begins above what was
// durable says by itself that changes in between were lost. No note could say it as
// surely, for a crash may come between any two entries.
func (s *State) foldGap() {
	newest := map[uint32]BaseInfo{}
	for _, b := range s.Bases {
		if o, ok := newest[b.Table]; !ok || o.ExactFrom < b.ExactFrom {
			newest[b.Table] = b
		}
	}
	for _, d := range s.Dropped {
		if b, ok := newest[d.Table]; ok && d.At > b.ExactFrom {
			delete(newest, d.Table)
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(newest)) {
		open := func(c Incomplete) bool { return c.Table == oid && c.Until == 0 }
		if !slices.ContainsFunc(s.Incompletes, open) {
			s.Incompletes = append(s.Incompletes, Incomplete{
				Table: oid, Name: newest[oid].Name, From: s.Durable,
				Reason: "the slot was lost: changes in between could not be had",
			})
		}
	}
}

func (s *State) foldSegment(at Position, g *segmentSummary, size int64) error {
	if g.Start != s.Durable || g.End < g.Start {
		return errorf("segment (%s, %s] after %s", g.Start, g.End, s.Durable)
	}
	s.Segments = append(s.Segments, g.info(at, size))
	s.Epochs[len(s.Epochs)-1].Segments++
	s.Durable = g.End
	if g.Transactions > 0 {
		s.DurableTime = max(s.DurableTime, g.Last)
	}
	s.certain(g.SchemaCertain)
	return nil
}

// certain advances the newest schema.
func (s *State) certain(until record.LSN) {
	if n := len(s.Schemas); n > 0 {
		s.Schemas[n-1].Until = max(s.Schemas[n-1].Until, until)
	}
}

func (s *State) foldBase(at Position, b *baseSummary) {
	known := slices.ContainsFunc(s.Bases, func(o BaseInfo) bool { return o.Table == b.Table })
	if !s.Ready && !known {
		s.First = max(s.First, b.ExactFrom)
	}
	s.Bases = append(s.Bases, b.info(at))
	// A base is exact from its exact-from on, whatever was wrong before; a hole that
	// opened after it stays open.
	s.close(b.Table, b.ExactFrom)
}

// close ends the open intervals of a table that began before until.
func (s *State) close(table uint32, until record.LSN) {
	for i := range s.Incompletes {
		if c := &s.Incompletes[i]; c.Table == table && c.Until == 0 && until > c.From {
			c.Until = until
		}
	}
}

func (s *State) foldHistory(at Position, h *historySummary) error {
	if i := slices.IndexFunc(s.Histories, func(o HistoryInfo) bool { return o.KeyEpoch == h.KeyEpoch }); i >= 0 {
		return errorf("epoch %d was merged already, by %s", h.KeyEpoch, s.Histories[i].Position)
	}
	var n, txs, records uint64
	for _, g := range s.Segments {
		if g.Epoch == h.KeyEpoch {
			n, txs, records = n+1, txs+g.Transactions, records+g.Records
		}
	}
	if n != h.Segments || txs != h.Transactions || records != h.Records || n == 0 || h.KeyEpoch >= at.Epoch {
		return errorf("it merges %d segments of epoch %d with %d transactions and %d records, the log has %d, %d and %d",
			h.Segments, h.KeyEpoch, h.Transactions, h.Records, n, txs, records)
	}
	s.Segments = slices.DeleteFunc(s.Segments, func(g SegmentInfo) bool { return g.Epoch == h.KeyEpoch })
	i, _ := slices.BinarySearchFunc(s.Histories, h.KeyEpoch, func(o HistoryInfo, epoch uint64) int {
		return cmp.Compare(o.KeyEpoch, epoch)
	})
	s.Histories = slices.Insert(s.Histories, i, h.info(at))
	return nil
}

func (s *State) foldNote(at Position, n *Note) error {
	switch n.Kind {
	case NotePosition, NoteHandover:
		if n.Durable != 0 {
			if n.Durable < s.Durable {
				return errorf("position %s after %s", n.Durable, s.Durable)
			}
			s.Durable = n.Durable
		}
		s.DurableTime = max(s.DurableTime, n.Time)
	case NoteReady:
		s.Ready = true
	case NoteIncomplete:
		open := func(c Incomplete) bool { return c.Table == n.Table && c.Until == 0 }
		if i := slices.IndexFunc(s.Incompletes, open); i >= 0 {
			s.Incompletes[i].From = min(s.Incompletes[i].From, n.From)
			break
		}
		i := Incomplete{Table: n.Table, Name: n.Name, Reason: n.Reason, From: n.From}
		for _, d := range s.Dropped { // old rows of a table that is known to be gone
			if d.Table == n.Table && d.At >= n.From {
				i.Until = d.At
			}
		}
		s.Incompletes = append(s.Incompletes, i)
	case NoteComplete:
		s.close(n.Table, n.Until)
	case NoteMark:
		s.Marks = replaceMark(s.Marks, s.mark(n))
	case NotePin:
		s.Pins = replaceMark(s.Pins, s.mark(n))
	case NoteUnpin:
		s.Pins = slices.DeleteFunc(s.Pins, func(m Mark) bool { return m.Name == n.Name })
	case NoteIdentity:
		for _, c := range n.Identities {
			s.foldIdentity(c)
		}
	case NoteMismatch:
		s.Mismatches = append(s.Mismatches, Mismatch{Table: n.Table, Name: n.Name, Reason: n.Reason, From: n.From, Until: n.Until})
	case NoteDropped:
		s.Dropped = append(s.Dropped, Dropped{Table: n.Table, Name: n.Name, At: n.From})
		for i := range s.Incompletes {
			if c := &s.Incompletes[i]; c.Table == n.Table && c.Until == 0 {
				c.Until = max(n.From, c.From)
			}
		}
	case NoteUnmark:
		s.Marks = slices.DeleteFunc(s.Marks, func(m Mark) bool { return m.Name == n.Name })
	case NoteHold:
		s.Holds = replaceMark(s.Holds, Mark{Name: n.Name, Time: n.Time})
	case NoteRelease:
		s.Holds = slices.DeleteFunc(s.Holds, func(m Mark) bool { return m.Name == n.Name })
	case NoteCondemn, NoteUndelete, NoteDeleting, NoteDone:
		s.foldPrune(at, n)
	case NoteRound:
		s.Rounds = append(s.Rounds, Round{Kind: n.Name, From: n.From, Until: n.Until, Point: n.Point, Time: n.Time})
	case NoteAlarm:
		s.foldAlarm(at, n)
	case NoteAcknowledge:
		s.Alarms = slices.DeleteFunc(s.Alarms, func(a Alarm) bool { return a.At == *n.Alarm })
	}
	s.certain(n.SchemaCertain)
	return nil
}

// mark resolves a mark without an LSN: what was durable where the note stands.
func (s *State) mark(n *Note) Mark {
	at := n.From
	if at == 0 {
		at = s.Durable
	}
	return Mark{Name: n.Name, At: at, Time: n.Time}
}

func replaceMark(list []Mark, m Mark) []Mark {
	list = slices.DeleteFunc(list, func(o Mark) bool { return o.Name == m.Name })
	return append(list, m)
}

// foldIdentity keeps the first Old until it is undone: a note that is repeated
// after a crash may have seen our own change already. Huge stays once it is set.
func (s *State) foldIdentity(c IdentityChange) {
	i := slices.IndexFunc(s.Identities, func(o IdentityChange) bool { return o.Table == c.Table })
	switch {
	case i < 0:
		s.Identities = append(s.Identities, c)
	case c.Undone:
		s.Identities[i].Undone = true
	case s.Identities[i].Undone:
		s.Identities[i] = c
	default:
		s.Identities[i].Huge = s.Identities[i].Huge || c.Huge
	}
}

// SchemaGaps gives the intervals between schemas that differ, ascending.
func (v *View) SchemaGaps() []SchemaGap {
	var out []SchemaGap
	for i := 1; i < len(v.Schemas); i++ {
		a, b := v.Schemas[i-1], v.Schemas[i]
		if a.Fingerprint != b.Fingerprint {
			out = append(out, SchemaGap{From: a.Until, Until: b.From, Before: a, After: b})
		}
	}
	return out
}
