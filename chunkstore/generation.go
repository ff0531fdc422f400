package chunkstore

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
)

// names is what a store has been told about names: which are condemned, in which
// order, and which are trusted. 8 bytes of a name stand for it: a false match of a
// condemned one costs a re-upload, and one of a trusted one (2^-64 for each pair)
// a comparison.
type names struct {
	mu      sync.RWMutex
	runs    []run               // prune runs in the order of their generations
	fresh   map[[32]byte]Gen    // by d: replacements made by this process
	trusted map[uint64]struct{} // first 8 bytes of names
}

// run is one prune run: the generation that replaces what it condemned.
type run struct {
	gen      Gen
	prefixes []uint64 // ascending
}

func newNames() names {
	return names{fresh: map[[32]byte]Gen{}, trusted: map[uint64]struct{}{}}
}

func prefix(n Name) uint64 { return binary.BigEndian.Uint64(n[:]) }

// Condemn tells that a prune run condemned all names that begin with one of the
// prefixes: none is used again, the same content gets the run's generation gen.
// The order of calls is the order of generations; a second call for one gen adds
// to the first (every log of the repository repeats it).
func (s *Store) Condemn(gen Gen, prefixes [][8]byte) {
	add := make([]uint64, len(prefixes))
	for i, p := range prefixes {
		add[i] = binary.BigEndian.Uint64(p[:])
	}
	n := &s.names
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.runs, func(r run) bool { return r.gen == gen })
	if i < 0 {
		i = len(n.runs)
		n.runs = append(n.runs, run{gen: gen})
	}
	all := append(n.runs[i].prefixes, add...)
	slices.Sort(all)
	n.runs[i].prefixes = slices.Clip(slices.Compact(all))
}

// Condemned reports whether n must never be used again.
func (s *Store) Condemned(n Name) bool {
	s.names.mu.RLock()
	defer s.names.mu.RUnlock()
	return s.names.condemnedBy(n) >= 0
}

// Trust tells that a retained entry reaches these names and that they were opened
// or scrubbed lately: a Put that finds one there does not read it.
func (s *Store) Trust(trusted ...Name) {
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	for _, n := range trusted {
		s.names.trusted[prefix(n)] = struct{}{}
	}
}

func (n *names) isTrusted(name Name) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	_, ok := n.trusted[prefix(name)]
	return ok
}

// condemnedBy returns the last run that condemned the name, or -1.
func (n *names) condemnedBy(name Name) int {
	p := prefix(name)
	for i, r := range slices.Backward(n.runs) {
		if _, found := slices.BinarySearch(r.prefixes, p); found {
			return i
		}
	}
	return -1
}

// generation decides under which generation d is stored now: the replacement that
// this process made, else zero, and from a condemned name on to the generation of
// the run that condemned it, for as long as it is condemned. Every writer that has
// read the same notes decides alike. If even the last run's name is condemned (a
// false match of the prefix), a random generation serves.
func (n *names) generation(d [32]byte, name func(Gen, [32]byte) Name) Gen {
	n.mu.Lock()
	defer n.mu.Unlock()
	if gen, ok := n.fresh[d]; ok && n.condemnedBy(name(gen, d)) < 0 {
		return gen
	}
	var gen Gen
	for at := -1; ; gen = n.runs[at].gen {
		by := n.condemnedBy(name(gen, d))
		if by < 0 {
			return gen
		}
		if at = max(by, at+1); at >= len(n.runs) {
			break
		}
	}
	for n.condemnedBy(name(gen, d)) >= 0 {
		gen = NewGen()
	}
	n.fresh[d] = gen
	return gen
}

// replace gives d a random generation after its object under gen was found
// damaged, unless another goroutine has done so.
func (n *names) replace(d [32]byte, gen Gen) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now, ok := n.fresh[d]; ok && now != gen {
		return
	}
	n.fresh[d] = NewGen()
}

// IsZero reports whether it is the first generation.
func (g Gen) IsZero() bool { return g == Gen{} }

// NewGen returns a random generation.
func NewGen() Gen {
	var g Gen
	rand.Read(g[:]) // crypto/rand: never returns an error
	return g
}
