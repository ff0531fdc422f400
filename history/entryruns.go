package history

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// entryRun is a run of entries of one epoch, the last one included. What a prune removes is
// mostly the segments of whole epochs, of which a busy year has millions.
type entryRun struct {
	_               struct{} `cbor:",toarray"`
	Epoch, From, To uint64
}

// entryRuns are ascending and as few as can be.
type entryRuns []entryRun

// runsOf gives the runs of ascending positions.
func runsOf(list []Position) (out entryRuns) {
	for _, at := range list {
		if n := len(out); n > 0 && out[n-1].Epoch == at.Epoch && out[n-1].To+1 == at.Seq {
			out[n-1].To++
			continue
		}
		out = append(out, entryRun{Epoch: at.Epoch, From: at.Seq, To: at.Seq})
	}
	return out
}

func (r entryRuns) has(at Position) bool {
	_, ok := slices.BinarySearchFunc(r, at, func(x entryRun, at Position) int {
		switch {
		case x.Epoch != at.Epoch:
			return cmp.Compare(x.Epoch, at.Epoch)
		case x.To < at.Seq:
			return -1
		case x.From > at.Seq:
			return 1
		}
		return 0
	})
	return ok
}

func (r entryRuns) all() iter.Seq[Position] {
	return func(yield func(Position) bool) {
		for _, x := range r {
			for seq := x.From; seq <= x.To; seq++ {
				if !yield(Position{Epoch: x.Epoch, Seq: seq}) {
					return
				}
			}
		}
	}
}

// merge gives the runs of both.
func (r entryRuns) merge(o entryRuns) (out entryRuns) {
	both := append(slices.Clone(r), o...)
	slices.SortFunc(both, func(a, b entryRun) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.From, b.From)) })
	for _, x := range both {
		if n := len(out); n > 0 && out[n-1].Epoch == x.Epoch && x.From <= out[n-1].To+1 {
			out[n-1].To = max(out[n-1].To, x.To)
			continue
		}
		out = append(out, x)
	}
	return out
}

// validate says the law of runs.
func (r entryRuns) validate() error {
	for i, x := range r {
		if x.From > x.To || x.To > maxNumber || x.Epoch > maxNumber ||
			i > 0 && (r[i-1].Epoch > x.Epoch || r[i-1].Epoch == x.Epoch && r[i-1].To+1 >= x.From) {
			return fmt.Errorf("run %d of entries, %d/%d to %d: %w", i, x.Epoch, x.From, x.To, record.ErrCorrupt)
		}
	}
	return nil
}
