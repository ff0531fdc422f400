//go:build goolm

package synapseproof

import (
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// person is a client with end-to-end encryption. Its keys, sessions and sync token
// are its own, as on a telephone: nothing tells it that its server went back.
type person struct {
	t      testing.TB
	api    *mautrix.Client
	crypto *crypto.OlmMachine
	rooms  *mautrix.MemoryStateStore
	since  string
	took   int // to-device messages of the last sync
}

// newPerson logs in on a device of its own and publishes its keys.
func newPerson(t testing.TB, url, user, password, device string) *person {
	t.Helper()
	p := &person{t: t, rooms: mautrix.NewMemoryStateStore().(*mautrix.MemoryStateStore)}
	var err error
	if p.api, err = mautrix.NewClient(url, "", ""); err != nil {
		t.Fatal(err)
	}
	_, err = p.api.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: user},
		Password: password, DeviceID: id.DeviceID(device), StoreCredentials: true,
	})
	if err != nil {
		t.Fatalf("%s logs in: %v", user, err)
	}
	p.crypto = crypto.NewOlmMachine(p.api, nil, crypto.NewMemoryStore(nil), p.rooms)
	if err := p.crypto.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.crypto.ShareKeys(t.Context(), 0); err != nil {
		t.Fatalf("%s publishes keys: %v", user, err)
	}
	// From now on the other devices of the user are watched, as those of friends are.
	if _, err := p.crypto.FetchKeys(t.Context(), []id.UserID{p.api.UserID}, true); err != nil {
		t.Fatalf("%s asks for the other devices: %v", user, err)
	}
	t.Cleanup(p.crypto.Destroy)
	return p
}

// moved tells the person that the server answers elsewhere now.
func (p *person) moved(url string) {
	p.t.Helper()
	u, err := mautrix.ParseAndNormalizeBaseURL(url)
	if err != nil {
		p.t.Fatal(err)
	}
	p.api.HomeserverURL = u
}

// sync takes what is new since the last one: to-device messages, changed devices,
// the count of one-time keys, and the rooms' events. It gives the texts, as take does.
func (p *person) sync() []string {
	p.t.Helper()
	resp, err := p.api.SyncRequest(p.t.Context(), 0, p.since, "", false, event.PresenceOffline)
	if err != nil {
		p.t.Fatalf("%s syncs: %v", p.api.UserID, err)
	}
	p.crypto.ProcessSyncResponse(p.t.Context(), resp, p.since)
	p.since, p.took = resp.NextBatch, len(resp.ToDevice.Events)
	var texts []string
	for room, joined := range resp.Rooms.Join {
		texts = append(texts, p.take(room, append(joined.State.Events, joined.Timeline.Events...))...)
	}
	return texts
}

// take updates what the person knows of the room and gives the texts in events; in
// place of one that cannot be read, the reason.
func (p *person) take(room id.RoomID, events []*event.Event) (texts []string) {
	p.t.Helper()
	for _, e := range events {
		e.RoomID = room
		if e.StateKey != nil {
			e.Type.Class = event.StateEventType
		} else {
			e.Type.Class = event.MessageEventType
		}
		if err := e.Content.ParseRaw(e.Type); err != nil && !errors.Is(err, event.ErrUnsupportedContentType) {
			p.t.Fatalf("event %s: %v", e.ID, err)
		}
		mautrix.UpdateStateStore(p.t.Context(), p.rooms, e)
		switch e.Type {
		case event.StateMember:
			p.crypto.HandleMemberEvent(p.t.Context(), e)
		case event.EventEncrypted:
			text, err := p.decrypt(e)
			if err != nil {
				text = fmt.Sprintf("(%s of %s: %v)", e.ID, e.Sender, err)
			}
			texts = append(texts, text)
		}
	}
	return texts
}

func (p *person) decrypt(e *event.Event) (string, error) {
	plain, err := p.crypto.DecryptMegolmEvent(p.t.Context(), e)
	if err != nil {
		return "", err
	}
	m, ok := plain.Content.Parsed.(*event.MessageEventContent)
	if !ok {
		return "", fmt.Errorf("it holds %s", plain.Type.Type)
	}
	return m.Body, nil
}

// say sends a text, encrypted for every device of every member; a room key that
// they do not have yet is given to them first.
func (p *person) say(room id.RoomID, text string) id.EventID {
	p.t.Helper()
	ctx := p.t.Context()
	if len(p.rooms.Members[room]) == 0 {
		p.t.Fatalf("%s knows no members of %s", p.api.UserID, room)
	}
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	sealed, err := p.crypto.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if crypto.IsShareError(err) {
		var members []id.UserID
		if members, err = p.rooms.GetRoomJoinedOrInvitedMembers(ctx, room); err != nil {
			p.t.Fatal(err)
		}
		if err := p.crypto.ShareGroupSession(ctx, room, members); err != nil {
			p.t.Fatalf("%s shares a room key: %v", p.api.UserID, err)
		}
		sealed, err = p.crypto.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	}
	if err != nil {
		p.t.Fatalf("%s encrypts: %v", p.api.UserID, err)
	}
	sent, err := p.api.SendMessageEvent(ctx, room, event.EventEncrypted, sealed)
	if err != nil {
		p.t.Fatalf("%s sends: %v", p.api.UserID, err)
	}
	return sent.EventID
}

// rotate forgets the room's key: the next message begins another session, whose
// key travels in to-device messages.
func (p *person) rotate(room id.RoomID) {
	p.t.Helper()
	if err := p.crypto.CryptoStore.RemoveOutboundGroupSession(p.t.Context(), room); err != nil {
		p.t.Fatal(err)
	}
}

// history gives every text of the room that the server has, oldest first, as take
// does.
func (p *person) history(room id.RoomID) (texts []string) {
	p.t.Helper()
	from := ""
	for {
		resp, err := p.api.Messages(p.t.Context(), room, from, "", mautrix.DirectionForward, nil, 100)
		if err != nil {
			p.t.Fatalf("%s reads the history: %v", p.api.UserID, err)
		}
		texts = append(texts, p.take(room, resp.Chunk)...)
		if resp.End == "" || len(resp.Chunk) == 0 {
			return texts
		}
		from = resp.End
	}
}

// oneTimeKeys gives how many of the device's keys the server still holds.
func (p *person) oneTimeKeys() int {
	p.t.Helper()
	resp, err := p.api.UploadKeys(p.t.Context(), &mautrix.ReqUploadKeys{})
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.OneTimeKeyCounts.SignedCurve25519
}
