package homeserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// keyring holds what a device made: the keys by which others know it, and how many
// one-time keys it has given away names for. The server never looks inside a
// curve25519 key, so those are random bytes; signatures are real.
type keyring struct {
	mu       sync.Mutex
	device   ed25519.PrivateKey
	identity string
	made     int
}

// b64 is Matrix' unpadded base64.
func b64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

func random32() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b64(b)
}

// canonical is Matrix' canonical JSON of what has only strings and whole numbers:
// keys sorted, nothing escaped without need.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// sign adds a signature of the object, without its signatures and unsigned.
func sign(object map[string]any, user, keyID string, key ed25519.PrivateKey) error {
	bare := maps.Clone(object)
	delete(bare, "signatures")
	delete(bare, "unsigned")
	text, err := canonical(bare)
	if err != nil {
		return err
	}
	all, _ := object["signatures"].(map[string]any)
	if all == nil {
		all = map[string]any{}
		object["signatures"] = all
	}
	own, _ := all[user].(map[string]any)
	if own == nil {
		own = map[string]any{}
		all[user] = own
	}
	own[keyID] = b64(ed25519.Sign(key, text))
	return nil
}

// deviceKeys is the signed object that UploadKeys publishes. Called under mu.
func (c *Client) deviceKeys() (map[string]any, error) {
	k := c.keys
	if k.device == nil {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		k.device, k.identity = key, random32()
	}
	object := map[string]any{
		"user_id": c.UserID, "device_id": c.DeviceID,
		"algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": map[string]any{
			"curve25519:" + c.DeviceID: k.identity, "ed25519:" + c.DeviceID: b64(k.device.Public().(ed25519.PublicKey)),
		},
	}
	return object, sign(object, c.UserID, "ed25519:"+c.DeviceID, k.device)
}

// UploadKeys publishes the device's keys, n new one-time keys and, if wanted, a
// fallback key. It gives the count of one-time keys that the server holds now. No
// one-time key's name is used twice by a device.
func (c *Client) UploadKeys(ctx context.Context, n int, fallback bool) (int, error) {
	c.keys.mu.Lock()
	device, err := c.deviceKeys()
	if err != nil {
		c.keys.mu.Unlock()
		return 0, err
	}
	signed := func(object map[string]any) (id string, err error) {
		c.keys.made++
		object["key"] = random32()
		id = fmt.Sprintf("signed_curve25519:AAAA%06d", c.keys.made)
		return id, sign(object, c.UserID, "ed25519:"+c.DeviceID, c.keys.device)
	}
	oneTime, last := map[string]any{}, map[string]any{}
	for range n {
		object := map[string]any{}
		id, err := signed(object)
		if err != nil {
			c.keys.mu.Unlock()
			return 0, err
		}
		oneTime[id] = object
	}
	if fallback {
		object := map[string]any{"fallback": true}
		id, err := signed(object)
		if err != nil {
			c.keys.mu.Unlock()
			return 0, err
		}
		last[id] = object
	}
	c.keys.mu.Unlock()
	var a struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	body := map[string]any{"device_keys": device, "one_time_keys": oneTime, "fallback_keys": last}
	err = c.Do(ctx, http.MethodPost, clientV3+"/keys/upload", body, &a)
	return a.Counts["signed_curve25519"], err
}

// Claimed is a one-time or fallback key that was handed out.
type Claimed struct {
	User, Device string
	ID           string // "signed_curve25519:NAME"
	Key          string // the public key itself
	Fallback     bool
}

// ClaimKeys takes one key of each device named, user id → device ids. A device that
// has none is missing in the answer, which is ordered by user and device.
func (c *Client) ClaimKeys(ctx context.Context, devices map[string][]string) ([]Claimed, error) {
	want := map[string]map[string]string{}
	for user, ids := range devices {
		want[user] = map[string]string{}
		for _, id := range ids {
			want[user][id] = "signed_curve25519"
		}
	}
	var a struct {
		Keys map[string]map[string]map[string]struct {
			Key      string `json:"key"`
			Fallback bool   `json:"fallback"`
		} `json:"one_time_keys"`
	}
	if err := c.Do(ctx, http.MethodPost, clientV3+"/keys/claim", map[string]any{"one_time_keys": want}, &a); err != nil {
		return nil, err
	}
	var all []Claimed
	for user, byDevice := range a.Keys {
		for device, byID := range byDevice {
			for id, k := range byID {
				all = append(all, Claimed{User: user, Device: device, ID: id, Key: k.Key, Fallback: k.Fallback})
			}
		}
	}
	slices.SortFunc(all, func(x, y Claimed) int { return strings.Compare(x.User+"\x00"+x.Device, y.User+"\x00"+y.Device) })
	return all, nil
}

// PublicKeys is the answer to a query.
type PublicKeys struct {
	Devices     map[string]map[string]map[string]any `json:"device_keys"` // user → device → object
	Master      map[string]map[string]any            `json:"master_keys"`
	SelfSigning map[string]map[string]any            `json:"self_signing_keys"`
	UserSigning map[string]map[string]any            `json:"user_signing_keys"` // the asker's only
	Failures    map[string]any                       `json:"failures"`
}

// QueryKeys gives the device and cross-signing keys of users.
func (c *Client) QueryKeys(ctx context.Context, users ...string) (*PublicKeys, error) {
	want := map[string]any{}
	for _, u := range users {
		want[u] = []string{}
	}
	a := &PublicKeys{}
	return a, c.Do(ctx, http.MethodPost, clientV3+"/keys/query", map[string]any{"device_keys": want}, a)
}

// KeyChanges gives the users whose keys changed between two sync tokens.
func (c *Client) KeyChanges(ctx context.Context, from, to string) ([]string, error) {
	var a struct {
		Changed []string `json:"changed"`
	}
	err := c.Do(ctx, http.MethodGet, clientV3+"/keys/changes?"+url.Values{"from": {from}, "to": {to}}.Encode(), nil, &a)
	return a.Changed, err
}

// ToDevice sends a message to devices, user id → device id → content; the device
// "*" is all of a user's.
func (c *Client) ToDevice(ctx context.Context, kind string, messages map[string]map[string]any) error {
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/sendToDevice", kind, c.Txn()), map[string]any{"messages": messages}, nil)
}

// CrossSign makes the user's three cross-signing keys, uploads them with the
// password, and signs this device by them; the device's keys must be uploaded.
func (c *Client) CrossSign(ctx context.Context) error {
	var keys [3]ed25519.PrivateKey
	objects := map[string]any{}
	var master string
	for i, usage := range []string{"master", "self_signing", "user_signing"} {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return err
		}
		keys[i] = private
		object := map[string]any{"user_id": c.UserID, "usage": []string{usage}, "keys": map[string]any{"ed25519:" + b64(public): b64(public)}}
		if i == 0 {
			master = "ed25519:" + b64(public)
		} else if err := sign(object, c.UserID, master, keys[0]); err != nil {
			return err
		}
		objects[usage+"_key"] = object
	}
	if err := c.confirmed(ctx, clientV3+"/keys/device_signing/upload", objects); err != nil {
		return err
	}
	c.keys.mu.Lock()
	device, err := c.deviceKeys()
	c.keys.mu.Unlock()
	if err != nil {
		return err
	}
	delete(device, "signatures")
	self := "ed25519:" + b64(keys[1].Public().(ed25519.PublicKey))
	if err := sign(device, c.UserID, self, keys[1]); err != nil {
		return err
	}
	var a struct {
		Failures map[string]any `json:"failures"`
	}
	body := map[string]any{c.UserID: map[string]any{c.DeviceID: device}}
	if err := c.Do(ctx, http.MethodPost, clientV3+"/keys/signatures/upload", body, &a); err != nil {
		return err
	}
	if len(a.Failures) > 0 {
		return fmt.Errorf("upload signatures: %v", a.Failures)
	}
	return nil
}

// confirmed posts what the server wants the password for (user-interactive
// authentication): at once, since it accepts that without a session.
func (c *Client) confirmed(ctx context.Context, path string, body map[string]any) error {
	body = maps.Clone(body)
	body["auth"] = map[string]any{
		"type": "m.login.password", "password": c.Password, "identifier": map[string]any{"type": "m.id.user", "user": c.UserID},
	}
	return c.Do(ctx, http.MethodPost, path, body, nil)
}

// NewKeyBackup begins a key backup on the server and gives its version.
func (c *Client) NewKeyBackup(ctx context.Context) (string, error) {
	var a struct {
		Version string `json:"version"`
	}
	body := map[string]any{
		"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]any{"public_key": random32(), "signatures": map[string]any{}},
	}
	err := c.Do(ctx, http.MethodPost, clientV3+"/room_keys/version", body, &a)
	return a.Version, err
}

// BackUpKey stores a session of a room in the key backup.
func (c *Client) BackUpKey(ctx context.Context, version, room, session, data string) error {
	body := map[string]any{
		"first_message_index": 0, "forwarded_count": 0, "is_verified": true,
		"session_data": map[string]any{"ciphertext": data, "ephemeral": random32(), "mac": random32()},
	}
	return c.Do(ctx, http.MethodPut, Path(clientV3+"/room_keys/keys", room, session)+"?version="+version, body, nil)
}

// KeyBackup gives the data of the sessions in the backup, by room and session.
func (c *Client) KeyBackup(ctx context.Context, version string) (map[string]map[string]string, error) {
	var a struct {
		Rooms map[string]struct {
			Sessions map[string]struct {
				Data struct {
					Ciphertext string `json:"ciphertext"`
				} `json:"session_data"`
			} `json:"sessions"`
		} `json:"rooms"`
	}
	if err := c.Do(ctx, http.MethodGet, clientV3+"/room_keys/keys?version="+version, nil, &a); err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	for room, r := range a.Rooms {
		all[room] = map[string]string{}
		for id, s := range r.Sessions {
			all[room][id] = s.Data.Ciphertext
		}
	}
	return all, nil
}

// Encrypted sends what looks like an encrypted message; nobody can read it.
func (c *Client) Encrypted(ctx context.Context, room string) (string, error) {
	n := strconv.FormatInt(c.txn.Load(), 10)
	return c.Send(ctx, room, "m.room.encrypted", map[string]any{
		"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": random32() + n, "device_id": c.DeviceID, "sender_key": random32(), "session_id": random32(),
	})
}
