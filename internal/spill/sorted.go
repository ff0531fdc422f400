package spill

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"sort"
)

// Pair is one that was added.
type Pair struct{ Key, Value []byte }

// Sorted gives the pairs of a sorter. It is safe for concurrent use: any number of
// iterators may be under way.
type Sorted struct {
	n     int64
	held  memory // sorted; all of it when there are no runs
	runs  []*run
	files []*file
}

// All gives every pair, ascending by the bytes of its key, then of its value. The
// slices are valid until the next step and must not be changed. It may be gone through
// any number of times; an error ends it.
func (s *Sorted) All() iter.Seq2[Pair, error] { return s.Prefix(nil) }

// Prefix gives the pairs whose key begins with p, in the same order, without a walk
// through all those before them: it reads about a five-hundredth part of the rest, so
// it is for large parts and not for single pairs.
func (s *Sorted) Prefix(p []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		seq := merged(s.runs, p)
		if len(s.runs) == 0 {
			seq = s.held.from(p)
		}
		for pair, err := range seq {
			if err == nil {
				if bytes.Compare(pair.Key, p) < 0 {
					continue
				}
				if !bytes.HasPrefix(pair.Key, p) {
					return
				}
			}
			if !yield(pair, err) {
				return
			}
		}
	}
}

// Len is how many pairs there are.
func (s *Sorted) Len() int64 { return s.n }

// Close gives memory and space back before the folder is closed. No iterator may be
// under way.
func (s *Sorted) Close() error {
	var err error
	for _, f := range s.files {
		err = errors.Join(err, f.drop())
	}
	*s = Sorted{}
	return err
}

func (m *memory) from(p []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		first := sort.Search(len(m.items), func(i int) bool { return bytes.Compare(m.pair(m.items[i]).Key, p) >= 0 })
		for _, it := range m.items[first:] {
			if !yield(m.pair(it), nil) {
				return
			}
		}
	}
}

// merged gives the pairs of runs in order, from about the first key that is not below
// from.
func merged(runs []*run, from []byte) iter.Seq2[Pair, error] {
	return func(yield func(Pair, error) bool) {
		var open cursors
		defer func() {
			for _, c := range open {
				c.close()
			}
		}()
		for _, r := range runs {
			c := r.open(from)
			switch err := c.next(); {
			case err == nil:
				open = append(open, c)
			case err == io.EOF:
				c.close()
			default:
				c.close()
				yield(Pair{}, err)
				return
			}
		}
		open.init()
		for len(open) > 0 {
			c := open[0]
			if !yield(c.Pair, nil) {
				return
			}
			switch err := c.next(); {
			case err == nil:
				open.down(0)
			case err == io.EOF:
				c.close()
				last := len(open) - 1
				open[0] = open[last]
				open = open[:last]
				open.down(0)
			default:
				yield(Pair{}, err)
				return
			}
		}
	}
}

// cursors is a heap: the lowest pair first. Package heap calls through an interface what
// is done with every pair here.
type cursors []*cursor

func (c cursors) init() {
	for i := len(c)/2 - 1; i >= 0; i-- {
		c.down(i)
	}
}

// down moves the cursor at i to its place below.
func (c cursors) down(i int) {
	for {
		low := 2*i + 1
		if low >= len(c) {
			return
		}
		if low+1 < len(c) && compare(c[low+1].Pair, c[low].Pair) < 0 {
			low++
		}
		if compare(c[low].Pair, c[i].Pair) >= 0 {
			return
		}
		c[i], c[low] = c[low], c[i]
		i = low
	}
}
