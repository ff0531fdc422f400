package chunkstore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Kind is what a chunk holds; it is part of its content's identity.
type Kind byte

// The kinds of chunks.
const (
	// KindRows: lines of COPY text of one table, each with its newline.
	KindRows Kind = 'r'
	// KindRecords: format records.
	KindRecords Kind = 'c'
	// KindBytes: pieces of byte streams: media, files, schema dumps, long lines.
	KindBytes Kind = 'b'
	// KindIndex: lists of chunks.
	KindIndex Kind = 'i'
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindRows:
		return "rows"
	case KindRecords:
		return "records"
	case KindBytes:
		return "bytes"
	case KindIndex:
		return "index"
	}
	return fmt.Sprintf("kind %#02x", byte(k))
}

func (k Kind) known() bool {
	return k == KindRows || k == KindRecords || k == KindBytes || k == KindIndex
}

// Name is a chunk's name: it identifies a content, its kind and generation under
// the repository's K_name, and tells nothing about them.
type Name [32]byte

// String gives 64 hex digits.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// chunkPrefix begins the keys of all chunks.
const chunkPrefix = "chunk/"

// Key is where the chunk lies: "chunk/ab/<64 hex digits that begin with ab>".
func (n Name) Key() string {
	s := n.String()
	return chunkPrefix + s[:2] + "/" + s
}

// ParseName reads what String wrote.
func ParseName(s string) (Name, error) {
	var n Name
	if len(s) != 2*len(n) {
		return Name{}, fmt.Errorf("parse chunk name: %d digits, want %d", len(s), 2*len(n))
	}
	if _, err := hex.Decode(n[:], []byte(s)); err != nil {
		return Name{}, fmt.Errorf("parse chunk name: %w", err)
	}
	if n.String() != s {
		return Name{}, fmt.Errorf("parse chunk name: capital hex digits in %q", s)
	}
	return n, nil
}

// ParseKey reads what [Name.Key] wrote.
func ParseKey(key string) (Name, error) {
	const skip = len(chunkPrefix) + 3
	if len(key) < skip {
		return Name{}, fmt.Errorf("parse chunk key %q: too short", key)
	}
	n, err := ParseName(key[skip:])
	if err != nil {
		return Name{}, err
	}
	if n.Key() != key {
		return Name{}, fmt.Errorf("parse chunk key %q: the chunk %s lies elsewhere", key, n)
	}
	return n, nil
}

// Gen is a generation: zero at first, later the id of the prune run that condemned
// the name before, or random when the object before was damaged.
type Gen [16]byte

// String gives 32 hex digits.
func (g Gen) String() string { return hex.EncodeToString(g[:]) }

// Ref points to a chunk and opens it, together with the repository's keys. It
// belongs into bodies under an epoch's key only.
type Ref struct {
	_ struct{} `cbor:",toarray"`
	// D is SHA-256(kind ‖ plaintext).
	D [32]byte
	// Gen is the generation it was found or stored under.
	Gen Gen
	// Size of the plaintext in bytes; 0 also when it is not known (an extent does not
	// say): then D alone decides, and [MaxSize] is the bound.
	Size uint64
}

// digest is d of the package comment.
func digest(k Kind, plaintext []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{byte(k)})
	h.Write(plaintext)
	var d [32]byte
	h.Sum(d[:0])
	return d
}
