package spill

import (
	"errors"
	"iter"
)

// ErrDamaged: what is on disk is not what was written.
var ErrDamaged = errors.New("a temporary file was altered")

// Dir is where the files of sorters go. It is safe for concurrent use.
type Dir struct{}

// Open makes a place for temporary files within a folder that exists. Its disk should
// hold twice what is sorted.
func Open(parent string) (*Dir, error) { return nil, errors.ErrUnsupported }

// Close ends all sorters of the folder and gives their space back.
func (d *Dir) Close() error { return nil }

// Sorter makes a sorter that holds about memory bytes before it writes a file. What
// all open sorters take together is the caller's sum, that of what they give included:
// what fits stays in memory.
func (d *Dir) Sorter(memory int64) *Sorter { return nil }

// Sorter takes pairs in any order. It is not safe for concurrent use.
type Sorter struct{}

// Add takes a pair; both slices are copied. Equal pairs are kept as often as they come.
// A pair larger than the budget is written alone.
func (s *Sorter) Add(key, value []byte) error { return errors.ErrUnsupported }

// Len is how many pairs were added.
func (s *Sorter) Len() int64 { return 0 }

// Sorted ends the adding. The sorter takes no more pairs then.
func (s *Sorter) Sorted() (*Sorted, error) { return nil, errors.ErrUnsupported }

// Pair is one that was added.
type Pair struct{ Key, Value []byte }

// Sorted gives the pairs of a sorter. It is safe for concurrent use: any number of
// iterators may be under way.
type Sorted struct{}

// All gives every pair, ascending by the bytes of its key, then of its value. The
// slices are valid until the next step and must not be changed. It may be gone through
// any number of times; an error ends it.
func (s *Sorted) All() iter.Seq2[Pair, error] { return nil }

// Prefix gives the pairs whose key begins with p, in the same order; it finds the first
// one without a walk through those before it.
func (s *Sorted) Prefix(p []byte) iter.Seq2[Pair, error] { return nil }

// Len is how many pairs there are.
func (s *Sorted) Len() int64 { return 0 }

// Close gives memory and space back before the folder is closed. No iterator may be
// under way.
func (s *Sorted) Close() error { return nil }
