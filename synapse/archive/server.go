package archive

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/mspf"
)

func unpadded(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// identity says who the server is and with which keys it signs.
func (b *builder) identity(c *mspf.Contents) error {
	s := &mspf.Server{StreamFloors: b.o.Floors}
	for i, line := range b.o.SigningKeys {
		id, public, err := publicKey(line)
		if err != nil {
			return fmt.Errorf("signing key %d: %w", i+1, err)
		}
		b.keys[id] = public
		if s.VerifyKeys == nil {
			s.VerifyKeys = map[string]string{}
		}
		s.VerifyKeys[id] = base64.RawStdEncoding.EncodeToString(public)
		if i == 0 {
			c.Core.SigningKey = strings.Join(strings.Fields(line), " ")
		} else {
			s.ExtraSigningKeys = append(s.ExtraSigningKeys, strings.Join(strings.Fields(line), " "))
		}
	}
	if err := b.oldKeys(s); err != nil {
		return err
	}
	c.Server = s
	return b.publicKeys()
}

// publicKeys are those with which the server checks what it signed itself.
func (b *builder) publicKeys() error {
	for r, err := range b.rows("server_signature_keys", "server_name", "key_id", "verify_key") {
		if err != nil {
			return err
		}
		k := bytea(r.bytes(2))
		if r.text(0) != b.server || len(k) != ed25519.PublicKeySize || b.keys[r.text(1)] != nil {
			continue
		}
		b.keys[r.text(1)] = k
	}
	return nil
}

// oldKeys never holds a live key: other servers would refuse what it signs
// (synapse#16025).
func (b *builder) oldKeys(s *mspf.Server) error {
	for _, id := range slices.Sorted(maps.Keys(b.o.OldKeys)) {
		k := b.o.OldKeys[id]
		public, err := unpadded(k.Key)
		if err != nil || len(public) != 32 {
			return fmt.Errorf("old key %s: not 32 bytes in base64", id)
		}
		live := false
		for _, ours := range b.keys {
			live = live || string(ours) == string(public)
		}
		if live {
			continue
		}
		if s.OldVerifyKeys == nil {
			s.OldVerifyKeys = map[string]mspf.OldKey{}
		}
		s.OldVerifyKeys[id] = k
		if _, known := b.keys[id]; !known {
			b.keys[id] = public
		}
	}
	return nil
}
