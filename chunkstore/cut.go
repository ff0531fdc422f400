package chunkstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"

	"github.com/restic/chunker"
)

// Bounds of the pieces of a byte stream; about 1.5 MiB on average.
const (
	minPiece  = 512 << 10
	maxPiece  = 8 << 20
	pieceBits = 20
)

// RowCutter decides after which rows of one table a chunk ends. The decision
// depends on the row's key, its length and the bytes of the chunk so far, under
// the repository's K_cut: the same rows are cut alike wherever they begin, within
// a few chunks, and nobody without the key can tell where.
//
// Sizes follow a Weibull law of shape 4: with L = target + target/10, never under
// L/8, never over 4 L (but for the last row), mean about target, deviation about
// 0.28 of it. The hazard of a cut between s and s+r bytes is r·4s³/L⁴, compared
// with a 64-bit pseudo-random number in integers: floating point would differ
// between machines and silently end deduplication.
//
//	prf = first 8 bytes of HMAC(K_rows, schema ‖ 0 ‖ table ‖ 0 ‖ key)
//	K_rows = HKDF-SHA-256(K_cut, no salt, info "lifeboat/1/rows", 32 bytes)
//	s   = bytes of the chunk including this row;  u = min(⌊256 s / L⌋, 1023)
//	cut = s ≥ ⌊L/8⌋ and (s ≥ 4 L or ⌊prf · L · 2²⁴ / 2⁶⁴⌋ < 4 u³ · row)
//
// It is not safe for concurrent use and allocates nothing per row.
type RowCutter struct {
	mac    hash.Hash
	prefix []byte
	l      uint64
	size   uint64 // bytes of the chunk so far
	sum    [sha256.Size]byte
}

// maxRow is where the integer rule ends; such a row ends its chunk anyway.
const maxRow = 1<<30 - 1

// NewRowCutter makes the cutter of a table; target is the mean size of its chunks
// in bytes, and stays within 4 KiB and 4 MiB. Another target is another full
// upload of the table.
func NewRowCutter(cut Secret, schema, table string, target int) *RowCutter {
	target = min(max(target, 4<<10), 4<<20)
	key := cut.Subkey("rows")
	p := make([]byte, 0, len(schema)+len(table)+2)
	p = append(append(p, schema...), 0)
	p = append(append(p, table...), 0)
	return &RowCutter{mac: hmac.New(sha256.New, key[:]), prefix: p, l: uint64(target + target/10)}
}

// Row takes the next row: key is its key columns in COPY text joined by tabs, in
// index order (of a table without key: the line), rowLen the bytes it adds to the
// chunk. It reports whether the chunk ends after it; then the next row begins a
// new one.
func (c *RowCutter) Row(key []byte, rowLen int) (cutAfter bool) {
	row := uint64(min(max(rowLen, 0), maxRow))
	c.size += row
	switch {
	case c.size < c.l/8:
		return false
	case c.size < 4*c.l:
		u := min(c.size*256/c.l, 1023)
		hi, _ := bits.Mul64(c.prf(key), c.l<<24)
		if hi >= 4*u*u*u*row {
			return false
		}
	}
	c.size = 0
	return true
}

// Reset begins a new chunk, as at the start of a table or a range of it.
func (c *RowCutter) Reset() { c.size = 0 }

func (c *RowCutter) prf(key []byte) uint64 {
	c.mac.Reset()
	c.mac.Write(c.prefix)
	c.mac.Write(key)
	return binary.BigEndian.Uint64(c.mac.Sum(c.sum[:0]))
}

// CutBytes calls f with the pieces of b, in order, each a part of b: 512 KiB to
// 8 MiB, the last one may be shorter; none when b is empty. The cuts are those of
// restic/chunker under the repository's polynomial. An error of f ends it.
func (s *Store) CutBytes(b []byte, f func(piece []byte) error) error {
	pol := chunker.Pol(s.keys.Polynomial)
	if pol.Deg() != 53 {
		return fmt.Errorf("cut bytes: polynomial of degree %d, want 53", pol.Deg())
	}
	c := chunker.NewBase(pol, chunker.WithBaseBoundaries(minPiece, maxPiece), chunker.WithBaseAverageBits(pieceBits))
	for len(b) > 0 {
		n := c.NextSplitPoint(b)
		if n <= 0 {
			n = len(b)
		}
		if err := f(b[:n:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
