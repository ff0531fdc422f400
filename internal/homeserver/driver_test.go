package homeserver

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"slices"
	"testing"
)

// TestDriver holds the server's answers against what the driver says that it did,
// one call of each kind.
func TestDriver(t *testing.T) {
	s := boot(t, options(t))
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	alice, err := s.Register(ctx, "alice", "a secret", true)
	must("register", err)
	bob, err := s.Register(ctx, "bob", "another", false)
	must("register", err)
	room, err := alice.CreateRoom(ctx, Room{Name: "hall", Invite: []string{bob.UserID}, Alias: "hall"})
	must("create", err)
	_, err = bob.Join(ctx, "#hall:localhost")
	must("join", err)

	t.Run("room", func(t *testing.T) { checkRoom(ctx, t, alice, bob, room) })
	t.Run("account", func(t *testing.T) { checkAccount(ctx, t, alice, room) })
	t.Run("keys", func(t *testing.T) { checkKeys(ctx, t, alice, bob, room) })
	for _, line := range append(s.Faults(), s.Errors()...) {
		t.Error(line)
	}
}

func checkRoom(ctx context.Context, t *testing.T, alice, bob *Client, room string) {
	first, err := alice.Say(ctx, room, "first")
	if err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func() (string, error){
		"edit":   func() (string, error) { return alice.Edit(ctx, room, first, "better") },
		"react":  func() (string, error) { return bob.React(ctx, room, first, "👍") },
		"thread": func() (string, error) { return bob.Thread(ctx, room, first, "more") },
		"state": func() (string, error) {
			return alice.SendState(ctx, room, "m.room.topic", "", map[string]any{"topic": "t"})
		},
		"encrypted": func() (string, error) { return bob.Encrypted(ctx, room) },
	} {
		if _, err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"receipt": bob.Receipt(ctx, room, "m.read", first, "main"), "markers": bob.ReadMarkers(ctx, room, first), "typing": bob.Typing(ctx, room),
		"alias": alice.SetAlias(ctx, "#two:localhost", room),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for relation, n := range map[string]int{"": 3, "m.replace": 1, "m.annotation": 1, "m.thread": 1} {
		if r, err := alice.Relations(ctx, room, first, relation); err != nil || len(r) != n {
			t.Errorf("%d relations %q, want %d: %v", len(r), relation, n, err)
		}
	}
	if r, err := alice.Threads(ctx, room); err != nil || len(r) != 1 || r[0].EventID != first {
		t.Errorf("threads: %v, %v", r, err)
	}
	if r, err := alice.Members(ctx, room); err != nil || len(r) != 2 {
		t.Errorf("members: %v, %v", r, err)
	}
	if id, err := bob.Alias(ctx, "#two:localhost"); err != nil || id != room {
		t.Errorf("alias: %s, %v", id, err)
	}
	if _, err := bob.Context(ctx, room, first); err != nil {
		t.Errorf("context: %v", err)
	}
	if n, err := alice.Search(ctx, "better"); err != nil || n == 0 {
		t.Errorf("search found %d: %v", n, err)
	}
	if _, err := alice.Redact(ctx, room, first, "why not"); err != nil {
		t.Errorf("redact: %v", err)
	}
	if e, err := alice.Event(ctx, room, first); err != nil || e.Body() != "" {
		t.Errorf("the redacted event has the text %q: %v", e.Body(), err)
	}
	last, err := alice.Say(ctx, room, "the last")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.PurgeHistory(ctx, room, last); err != nil {
		t.Errorf("purge: %v", err)
	}
	if _, err := alice.Event(ctx, room, first); Code(err) != "M_NOT_FOUND" {
		t.Errorf("a purged event answers %v", err)
	}
}

func checkAccount(ctx context.Context, t *testing.T, alice *Client, room string) {
	for what, err := range map[string]error{
		"profile": alice.SetProfile(ctx, "displayname", "Alice"), "data": alice.SetAccountData(ctx, "", "im.test", map[string]any{"n": 1}),
		"room data": alice.SetAccountData(ctx, room, "im.test", map[string]any{"n": 2}), "ignore": alice.Ignore(ctx, "@troll:localhost"),
		"tag": alice.SetTag(ctx, room, "m.favourite", 0.5), "rule": alice.SetPushRule(ctx, "cake", "cake"),
		"pusher": alice.SetPusher(ctx, "key", "http://127.0.0.1:9/_matrix/push/v1/notify"), "presence": alice.Presence(ctx, "online", "here"),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if p, err := alice.Profile(ctx, alice.UserID); err != nil || p["displayname"] != "Alice" {
		t.Errorf("profile: %v, %v", p, err)
	}
	for of, n := range map[string]float64{"": 1, room: 2} {
		if d, err := alice.AccountData(ctx, of, "im.test"); err != nil || d["n"] != n {
			t.Errorf("account data: %v, %v", d, err)
		}
	}
	if all, err := alice.Tags(ctx, room); err != nil || !slices.Equal(all, []string{"m.favourite"}) {
		t.Errorf("tags: %v, %v", all, err)
	}
	if all, err := alice.Pushers(ctx); err != nil || !slices.Equal(all, []string{"key"}) {
		t.Errorf("pushers: %v, %v", all, err)
	}
	id, err := alice.AddFilter(ctx, map[string]any{"room": map[string]any{"timeline": map[string]any{"limit": 3}}})
	if err != nil {
		t.Errorf("filter: %v", err)
	}
	if f, err := alice.Filter(ctx, id); err != nil || f["room"] == nil {
		t.Errorf("filter: %v, %v", f, err)
	}
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 200, 100))); err != nil {
		t.Fatal(err)
	}
	mxc, err := alice.Upload(ctx, "a.png", "image/png", picture.Bytes())
	if err != nil {
		t.Fatalf("upload: %v", err)
	}
	if b, err := alice.Download(ctx, mxc); err != nil || !bytes.Equal(b, picture.Bytes()) {
		t.Errorf("download gave %d bytes: %v", len(b), err)
	}
	if b, err := alice.Thumbnail(ctx, mxc, 96); err != nil || len(b) == 0 {
		t.Errorf("thumbnail gave %d bytes: %v", len(b), err)
	}
}

func checkKeys(ctx context.Context, t *testing.T, alice, bob *Client, room string) {
	before, err := bob.Sync(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := alice.UploadKeys(ctx, 5, true); err != nil || n != 5 {
		t.Fatalf("upload: %d, %v", n, err)
	}
	if err := alice.CrossSign(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := bob.Sync(ctx, before.Next, 0)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := bob.KeyChanges(ctx, before.Next, after.Next); err != nil || !slices.Contains(who, alice.UserID) {
		t.Errorf("changes: %v, %v", who, err)
	}
	all, err := bob.QueryKeys(ctx, alice.UserID)
	if err != nil || all.Devices[alice.UserID][alice.DeviceID] == nil || all.Master[alice.UserID] == nil || all.SelfSigning[alice.UserID] == nil {
		t.Errorf("query: %+v, %v", all, err)
	}
	signatures, _ := all.Devices[alice.UserID][alice.DeviceID]["signatures"].(map[string]any)
	if own, _ := signatures[alice.UserID].(map[string]any); len(own) != 2 {
		t.Errorf("the device is signed by %v, want itself and the self-signing key", own)
	}
	seen := map[string]bool{}
	for i := range 6 {
		got, err := bob.ClaimKeys(ctx, map[string][]string{alice.UserID: {alice.DeviceID}})
		if err != nil || len(got) != 1 || seen[got[0].Key] || got[0].Fallback != (i == 5) {
			t.Fatalf("claim %d: %+v, %v", i, got, err)
		}
		seen[got[0].Key] = true
	}
	if err := bob.ToDevice(ctx, "im.test", map[string]map[string]any{alice.UserID: {"*": map[string]any{"n": 1}}}); err != nil {
		t.Fatal(err)
	}
	u, err := alice.Sync(ctx, "", 0)
	if err != nil || len(u.ToDevice.Events) != 1 || u.OneTimeKeys["signed_curve25519"] != 0 {
		t.Errorf("sync: %+v, %v", u, err)
	}
	version, err := alice.NewKeyBackup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.BackUpKey(ctx, version, room, "session", "data"); err != nil {
		t.Error(err)
	}
	if b, err := alice.KeyBackup(ctx, version); err != nil || b[room]["session"] != "data" {
		t.Errorf("backup: %v, %v", b, err)
	}
}
