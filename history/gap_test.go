package history

import "testing"

// TestGapIsInTheEpoch: an epoch that begins above what was durable makes every
// table incomplete by itself, and a base after it closes the interval.
func TestGapIsInTheEpoch(t *testing.T) {
	var s State
	s.foldEpoch(Position{}, &epochSummary{Durable: 5})
	for table := uint32(1); table <= 3; table++ {
		s.foldBase(Position{Seq: uint64(table)}, &baseSummary{Table: table, Name: "s.t", ExactFrom: 10})
	}
	for _, n := range []*Note{
		{Kind: NoteDropped, Table: 2, From: 12}, {Kind: NoteIncomplete, Table: 3, From: 15}, {Kind: NotePosition, Durable: 20},
	} {
		if err := s.foldNote(Position{}, n); err != nil {
			t.Fatal(err)
		}
	}
	s.foldEpoch(Position{Epoch: 1}, &epochSummary{Durable: 20})
	if len(s.Incompletes) != 1 {
		t.Fatalf("an epoch without a gap: %+v", s.Incompletes)
	}
	s.foldEpoch(Position{Epoch: 2}, &epochSummary{Durable: 30})
	if len(s.Incompletes) != 2 || s.Incompletes[1].Table != 1 || s.Incompletes[1].From != 20 || s.Incompletes[1].Until != 0 {
		t.Fatalf("after the gap: %+v, want table 1 open from 20 and table 3 as it was", s.Incompletes)
	}
	s.foldBase(Position{Epoch: 2, Seq: 1}, &baseSummary{Table: 1, Name: "s.t", ExactFrom: 35})
	if s.Incompletes[1].Until != 35 {
		t.Errorf("after the new base: %+v", s.Incompletes[1])
	}
}
