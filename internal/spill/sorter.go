package spill

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	minBudget = 64 << 10
	maxBudget = 1 << 30 // places in a chunk are 32 bits
	// fanIn is how many runs are merged into one, and at most gone through at once.
	fanIn = 64
)

// Sorter takes pairs in any order. It is not safe for concurrent use.
type Sorter struct {
	dir    *Dir
	budget int64
	held   memory
	n      int64
	levels []level // runs of level n+1 are made of fanIn runs of level n
	err    error   // why it takes no more pairs
}

type level struct {
	file *file
	runs []*run
}

// memory holds pairs until they are sorted.
type memory struct {
	chunks [][]byte
	used   int   // chunks that hold pairs; the others are to be used again
	bytes  int64 // that all chunks take
	items  []item
}

// item is a pair in memory: without pointers, so that the collector passes over them.
type item struct {
	prefix     uint64 // first bytes of the key: most comparisons end with them
	chunk, off uint32
	key, value uint32 // lengths
}

const itemSize = 24

// Add takes a pair; both slices are copied. Equal pairs are kept as often as they come.
// A pair larger than the budget is written alone.
func (s *Sorter) Add(key, value []byte) error {
	if s.err != nil {
		return s.err
	}
	s.n++
	s.err = s.add(key, value)
	return s.err
}

func (s *Sorter) add(key, value []byte) error {
	size := len(key) + len(value)
	if int64(size) >= s.budget {
		if err := s.spill(); err != nil {
			return err
		}
		return s.writeRun(func(w *runWriter) error { return w.add(key, value) })
	}
	if !s.held.room(size, s.budget) {
		if err := s.spill(); err != nil {
			return err
		}
		s.held.room(size, s.budget)
	}
	s.held.add(key, value)
	return nil
}

// Len is how many pairs were added.
func (s *Sorter) Len() int64 { return s.n }

// room makes room for a pair of so many bytes; false when that is beyond the budget and
// something is held that can be written.
func (m *memory) room(size int, budget int64) bool {
	more := int64(0)
	if len(m.items) == cap(m.items) {
		more = int64(cap(m.items)/4+1) * itemSize
	}
	fits := m.used > 0 && cap(m.chunks[m.used-1])-len(m.chunks[m.used-1]) >= size
	chunk := 0
	switch {
	case fits:
	case m.used < len(m.chunks) && cap(m.chunks[m.used]) >= size:
	default:
		// Small at first: there may be many sorters with little in them.
		chunk = max(size, int(min(budget/16, 1<<20, max(16<<10, m.bytes/4))))
		more += int64(chunk)
	}
	if len(m.items) > 0 && m.bytes+int64(cap(m.items))*itemSize+more > budget {
		return false
	}
	if m.used == 0 && m.bytes+int64(chunk) > budget { // chunks of another size: begin again
		m.chunks, m.bytes = nil, 0
	}
	if chunk > 0 {
		m.chunks = slices.Insert(m.chunks, m.used, make([]byte, 0, chunk))
		m.bytes += int64(chunk)
	}
	if !fits {
		m.chunks[m.used] = m.chunks[m.used][:0]
		m.used++
	}
	return true
}

func (m *memory) add(key, value []byte) {
	c := &m.chunks[m.used-1]
	it := item{prefixOf(key), uint32(m.used - 1), uint32(len(*c)), uint32(len(key)), uint32(len(value))}
	*c = append(append(*c, key...), value...)
	if len(m.items) == cap(m.items) {
		m.items = slices.Grow(m.items, max(64, cap(m.items)/4))
	}
	m.items = append(m.items, it)
}

func prefixOf(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

func (m *memory) pair(it item) Pair {
	b := m.chunks[it.chunk][it.off:]
	return Pair{Key: b[:it.key:it.key], Value: b[it.key : it.key+it.value : it.key+it.value]}
}

func (m *memory) sort() {
	slices.SortFunc(m.items, func(a, b item) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return compare(m.pair(a), m.pair(b))
	})
}

func compare(a, b Pair) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return bytes.Compare(a.Value, b.Value)
}

// spill writes what is held, and keeps the memory for what comes.
func (s *Sorter) spill() error {
	if len(s.held.items) == 0 {
		return nil
	}
	s.held.sort()
	err := s.writeRun(func(w *runWriter) error {
		for _, it := range s.held.items {
			p := s.held.pair(it)
			if err := w.add(p.Key, p.Value); err != nil {
				return err
			}
		}
		return nil
	})
	s.held.items, s.held.used = s.held.items[:0], 0
	return err
}

// writeRun makes a run of the lowest level, and merges levels that are full.
func (s *Sorter) writeRun(fill func(*runWriter) error) error {
	if err := s.appendRun(0, fill); err != nil {
		return err
	}
	for n := 0; n < len(s.levels) && len(s.levels[n].runs) == fanIn; n++ {
		if err := s.raise(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sorter) appendRun(n int, fill func(*runWriter) error) error {
	if n == len(s.levels) {
		f, err := s.dir.create()
		if err != nil {
			return err
		}
		s.levels = append(s.levels, level{file: f})
	}
	l := &s.levels[n]
	w := s.dir.write(l.file)
	if err := fill(w); err != nil {
		return err
	}
	r, err := w.finish()
	if err != nil {
		return err
	}
	l.runs = append(l.runs, r)
	return nil
}

// raise merges the runs of a level into one of the next.
func (s *Sorter) raise(n int) error {
	err := s.appendRun(n+1, func(w *runWriter) error {
		for p, err := range merged(s.levels[n].runs, nil) {
			if err != nil {
				return err
			}
			if err := w.add(p.Key, p.Value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.levels[n].runs = nil
	return s.levels[n].file.empty()
}

// Sorted ends the adding. The sorter takes no more pairs then.
func (s *Sorter) Sorted() (*Sorted, error) {
	if s.err != nil {
		return nil, s.err
	}
	s.err = ErrEnded
	out := &Sorted{n: s.n}
	if len(s.levels) == 0 {
		s.held.sort()
		out.held = s.held
		s.held = memory{}
		return out, nil
	}
	if err := s.spill(); err != nil {
		return nil, err
	}
	s.held = memory{}
	for n := 0; s.runs() > fanIn; n++ {
		if err := s.raise(n); err != nil {
			return nil, err
		}
	}
	for _, l := range s.levels {
		if len(l.runs) == 0 {
			if err := l.file.drop(); err != nil {
				return nil, fmt.Errorf("close a temporary file: %w", err)
			}
			continue
		}
		out.files, out.runs = append(out.files, l.file), append(out.runs, l.runs...)
	}
	s.levels = nil
	return out, nil
}

func (s *Sorter) runs() int {
	n := 0
	for _, l := range s.levels {
		n += len(l.runs)
	}
	return n
}
