package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// town is who lives on the homeserver, what they have said, and what must be there
// again after the accident.
type town struct {
	admin   *homeserver.Client
	people  []*homeserver.Client
	offline *homeserver.Client // a second device of the first, which never syncs
	square  string             // the room that will be deleted
	rooms   []string           // the others
	secret  string             // an encrypted one
	thread  string             // root of a thread in the square
	media   map[string][]byte  // mxc:// address to bytes

	mu     sync.RWMutex // held for writing while the square is closed
	closed bool
	said   atomic.Int64
	talk   context.CancelFunc
	talked *errgroup.Group
}

func names() []string { return []string{"alice", "bob", "carol", "dave", "erin", "frank"} }

// settle registers everybody and makes the rooms.
func (t *town) settle(ctx context.Context, s *homeserver.Server) error {
	var err error
	if t.admin, err = s.Register(ctx, "admin", "admin's password", true); err != nil {
		return err
	}
	var ids []string
	for _, n := range names() {
		c, err := s.Register(ctx, n, n+"'s password", false)
		if err != nil {
			return err
		}
		t.people, ids = append(t.people, c), append(ids, c.UserID)
	}
	alice := t.people[0]
	if t.offline, err = s.Login(ctx, "alice", "alice's password", "TABLET"); err != nil {
		return err
	}
	if t.square, err = alice.CreateRoom(ctx, homeserver.Room{Name: "Town square", Alias: "square", Public: true}); err != nil {
		return err
	}
	for _, n := range []string{"Harbour", "Lighthouse", "Weather"} {
		id, err := alice.CreateRoom(ctx, homeserver.Room{Name: n, Alias: strings.ToLower(n), Public: true})
		if err != nil {
			return err
		}
		t.rooms = append(t.rooms, id)
	}
	t.secret, err = alice.CreateRoom(ctx, homeserver.Room{Name: "Smugglers", Encrypted: true, Invite: ids[1:3]})
	if err != nil {
		return err
	}
	for i, c := range t.people[1:] {
		rooms := append([]string{t.square}, t.rooms...)
		if i < 2 {
			rooms = append(rooms, t.secret)
		}
		for _, r := range rooms {
			if err := c.Do(ctx, http.MethodPost, homeserver.Path("/_matrix/client/v3/rooms", r, "join"), nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// keys gives the devices of the encrypted room their keys, and leaves messages for
// the device that is offline.
func (t *town) keys(ctx context.Context) error {
	for _, c := range append(slices.Clone(t.people[:3]), t.offline) {
		if err := uploadKeys(ctx, c); err != nil {
			return fmt.Errorf("keys of %s: %w", c.DeviceID, err)
		}
	}
	for i := range 5 {
		c := t.people[1]
		body := map[string]any{"messages": map[string]any{t.offline.UserID: map[string]any{t.offline.DeviceID: map[string]any{
			"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": opaque(32), "n": i,
			"ciphertext": map[string]any{opaque(32): map[string]any{"type": 0, "body": opaque(200)}},
		}}}}
		path := homeserver.Path("/_matrix/client/v3/sendToDevice", "m.room.encrypted", c.Txn())
		if err := c.Do(ctx, http.MethodPut, path, body, nil); err != nil {
			return err
		}
	}
	return nil
}

// uploadKeys publishes a device's identity, signed as clients do (appendix "Signing
// JSON" of the Matrix specification), twenty one-time keys and a fallback key.
func uploadKeys(ctx context.Context, c *homeserver.Client) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	sign := func(m map[string]any) map[string]any {
		text, _ := json.Marshal(m) // sorted keys, no spaces: canonical for what is in here
		m["signatures"] = map[string]any{c.UserID: map[string]any{
			"ed25519:" + c.DeviceID: base64.RawStdEncoding.EncodeToString(ed25519.Sign(private, text)),
		}}
		return m
	}
	once := map[string]any{}
	for i := range 20 {
		once[fmt.Sprintf("signed_curve25519:AAAA%02d", i)] = sign(map[string]any{"key": opaque(32)})
	}
	body := map[string]any{
		"device_keys": sign(map[string]any{
			"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys": map[string]any{"ed25519:" + c.DeviceID: base64.RawStdEncoding.EncodeToString(public), "curve25519:" + c.DeviceID: opaque(32)},
		}),
		"one_time_keys": once,
		"fallback_keys": map[string]any{"signed_curve25519:AAAAFB": sign(map[string]any{"key": opaque(32), "fallback": true})},
	}
	return c.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/upload", body, nil)
}

// opaque stands for what only the clients can read.
func opaque(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return base64.RawStdEncoding.EncodeToString(b)
}

// chat fills the square with messages, three people at a time, and the rest of what
// people do.
func (t *town) chat(ctx context.Context, messages int) error {
	root, err := t.people[0].Say(ctx, t.square, "Shall we build a lifeboat?")
	if err != nil {
		return err
	}
	t.thread = root
	g, gctx := errgroup.WithContext(ctx)
	for i := range 3 {
		g.Go(func() error {
			for n := i; n < messages; n += 3 {
				if err := t.act(gctx, rand.New(rand.NewPCG(1, uint64(n))), t.people[n%len(t.people)], t.square); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range messages / 6 {
		c := t.people[rand.IntN(3)]
		_, err := c.Send(ctx, t.secret, "m.room.encrypted", map[string]any{
			"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": opaque(150), "session_id": opaque(32), "device_id": c.DeviceID, "sender_key": opaque(32),
		})
		if err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	return g.Wait()
}

// act does one thing in a room: mostly a message; or a reaction, an answer in the
// thread, a receipt.
func (t *town) act(ctx context.Context, r *rand.Rand, c *homeserver.Client, room string) error {
	relates := func(kind, to string) map[string]any {
		return map[string]any{"rel_type": kind, "event_id": to}
	}
	n := t.said.Add(1)
	text := fmt.Sprintf("Message %d: %s", n, sentence(r))
	switch k := r.IntN(10); {
	case k == 0 && room == t.square:
		rel := relates("m.thread", t.thread)
		_, err := c.Send(ctx, room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text, "m.relates_to": rel})
		return err
	case k == 1 && room == t.square:
		rel := relates("m.annotation", t.thread)
		rel["key"] = fmt.Sprint("👍", n)
		_, err := c.Send(ctx, room, "m.reaction", map[string]any{"m.relates_to": rel})
		return err
	}
	id, err := c.Say(ctx, room, text)
	if err != nil || r.IntN(5) > 0 {
		return err
	}
	return c.Do(ctx, http.MethodPost, homeserver.Path("/_matrix/client/v3/rooms", room, "receipt", "m.read", id), nil, nil)
}

func sentence(r *rand.Rand) string {
	words := strings.Fields("the boat wind harbour rope lantern rain tide keel signal drifts holds waits turns carries toward from under over near tonight again slowly home")
	var b strings.Builder
	for range 6 + r.IntN(12) {
		b.WriteString(words[r.IntN(len(words))] + " ")
	}
	return strings.TrimSpace(b.String())
}

// pictures uploads images and shows them in the square.
func (t *town) pictures(ctx context.Context, count int) error {
	t.media = map[string][]byte{}
	for i := range count {
		img := image.NewRGBA(image.Rect(0, 0, 320, 200))
		for p := range 320 * 200 {
			img.Set(p%320, p/320, color.RGBA{uint8(p * (i + 3)), uint8(p / 320), uint8(rand.Uint32()), 255})
		}
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			return err
		}
		var a struct {
			URI string `json:"content_uri"`
		}
		c := t.people[i%len(t.people)]
		if err := c.Do(ctx, http.MethodPost, "/_matrix/media/v3/upload?filename=boat.png", homeserver.Raw{Type: "image/png", Data: b.Bytes()}, &a); err != nil {
			return err
		}
		t.media[a.URI] = b.Bytes()
		if _, err := c.Send(ctx, t.square, "m.room.message", map[string]any{"msgtype": "m.image", "body": "boat.png", "url": a.URI}); err != nil {
			return err
		}
	}
	return nil
}

// begin lets everybody talk until hush: in the square as long as it is there.
func (t *town) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	t.talk, t.talked = cancel, new(errgroup.Group)
	for i, c := range t.people {
		r := rand.New(rand.NewPCG(2, uint64(i)))
		t.talked.Go(func() error {
			tick := time.NewTicker(400 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
				if err := t.speak(ctx, r, c); err != nil && ctx.Err() == nil {
					return err
				}
			}
		})
	}
}

func (t *town) speak(ctx context.Context, r *rand.Rand, c *homeserver.Client) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rooms := t.rooms
	if !t.closed {
		rooms = append([]string{t.square}, rooms...)
	}
	return t.act(ctx, r, c, rooms[r.IntN(len(rooms))])
}

// hush ends the talk and says what went wrong in it.
func (t *town) hush() error {
	if t.talk == nil {
		return nil
	}
	t.talk()
	return t.talked.Wait()
}

// memory is a room as a client sees it.
type memory struct {
	events  map[string]string // event id to sender, type and text
	texts   int               // messages among them
	hash    uint64
	replies int // in the thread
}

// recall reads a room through the client API, to its beginning.
func (t *town) recall(ctx context.Context, c *homeserver.Client, room string) (*memory, error) {
	events, err := c.Messages(ctx, room, 100_000)
	if err != nil {
		return nil, err
	}
	m := &memory{events: map[string]string{}}
	h := fnv.New64a()
	for _, e := range slices.Backward(events) {
		content, _ := json.Marshal(e.Content)
		m.events[e.EventID] = e.Sender + " " + e.Type + " " + string(content)
		if e.Type == "m.room.message" {
			m.texts++
		}
		fmt.Fprintln(h, e.EventID, e.Sender, e.Type, string(content))
	}
	m.hash = h.Sum64()
	if room != t.square {
		return m, nil
	}
	var page struct{ Chunk []homeserver.Event }
	path := homeserver.Path("/_matrix/client/v1/rooms", room, "relations", t.thread, "m.thread") + "?limit=1000"
	if err := c.Do(ctx, http.MethodGet, path, nil, &page); err != nil {
		return nil, err
	}
	m.replies = len(page.Chunk)
	return m, nil
}

// differs says what is not in have as it is in m; "" when nothing is.
func (m *memory) differs(have *memory) string {
	var missing, other int
	for id, e := range m.events {
		switch got, ok := have.events[id]; {
		case !ok:
			missing++
		case got != e:
			other++
		}
	}
	extra := len(have.events) - (len(m.events) - missing)
	if missing+other+extra == 0 && m.hash == have.hash && m.replies == have.replies {
		return ""
	}
	return fmt.Sprintf("%d of %d events are missing, %d differ, %d were not there; the thread has %d answers and had %d", missing, len(m.events), other, extra, have.replies, m.replies)
}
