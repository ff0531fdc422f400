package chunkstore

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/restic/chunker"
)

// Secret is 32 random bytes of key. However it is printed, it prints as "•••".
type Secret [32]byte

const redacted = "•••"

// NewSecret returns a fresh one.
func NewSecret() Secret {
	var s Secret
	rand.Read(s[:]) // crypto/rand: never returns an error
	return s
}

// String gives "•••".
func (Secret) String() string { return redacted }

// GoString gives "•••".
func (Secret) GoString() string { return redacted }

// Format writes "•••" for every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue gives "•••".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is always an error: JSON is what commands print.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errors.New("marshal secret: not as JSON") }

// IsZero reports whether s was never set.
func (s Secret) IsZero() bool { return s == Secret{} }

// Keys are the repository's secrets that concern chunks. Who only scrubs needs
// Seal alone.
type Keys struct {
	// Name is K_name: names of chunks.
	Name Secret
	// Chunk is K_chunk: keys and nonces of chunks, together with their d.
	Chunk Secret
	// Seal is K_seal: trailers, and the first part of log entries.
	Seal Secret
	// Cut is K_cut: where rows are cut.
	Cut Secret
	// Polynomial cuts byte streams (restic/chunker, irreducible, degree 53).
	Polynomial uint64
}

// NewKeys returns fresh ones.
func NewKeys() (Keys, error) {
	p, err := chunker.RandomPolynomial()
	if err != nil {
		return Keys{}, fmt.Errorf("make chunker polynomial: %w", err)
	}
	return Keys{Name: NewSecret(), Chunk: NewSecret(), Seal: NewSecret(), Cut: NewSecret(), Polynomial: uint64(p)}, nil
}

// Subkey derives the key that serves one purpose from a secret of the repository:
// HKDF-SHA-256 without salt, info "lifeboat/1/<part>" (protocol §2).
func (s Secret) Subkey(part string) Secret {
	k, err := hkdf.Key(sha256.New, s[:], nil, "lifeboat/1/"+part, len(s))
	if err != nil {
		panic(err) // only for lengths over 8,160 bytes
	}
	return Secret(k)
}

// mac is HMAC-SHA-256 over the joined parts.
func (s *Secret) mac(parts ...[]byte) [sha256.Size]byte {
	m := hmac.New(sha256.New, s[:])
	for _, p := range parts {
		m.Write(p)
	}
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	return sum
}
