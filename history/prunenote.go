package history

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// PruneRun is one prune, as far as this log tells.
type PruneRun struct {
	Gen chunkstore.Gen `cbor:"1,keyasint"`
	// Its notes; zero: not there. Of Deleting and Undone only the first one counts.
	Condemned Position `cbor:"2,keyasint"`
	Deleting  Position `cbor:"3,keyasint"`
	Done      Position `cbor:"4,keyasint"`
	Undone    Position `cbor:"5,keyasint"`
}

var noPosition Position // read only: the zero value

// logEntries are entries of one log that a prune is to remove. A condemn note has one
// of these for every log that the prune knew, also without entries.
type logEntries struct {
	Log     LineageID `cbor:"1,keyasint"`
	Entries entryRuns `cbor:"2,keyasint"`
	// From is where the window began when this was decided: every commit from it on
	// needs none of the entries.
	From record.LSN `cbor:"3,keyasint"`
	// Forget: nothing of the lineage is to stay.
	Forget bool `cbor:"4,keyasint,omitempty"`
}

// Kept is what a prune left to restore from a lineage.
type Kept struct {
	// From: every commit from this position on can be restored.
	From record.LSN `cbor:"1,keyasint"`
	// Points are older ones, ascending.
	Points []KeptPoint `cbor:"2,keyasint,omitempty"`
}

// KeptPoint is a single commit before the first of all that can be restored.
type KeptPoint struct {
	// Why is weekly, monthly, mark or pin.
	Why  string      `cbor:"1,keyasint"`
	Name string      `cbor:"2,keyasint,omitempty"`
	At   record.LSN  `cbor:"3,keyasint"`
	Time record.Time `cbor:"4,keyasint"`
}

// Target is what a person types to restore the point.
func (p KeptPoint) Target() string {
	if p.Why == "mark" {
		return "mark:" + p.Name
	}
	return "lsn:" + p.At.String()
}

// PrunedAt reports whether the position was restorable once and a prune took it away.
func (s *State) PrunedAt(at record.LSN) bool {
	return at < s.Pruned && !slices.ContainsFunc(s.Points, func(p KeptPoint) bool { return p.At == at })
}

// foldPrune takes a step of a prune.
func (s *State) foldPrune(at Position, n *Note) {
	if n.Kind == NoteCondemn {
		s.Condemns = append(s.Condemns, at)
	}
	if s.foldRun(at, n); n.Kind == NoteDeleting && s.run(n.Gen).Deleting == at {
		s.remove(n.Entries, n.Kept)
	}
}

// foldRun notes where a step of a prune stands.
func (s *State) foldRun(at Position, n *Note) {
	i := slices.IndexFunc(s.Runs, func(r PruneRun) bool { return r.Gen == n.Gen })
	if i < 0 {
		i = len(s.Runs)
		s.Runs = append(s.Runs, PruneRun{Gen: n.Gen})
	}
	r := &s.Runs[i]
	first := func(p *Position, unless Position) {
		if *p == noPosition && unless == noPosition {
			*p = at
		}
	}
	switch n.Kind {
	case NoteCondemn:
		first(&r.Condemned, noPosition)
	case NoteUndelete:
		first(&r.Undone, r.Deleting)
	case NoteDeleting:
		first(&r.Deleting, r.Undone)
	case NoteDone:
		first(&r.Done, noPosition)
	}
}

func (s *State) run(gen chunkstore.Gen) PruneRun {
	for _, r := range s.Runs {
		if r.Gen == gen {
			return r
		}
	}
	return PruneRun{Gen: gen}
}

// remove takes what a prune removes out of the picture.
func (s *State) remove(entries entryRuns, k *Kept) {
	s.Bases = slices.DeleteFunc(s.Bases, func(b BaseInfo) bool { return entries.has(b.Position) })
	s.Histories = slices.DeleteFunc(s.Histories, func(h HistoryInfo) bool { return entries.has(h.Position) })
	s.Segments = slices.DeleteFunc(s.Segments, func(g SegmentInfo) bool { return entries.has(g.Position) })
	s.Schemas = slices.DeleteFunc(s.Schemas, func(c SchemaInfo) bool { return entries.has(c.Position) })
	s.forgetEpochs()
	if k.From < s.First {
		return
	}
	s.First, s.Pruned, s.Points = k.From, k.From, slices.Clone(k.Points)
	s.Marks = slices.DeleteFunc(s.Marks, func(m Mark) bool { return s.PrunedAt(m.At) })
	s.Rounds = slices.DeleteFunc(s.Rounds, func(r Round) bool { return s.PrunedAt(r.Point) })
	oldest := k.From
	for _, p := range k.Points {
		oldest = min(oldest, p.At)
	}
	s.Incompletes = slices.DeleteFunc(s.Incompletes, func(i Incomplete) bool { return i.Until != 0 && i.Until <= oldest })
	s.Mismatches = slices.DeleteFunc(s.Mismatches, func(m Mismatch) bool { return m.Until <= oldest })
}

// recentEpochs is how many of the last epochs a picture holds in any case.
const recentEpochs = 64

// forgetEpochs takes the epochs out of the picture of which nothing is left: one for
// each hour would make checkpoints grow without end. The first one names the parent.
func (s *State) forgetEpochs() {
	held := map[uint64]bool{}
	for _, b := range s.Bases {
		held[b.Epoch] = true
	}
	for _, h := range s.Histories {
		held[h.Epoch], held[h.KeyEpoch] = true, true
	}
	for _, g := range s.Segments {
		held[g.Epoch] = true
	}
	for _, c := range s.Schemas {
		held[c.Epoch] = true
	}
	last := s.Epochs[len(s.Epochs)-1].Epoch
	s.Epochs = slices.DeleteFunc(s.Epochs, func(e EpochInfo) bool {
		return e.Epoch != 0 && e.Epoch+recentEpochs <= last && !held[e.Epoch]
	})
}

// authority gives the MAC of a note that takes away: HMAC-SHA-256 under
// HKDF(K_prune, "note") over the log's id, a zero byte, and the note's CBOR without its
// MAC. A condemn note is the same in every log: there the id is empty.
func (s *Secrets) authority(id LineageID, n *Note) ([]byte, error) {
	c := *n
	c.MAC = nil
	b, err := record.Marshal(&c)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", n.Kind, err)
	}
	k := s.Prune.Subkey("note")
	m := hmac.New(sha256.New, k[:])
	if n.Kind != NoteCondemn {
		m.Write([]byte(id.String()))
	}
	m.Write([]byte{0})
	m.Write(b)
	return m.Sum(nil), nil
}

// sign gives a note its MAC.
func (s *Secrets) sign(id LineageID, n Note) (Note, error) {
	mac, err := s.authority(id, &n)
	n.MAC = mac
	return n, err
}

// authentic reports whether a note was made by a holder of K_prune.
func (s *Secrets) authentic(id LineageID, n *Note) bool {
	mac, err := s.authority(id, n)
	return err == nil && hmac.Equal(mac, n.MAC)
}

// forged reports that a note claims to take away and was not made by a holder of
// K_prune, for those who can tell. A condemnation counts whoever made it: it costs
// uploads and nothing else.
func (l *Log) forged(id LineageID, n *Note) bool {
	if n == nil || l.secrets.Prune.IsZero() || l.faults.forgedNotes {
		return false
	}
	switch n.Kind {
	case NoteDeleting, NoteDone, NoteUndelete, NoteRelease, NoteUnmark:
		return !l.secrets.authentic(id, n)
	}
	return false
}
