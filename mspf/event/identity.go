package event

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// What is wrong with an event's identity.
var (
	ErrNoID        = errors.New("the event has no id")
	ErrContentHash = errors.New("the content does not match its hash")
	ErrNoSignature = errors.New("the event has no such signature")
	ErrSignature   = errors.New("the signature does not fit the event")
)

// Redact gives the event as it is after a redaction: only the keys that the room
// version keeps. The argument is not changed; values are shared with it.
func (v Version) Redact(ev map[string]any) map[string]any {
	out := make(map[string]any, len(v.Keep))
	typ, _ := ev["type"].(string)
	for _, k := range v.Keep {
		if x, ok := ev[k]; ok {
			out[k] = x
		}
	}
	if v.RoomIDIsHash && typ == "m.room.create" { // whatever its state_key, as Synapse does
		delete(out, "room_id")
	}
	content, _ := ev["content"].(map[string]any)
	out["content"] = redactContent(content, v.Content[typ])
	return out
}

func isCreate(ev map[string]any) bool {
	key, state := ev["state_key"].(string)
	return ev["type"] == "m.room.create" && state && key == ""
}

func redactContent(content map[string]any, keep []string) map[string]any {
	out := make(map[string]any, len(keep))
	for _, k := range keep {
		if k == "*" {
			return content
		}
		outer, inner, nested := strings.Cut(k, ".")
		x, ok := content[outer]
		if !ok {
			continue
		}
		if !nested {
			out[k] = x
			continue
		}
		if obj, ok := x.(map[string]any); ok {
			kept := map[string]any{} // stays, even when it is empty (Synapse, redact_event)
			if y, ok := obj[inner]; ok {
				kept[inner] = y
			}
			out[outer] = kept
		}
	}
	return out
}

// ContentHash is the SHA-256 over the whole event but what servers add to it.
// Source: Matrix specification, server-server API, "Calculating the content hash for an event".
func (v Version) ContentHash(ev map[string]any) ([32]byte, error) {
	return hash(ev, "unsigned", "signatures", "hashes", "age_ts", "outlier", "destinations")
}

// CheckContentHash compares hashes.sha256 with the content; [ErrContentHash] when
// they differ or there is none. That is how a redacted event looks, too: its content
// is gone and its hash remains.
func (v Version) CheckContentHash(ev map[string]any) error {
	hashes, _ := ev["hashes"].(map[string]any)
	text, _ := hashes["sha256"].(string)
	want, err := decode64(text)
	if err != nil || text == "" {
		return fmt.Errorf("%w: hashes.sha256 is missing or not base64", ErrContentHash)
	}
	got, err := v.ContentHash(ev)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got[:]) {
		return ErrContentHash
	}
	return nil
}

// ReferenceHash is the SHA-256 over the redacted event without its signatures: what
// an event id is made of from version 3 on.
// Source: Matrix specification, server-server API, "Calculating the reference hash for an event".
func (v Version) ReferenceHash(ev map[string]any) ([32]byte, error) {
	signed, err := v.Signed(ev)
	return sha256.Sum256(signed), err
}

// EventID gives the id of the event: from its key event_id in versions 1 and 2,
// recomputed in all others. Errors are [ErrNoID] or [ErrCanonical].
func (v Version) EventID(ev map[string]any) (string, error) {
	if v.IDFormat == IDInEvent {
		id, _ := ev["event_id"].(string)
		if !strings.HasPrefix(id, "$") {
			return "", ErrNoID
		}
		return id, nil
	}
	signed, err := v.Signed(ev)
	if err != nil {
		return "", err
	}
	return v.EventIDOf(ev, signed)
}

// EventIDOf is [Version.EventID] for who has what [Version.Signed] gives already.
func (v Version) EventIDOf(ev map[string]any, signed []byte) (string, error) {
	if v.IDFormat == IDInEvent {
		return v.EventID(ev)
	}
	sum := sha256.Sum256(signed)
	if v.IDFormat == IDBase64 {
		return "$" + base64.RawStdEncoding.EncodeToString(sum[:]), nil
	}
	return "$" + base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// RoomID gives the room that the event says it is in: its key room_id, and for the
// create event of a version whose room ids are hashes what follows from its id.
func (v Version) RoomID(ev map[string]any) (string, error) {
	if v.RoomIDIsHash && isCreate(ev) {
		id, err := v.EventID(ev)
		if err != nil {
			return "", err
		}
		return "!" + strings.TrimPrefix(id, "$"), nil
	}
	id, _ := ev["room_id"].(string)
	if id == "" {
		return "", errors.New("the event has no room_id")
	}
	return id, nil
}

// CheckSignature checks the signature of a server with one of its keys ("ed25519:a").
// Errors are [ErrNoSignature] and [ErrSignature]. A redaction does not break it.
func (v Version) CheckSignature(ev map[string]any, server, keyID string, key ed25519.PublicKey) error {
	bySource, _ := ev["signatures"].(map[string]any)
	keys, _ := bySource[server].(map[string]any)
	text, ok := keys[keyID].(string)
	if !ok {
		return fmt.Errorf("%w: %s of %s", ErrNoSignature, keyID, server)
	}
	sig, err := decode64(text)
	if err != nil {
		return fmt.Errorf("%w: not base64", ErrSignature)
	}
	msg, err := v.Signed(ev)
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, msg, sig) {
		return fmt.Errorf("%w: %s of %s", ErrSignature, keyID, server)
	}
	return nil
}

// Sign gives a signature over the event as it is after a redaction, in unpadded
// base64. It is for test vectors and for servers that make events; nothing in an
// archive is ever signed again.
func (v Version) Sign(ev map[string]any, key ed25519.PrivateKey) (string, error) {
	msg, err := v.Signed(ev)
	if err != nil {
		return "", err
	}
	return base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, msg)), nil
}

// Signed gives what signatures cover, and from version 3 on also what the event's id is the
// hash of: the canonical JSON of the redacted event without its signatures.
func (v Version) Signed(ev map[string]any) ([]byte, error) {
	return appendObject(make([]byte, 0, usual), v.Redact(ev), 1, "signatures", "unsigned", "age_ts")
}

// References gives the ids that the event names in the key "prev_events" or
// "auth_events". In versions 1 and 2 each is a pair of id and hashes.
func References(ev map[string]any, key string) []string {
	list, _ := ev[key].([]any)
	ids := make([]string, 0, len(list))
	for _, e := range list {
		switch x := e.(type) {
		case string:
			ids = append(ids, x)
		case []any:
			if len(x) > 0 {
				if id, ok := x[0].(string); ok {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}

func hash(ev map[string]any, drop ...string) ([32]byte, error) {
	b, err := appendObject(make([]byte, 0, usual), ev, 1, drop...)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// decode64 reads base64 in either alphabet, with or without padding.
func decode64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}
