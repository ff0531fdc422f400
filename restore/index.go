package restore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// errBudget: an index would outgrow the memory that is left.
var errBudget = errors.New("beyond the memory budget")

// keyHash is 128 bits of SHA-256 over a secret of this process and the key:
// users choose keys, so nobody may be able to make two of them meet.
type keyHash struct{ hi, lo uint64 }

// keyHasher makes key hashes. Not safe for concurrent use.
type keyHasher struct{ buf []byte }

func newKeyHasher(secret *[16]byte) *keyHasher {
	return &keyHasher{buf: append(make([]byte, 0, 128), secret[:]...)}
}

func (h *keyHasher) sum(key []byte) keyHash {
	h.buf = append(h.buf[:16], key...)
	d := sha256.Sum256(h.buf)
	return keyHash{binary.BigEndian.Uint64(d[:]), binary.BigEndian.Uint64(d[8:])}
}

func newSecret() *[16]byte {
	var s [16]byte
	_, _ = rand.Read(s[:]) // never fails since Go 1.24
	return &s
}

// slot is one noted key: its hash and what is known of it. v is 0 in a free slot.
type slot struct {
	keyHash
	v uint64
}

// slotSize is what a slot costs.
const slotSize = 24

// Keyed tables: the highest bit says that the slot is taken, the next that the
// key lives at this moment of the second pass, the third that some version of it
// has values the source did not send. The rest is the position of its newest
// version. Bags: the taken bit, 31 bits of copies that are still to be withheld,
// 32 bits of copies withheld whose deletion has not come yet.
const (
	slotTaken = 1 << 63
	slotLive  = 1 << 62
	slotFill  = 1 << 61
	slotPos   = slotFill - 1

	bagTake = 1 << 32
	bagHeld = 1
	bagMax  = 1<<31 - 1
)

// memory is the budget that all indexes of a restore share.
type memory struct{ used, limit int64 }

// index is an open-addressing table of key hashes; linear probing, at most three
// quarters full. It never forgets a single key.
type index struct {
	slots []slot
	n     int
	mem   *memory
}

// find gives the key's slot, or nil.
func (x *index) find(k keyHash) *slot {
	if x.n == 0 {
		return nil
	}
	mask := uint64(len(x.slots) - 1)
	for i := k.lo & mask; ; i = (i + 1) & mask {
		s := &x.slots[i]
		if s.v == 0 {
			return nil
		}
		if s.keyHash == k {
			return s
		}
	}
}

// reserve makes room for more keys, so that take cannot fail for them.
func (x *index) reserve(more int) error {
	if 4*(x.n+more) <= 3*len(x.slots) {
		return nil
	}
	return x.resize(max(64, 2*len(x.slots)), 0, 0)
}

// take gives the key's slot, a new one when there is none: its v is then only
// slotTaken. The pointer is valid until the next take.
// Room must have been reserved.
func (x *index) take(k keyHash) *slot {
	mask := uint64(len(x.slots) - 1)
	for i := k.lo & mask; ; i = (i + 1) & mask {
		s := &x.slots[i]
		if s.v == 0 {
			s.keyHash, s.v = k, slotTaken
			x.n++
			return s
		}
		if s.keyHash == k {
			return s
		}
	}
}

// resize moves the keys of range part of 1<<bits ranges to a table of n slots.
func (x *index) resize(n int, bits uint, part uint64) error {
	if x.mem.used+int64(n)*slotSize > x.mem.limit && n > len(x.slots) {
		return errBudget
	}
	x.mem.used += int64(n-len(x.slots)) * slotSize
	old := x.slots
	x.slots, x.n = make([]slot, n), 0
	mask := uint64(n - 1)
	for _, s := range old {
		if s.v == 0 || (bits > 0 && s.hi>>(64-bits) != part) {
			continue
		}
		i := s.lo & mask
		for x.slots[i].v != 0 {
			i = (i + 1) & mask
		}
		x.slots[i] = s
		x.n++
	}
	return nil
}

// clear forgets everything and gives the memory back.
func (x *index) clear() {
	x.mem.used -= int64(len(x.slots)) * slotSize
	x.slots, x.n = nil, 0
}
