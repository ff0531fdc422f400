package record

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"
)

// Digest is the order-free fingerprint of a bag of lines: the sum modulo 2^128
// of their keyed hashes, and their count. The zero Digest is the empty table.
type Digest struct {
	Hi    uint64 `cbor:"1,keyasint"`
	Lo    uint64 `cbor:"2,keyasint"`
	Count int64  `cbor:"3,keyasint"`
}

// Add adds o's lines.
func (d *Digest) Add(o Digest) {
	var c uint64
	d.Lo, c = bits.Add64(d.Lo, o.Lo, 0)
	d.Hi, _ = bits.Add64(d.Hi, o.Hi, c)
	d.Count += o.Count
}

// Sub takes o's lines away; a change that removes more than it adds has a
// negative Count.
func (d *Digest) Sub(o Digest) {
	var b uint64
	d.Lo, b = bits.Sub64(d.Lo, o.Lo, 0)
	d.Hi, _ = bits.Sub64(d.Hi, o.Hi, b)
	d.Count -= o.Count
}

// IsZero reports whether d is the digest of no line.
func (d Digest) IsZero() bool { return d == Digest{} }

// String gives 32 hex digits, a slash and the count.
func (d Digest) String() string { return fmt.Sprintf("%016x%016x/%d", d.Hi, d.Lo, d.Count) }

// Hasher hashes the lines of one table. It is not safe for concurrent use and
// allocates nothing per line.
type Hasher struct {
	mac    hash.Hash
	prefix []byte
	sum    [sha256.Size]byte
}

// NewHasher makes the hasher of a table under the repository's K_digest
// (protocol §1: HMAC-SHA-256(K_digest, schema ‖ 0 ‖ table ‖ 0 ‖ line)).
func NewHasher(key []byte, schema, table string) *Hasher {
	p := make([]byte, 0, len(schema)+len(table)+2)
	p = append(append(p, schema...), 0)
	p = append(append(p, table...), 0)
	return &Hasher{mac: hmac.New(sha256.New, key), prefix: p}
}

// Line gives the digest of one line, Count 1.
func (h *Hasher) Line(line []byte) Digest {
	h.mac.Reset()
	h.mac.Write(h.prefix)
	h.mac.Write(line)
	b := h.mac.Sum(h.sum[:0])
	return Digest{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:]), Count: 1}
}
