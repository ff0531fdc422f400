package mspf

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/mspf/event"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seq[T any](list ...T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, v := range list {
			if !yield(v, nil) {
				return
			}
		}
	}
}

const testServer = "example.org"

func testKey() ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// world is a small server: a room of every version with a few events, and what else
// there is to archive. Everything in it is made from its numbers alone.
type world struct {
	t      testing.TB
	rooms  []Room
	events []Event
	order  int64
}

// send adds an event to a room and gives its id.
func (w *world) send(version, room string, fields map[string]any, content string, prev, auth []string) string {
	w.t.Helper()
	v, _ := event.Lookup(version)
	w.order++
	ev := map[string]any{
		"room_id": room, "sender": "@a:example.org", "origin_server_ts": 1_700_000_000_000 + w.order, "depth": w.order,
		"prev_events": w.refs(v, prev), "auth_events": w.refs(v, auth), "content": json.RawMessage(content),
	}
	if v.IDFormat == event.IDInEvent {
		ev["event_id"] = fmt.Sprintf("$e%d:example.org", w.order)
	}
	maps.Copy(ev, fields)
	if v.RoomIDIsHash && ev["type"] == "m.room.create" {
		delete(ev, "room_id")
	}
	tree := w.parse(ev)
	sum, err := v.ContentHash(tree)
	must(w.t, err)
	tree["hashes"] = map[string]any{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	sig, err := v.Sign(tree, testKey())
	must(w.t, err)
	ev["hashes"], ev["signatures"] = tree["hashes"], map[string]any{testServer: map[string]any{"ed25519:a_1": sig}}
	id, err := v.EventID(tree)
	must(w.t, err)
	ev["unsigned"] = map[string]any{"age_ts": 1}
	if room == "" {
		room = "!" + id[1:]
	}
	text, err := json.Marshal(ev)
	must(w.t, err)
	w.events = append(w.events, Event{Room: room, JSON: text, Meta: EventMeta{EventID: id, StreamOrdering: w.order, ReceivedTS: 1_700_000_000_000 + w.order}})
	return id
}

func (w *world) parse(ev map[string]any) map[string]any {
	text, err := json.Marshal(ev)
	must(w.t, err)
	tree, _, err := event.Parse(text)
	must(w.t, err)
	return tree
}

func (w *world) refs(v event.Version, ids []string) []any {
	list := []any{}
	for _, id := range ids {
		if v.IDFormat == event.IDInEvent {
			list = append(list, []any{id, map[string]any{"sha256": "x"}})
		} else {
			list = append(list, id)
		}
	}
	return list
}

// room is a room of a version with a create event, a member and two messages.
func (w *world) room(version string) (room, last string) {
	room = "!v" + version + ":example.org"
	if version == "12" {
		room = ""
	}
	create := w.send(version, room, map[string]any{"type": "m.room.create", "state_key": ""}, `{"creator":"@a:example.org","room_version":"`+version+`"}`, nil, nil)
	auth := []string{create}
	if room == "" {
		room, auth = "!"+create[1:], nil
	}
	member := w.send(version, room, map[string]any{"type": "m.room.member", "state_key": "@a:example.org"}, `{"membership":"join","displayname":"Ä"}`, []string{create}, auth)
	auth = append(auth, member)
	m1 := w.send(version, room, map[string]any{"type": "m.room.message"}, `{"body":"first of version `+version+`","msgtype":"m.text"}`, []string{member}, auth)
	last = w.send(version, room, map[string]any{"type": "m.room.message"}, `{"body":"second","msgtype":"m.text"}`, []string{m1}, auth)
	w.rooms = append(w.rooms, Room{ID: room, Version: version, Aliases: []string{}})
	return room, last
}

func newWorld(t testing.TB, versions ...string) *world {
	w := &world{t: t}
	for _, v := range versions {
		w.room(v)
	}
	return w
}

// contents is the world with everything else that an archive can hold.
func (w *world) contents() Contents {
	slices.SortFunc(w.rooms, func(a, b Room) int { return keyLess(a.ID, b.ID) })
	name, pub := "phone", testKey().Public().(ed25519.PublicKey)
	key64 := base64.RawStdEncoding.EncodeToString(pub)
	var details []RoomDetails
	for _, r := range w.rooms {
		details = append(details, RoomDetails{ID: r.ID, Creator: "@a:example.org", Public: true, Members: map[string]Membership{"@a:example.org": {Membership: "join"}}})
	}
	user := func(id string) User {
		return User{ID: id, PasswordHash: "$2b$12$abc", CreatedAt: 1_600_000_000, RoomTags: map[string]map[string]any{"!v1:example.org": {"m.favourite": map[string]any{"order": 0.5}}}, Devices: map[string]Device{"PHONE": {DisplayName: &name}, "LAPTOP": {}}}
	}
	return Contents{
		Core: Core{ServerName: testServer, SigningKey: "ed25519 a_1 " + base64.RawStdEncoding.EncodeToString(testKey().Seed())},
		Archive: Archive{
			Tool: "test", ToolVersion: "1", Source: Source{Software: "synapse", Version: "1.163.2", Schema: 94}, ServerName: testServer,
			Point: Point{LSN: "0/16B3748", Timeline: 1, Time: 1_700_000_100_000}, EventOrder: "dag", Redaction: "applied", Media: "none",
		},
		Server:   &Server{VerifyKeys: map[string]string{"ed25519:a_1": key64}, OldVerifyKeys: map[string]OldKey{"ed25519:a_0": {Key: key64, ExpiredTS: 5}}, StreamFloors: map[string]int64{"events": 99}},
		Rooms:    seq(w.rooms...),
		Details:  seq(details...),
		States:   seq[RoomState](),
		Invites:  seq(Invite{Room: "!elsewhere:example.com", Version: "10", User: "@a:example.org", Event: map[string]any{"type": "m.room.member"}, State: []any{map[string]any{"type": "m.room.name"}}, Via: []string{"example.com"}}),
		Events:   seq(w.events...),
		Users:    seq(user("@a:example.org"), user("@b:example.org")),
		Profiles: seq(UserDetails{ID: "@a:example.org", Profile: map[string]any{"displayname": "Ä"}, AccountData: AccountData{Global: map[string]any{"m.direct": map[string]any{}}}, Status: UserStatus{Admin: true}, Password: &Password{Scheme: "bcrypt", Peppered: true, Normalization: "NFKC", MaxBytes: 72}, Receipts: []Receipt{{Room: "!v1:example.org", Type: "m.read", Event: "$e4:example.org"}}}),
		Keys: seq(
			Keys{User: "@a:example.org", DeviceKeys: map[string]any{"PHONE": map[string]any{"algorithms": []any{"m.olm.v1"}}}, FallbackKeys: map[string]map[string]any{"PHONE": {"signed_curve25519:AAAA": map[string]any{"key": "k", "fallback": true}}}, CrossSigning: map[string]any{"master": map[string]any{}}, Signatures: []Signature{{"ed25519:x", "@b:example.org", "LAPTOP", "sig"}}, Backups: map[string]Backup{"1": {Algorithm: "m.megolm_backup.v1", AuthData: map[string]any{}, Etag: "3", Rooms: map[string]map[string]any{"!v1:example.org": {"s1": map[string]any{"is_verified": true}}}}}},
			Keys{User: "@a:example.org", Backups: map[string]Backup{"1": {Rooms: map[string]map[string]any{"!v1:example.org": {"s2": map[string]any{"is_verified": false}}}}}},
		),
		ToDevice: seq(ToDevice{"@a:example.org", "PHONE", map[string]any{"sender": "@b:example.org", "type": "m.room.encrypted", "content": map[string]any{"n": 1}}}, ToDevice{"@a:example.org", "PHONE", map[string]any{"sender": "@b:example.org", "type": "m.room.encrypted", "content": map[string]any{"n": 2}, "message_id": "x"}}),
		Database: &Database{
			Software: "synapse", Schema: 94, DDL: []string{"CREATE TABLE users (name text)"}, DDLAfter: []string{"CREATE UNIQUE INDEX users_name ON users (name)"},
			Tables: []DatabaseTable{{Name: "users", Columns: []string{"name"}}}, Sequences: map[string]SequenceState{"s": {Last: 7, Called: true}},
		},
		Rows: seq(Row{"users", []byte("@a:example.org")}, Row{"users", []byte(`@b:example.org\tx`)}),
		Losses: func() []Loss {
			return []Loss{{Item: "im.lifeboat.media", Code: "media", State: Unsupported, Count: 3, Reason: "media are not in the archive yet"}}
		},
	}
}

var allVersions = []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}

func plain() WriteOptions { return WriteOptions{Plaintext: true} }

// written writes a sample of every room version into a temporary file of that name.
func written(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	_, err := Write(t.Context(), path, newWorld(t, allVersions...).contents(), plain())
	must(t, err)
	ask(t, path, true)
	return path
}

func mustVerify(t testing.TB, path string, o ReadOptions) *Verdict {
	t.Helper()
	v, err := Verify(t.Context(), path, o)
	must(t, err)
	for _, f := range v.Findings {
		t.Errorf("%s: %s (%d): %s", f.Code, f.Text, f.Count, strings.Join(f.First, "; "))
	}
	return v
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}
