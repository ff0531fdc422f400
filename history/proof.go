package history

import (
	"cmp"
	"math"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// BasesAt gives the base that a restore to an LSN begins from, of every table that
// has one there and is not known to be gone by then, ascending by name.
func (s *State) BasesAt(at record.LSN) []BaseInfo {
	newest := map[uint32]BaseInfo{}
	for _, b := range s.Bases {
		if o, ok := newest[b.Table]; b.ExactFrom <= at && (!ok || b.ExactFrom >= o.ExactFrom) {
			newest[b.Table] = b
		}
	}
	for _, d := range s.Dropped {
		if b, ok := newest[d.Table]; ok && b.ExactFrom <= d.At && d.At <= at {
			delete(newest, d.Table)
		}
	}
	out := make([]BaseInfo, 0, len(newest))
	for _, b := range newest {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b BaseInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Table, b.Table))
	})
	return out
}

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
	proved := map[uint32]BaseInfo{}
	for _, b := range s.Bases {
		if b.Proved && b.ExactFrom >= proved[b.Table].ExactFrom {
			proved[b.Table] = b
		}
	}
	bases := s.BasesAt(math.MaxUint64)
	out := make([]TableProof, len(bases))
	for i, b := range bases {
		p := proved[b.Table]
		out[i] = TableProof{BaseInfo: b, ProvedAt: p.ExactFrom, ProvedTime: p.Time}
	}
	return out
}
