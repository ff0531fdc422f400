package history

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Secrets are the repository's secrets, or the part of them that a process may
// hold: the operator's process all, the agent all but Identity and Prune
// ([Secrets.Agent]), maintenance only the sealing key and Prune
// ([Secrets.Maintenance]).
type Secrets struct {
	// Repository is the repository's random id.
	Repository [16]byte
	Chunk      chunkstore.Keys
	Digest     chunkstore.Secret
	Prune      chunkstore.Secret
	// Recipient is the public half of the repository's identity (age1…), Identity its
	// private half (AGE-SECRET-KEY-1…), empty on the agent's host.
	Recipient string
	Identity  string
	// Recipients are the operators that keys/<n>.age is wrapped to.
	Recipients []string
	// Config is the SHA-256 of lifeboat.json.
	Config [32]byte
}

// Format writes "•••" for every verb: the struct holds the identity as text.
func (s *Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "•••") }

// MarshalJSON is always an error: JSON is what commands print.
func (s *Secrets) MarshalJSON() ([]byte, error) {
	return nil, errors.New("marshal secrets: not as JSON")
}

// CanRead reports whether these secrets open the bodies of every epoch.
func (s *Secrets) CanRead() bool { return s.Identity != "" }

// Agent gives the secrets without what the agent's host must not hold.
func (s *Secrets) Agent() *Secrets {
	c := *s
	c.Identity, c.Prune = "", chunkstore.Secret{}
	return &c
}

// Maintenance gives the sealing and the prune key alone.
func (s *Secrets) Maintenance() *Secrets {
	return &Secrets{
		Repository: s.Repository, Config: s.Config, Prune: s.Prune, Recipients: s.Recipients,
		Chunk: chunkstore.Keys{Seal: s.Chunk.Seal},
	}
}

// identity parses the private half.
func (s *Secrets) identity() (*age.X25519Identity, error) {
	if s.Identity == "" {
		return nil, ErrNoKey
	}
	id, err := age.ParseX25519Identity(s.Identity)
	if err != nil {
		return nil, fmt.Errorf("parse the repository's identity: %w", err)
	}
	return id, nil
}

// secretsMagic stands before a marshalled bundle: magic, version 1; the CBOR
// follows, then its SHA-256, so that a flipped byte is found without any key.
const secretsMagic = "lifeboat-secrets\x01"

// secretsWire is the bundle's CBOR. A chunkstore.Secret has no CBOR of its own, on
// purpose: only here are secrets written.
type secretsWire struct {
	Repository [16]byte `cbor:"1,keyasint"`
	Name       [32]byte `cbor:"2,keyasint"`
	Chunk      [32]byte `cbor:"3,keyasint"`
	Seal       [32]byte `cbor:"4,keyasint"`
	Cut        [32]byte `cbor:"5,keyasint"`
	Polynomial uint64   `cbor:"6,keyasint"`
	Digest     [32]byte `cbor:"7,keyasint"`
	Prune      [32]byte `cbor:"8,keyasint"`
	Recipient  string   `cbor:"9,keyasint"`
	Identity   string   `cbor:"10,keyasint,omitempty"`
	Recipients []string `cbor:"11,keyasint,omitempty"`
	Config     [32]byte `cbor:"12,keyasint"`
}

// Marshal gives the bundle's bytes, in clear: the caller protects them.
func (s *Secrets) Marshal() ([]byte, error) {
	b, err := record.Marshal(&secretsWire{
		Repository: s.Repository, Name: s.Chunk.Name, Chunk: s.Chunk.Chunk, Seal: s.Chunk.Seal, Cut: s.Chunk.Cut,
		Polynomial: s.Chunk.Polynomial, Digest: s.Digest, Prune: s.Prune, Recipient: s.Recipient,
		Identity: s.Identity, Recipients: s.Recipients, Config: s.Config,
	})
	if err != nil {
		return nil, fmt.Errorf("marshal secrets: %w", err)
	}
	b = append([]byte(secretsMagic), b...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// ParseSecrets reads what Marshal gives.
func ParseSecrets(b []byte) (*Secrets, error) {
	n := len(b) - sha256.Size
	if n < len(secretsMagic) || string(b[:len(secretsMagic)-1]) != secretsMagic[:len(secretsMagic)-1] {
		return nil, fmt.Errorf("parse secrets: not a bundle of Lifeboat's: %w", record.ErrCorrupt)
	}
	if b[len(secretsMagic)-1] != secretsMagic[len(secretsMagic)-1] {
		return nil, fmt.Errorf("parse secrets: version %d: %w", b[len(secretsMagic)-1], record.ErrVersion)
	}
	if sha256.Sum256(b[:n]) != [sha256.Size]byte(b[n:]) {
		return nil, fmt.Errorf("parse secrets: the checksum does not match: %w", record.ErrCorrupt)
	}
	var w secretsWire
	if err := record.Unmarshal(b[len(secretsMagic):n], &w); err != nil {
		return nil, fmt.Errorf("parse secrets: %w", err)
	}
	return &Secrets{
		Repository: w.Repository, Digest: w.Digest, Prune: w.Prune, Recipient: w.Recipient, Identity: w.Identity,
		Recipients: w.Recipients, Config: w.Config,
		Chunk: chunkstore.Keys{Name: w.Name, Chunk: w.Chunk, Seal: w.Seal, Cut: w.Cut, Polynomial: w.Polynomial},
	}, nil
}
