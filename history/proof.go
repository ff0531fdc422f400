package history

import (
	"cmp"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// TableProof is one table's newest base, and when the table was proved last.
type TableProof struct {
	BaseInfo
	// ProvedAt is the exact-from of the newest copy that had the digest which the
	// records before it predicted, ProvedTime when it was finished; 0: none had.
	ProvedAt   record.LSN
	ProvedTime record.Time
}

// Proofs gives every table that has a base and is not known to be dropped since,
// ascending by name.
func (s *State) Proofs() []TableProof {
	tables := map[uint32]*TableProof{}
	for _, b := range s.Bases {
		t := tables[b.Table]
		if t == nil {
			t = new(TableProof)
			tables[b.Table] = t
		}
		if b.ExactFrom >= t.ExactFrom {
			t.BaseInfo = b
		}
		if b.Proved && b.ExactFrom >= t.ProvedAt {
			t.ProvedAt, t.ProvedTime = b.ExactFrom, b.Time
		}
	}
	for _, d := range s.Dropped {
		if t := tables[d.Table]; t != nil && t.ExactFrom <= d.At {
			delete(tables, d.Table)
		}
	}
	out := make([]TableProof, 0, len(tables))
	for _, t := range tables {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b TableProof) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Table, b.Table))
	})
	return out
}
