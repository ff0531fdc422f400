//go:build goolm

package synapseproof

import (
	"slices"
	"testing"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// TestEncryptionAfterRollback: people who write to each other under end-to-end
// encryption do not notice that their server went back, but for what was written
// since. Old messages are read with the keys that they have; room keys still reach
// them; new devices still get one-time keys, and none that was given out before.
func TestEncryptionAfterRollback(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	for _, user := range []string{"alice", "bob", "carol"} {
		if _, err := l.server.Register(ctx, user, "the password of "+user, false); err != nil {
			t.Fatal(err)
		}
	}
	device := func(s *homeserver.Server, user, name string) *person {
		return newPerson(t, s.URL(), user, "the password of "+user, name)
	}
	alice, bob := device(l.server, "alice", "PHONE"), device(l.server, "bob", "LAPTOP")
	room := secretRoom(alice, bob)
	l.attach()
	k := l.start()
	l.ready()

	old := converse(room, []*person{alice, bob}, "one", "two", "three", "four")
	// A room key is on its way to bob when the point is taken: he has it soon, and is
	// given it again by the restored server.
	alice.rotate(room)
	alice.say(room, "five")
	old = append(old, "five")
	at := l.mark("before")

	lost := converse(room, []*person{bob, alice}, "six", "seven")
	bob.rotate(room)
	lost = append(lost, converse(room, []*person{bob, alice}, "eight", "nine")...)
	// A device that the restored server has never seen takes one-time keys of all.
	tablet := device(l.server, "bob", "TABLET")
	tablet.sync()
	alice.sync()
	bob.sync()
	tablet.rotate(room)
	lost = append(lost, converse(room, []*person{tablet, alice, bob}, "ten", "eleven", "twelve")...)
	l.mark("after")
	k.Stop(t)
	if err := l.server.Stop(ctx); err != nil {
		t.Fatal(err)
	}

	s := l.bootOn(l.restoreTo("lsn:"+at.String(), rollback).DSN)
	for _, p := range []*person{alice, bob, tablet} {
		p.moved(s.URL())
	}
	if _, err := tablet.api.Whoami(ctx); err == nil {
		t.Error("a device that signed in after the point is signed in")
	}
	for _, p := range []*person{alice, bob} {
		if n := p.oneTimeKeys(); n != 0 {
			t.Errorf("the server still holds %d one-time keys of %s", n, p.api.UserID)
		}
		if got := p.history(room); !slices.Equal(got, old) {
			t.Errorf("%s reads %q in the history, want %q and nothing of %q", p.api.UserID, got, old, lost)
		}
		p.sync()
		if n := p.oneTimeKeys(); n < 50 {
			t.Errorf("%s has %d one-time keys at the server after a sync", p.api.UserID, n)
		}
	}
	// Room keys of before, and of the time that never was.
	converse(room, []*person{alice, bob}, "here", "I am", "again")
	// New room keys, by the old sessions between devices.
	alice.rotate(room)
	bob.rotate(room)
	converse(room, []*person{bob, alice}, "a new", "key", "each")
	// New sessions between devices, by one-time keys.
	carol, watch := device(s, "carol", "PHONE"), device(s, "bob", "WATCH")
	invite(alice, carol, room)
	for _, p := range []*person{alice, bob, watch} {
		p.sync()
		p.rotate(room)
	}
	converse(room, []*person{carol, watch, alice, bob}, "all", "of", "us", "now", "hear", "each", "other")
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// TestEncryptionThroughAnArchive: people who write to each other under end-to-end
// encryption go on after export and import. What they wrote is read, a room key that
// waited arrives once, and new sessions open.
func TestEncryptionThroughAnArchive(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	for _, user := range []string{"alice", "bob", "carol"} {
		if _, err := l.server.Register(ctx, user, "the password of "+user, false); err != nil {
			t.Fatal(err)
		}
	}
	alice := newPerson(t, l.server.URL(), "alice", "the password of alice", "PHONE")
	bob := newPerson(t, l.server.URL(), "bob", "the password of bob", "LAPTOP")
	room := secretRoom(alice, bob)
	l.attach()
	k := l.start()
	l.ready()
	old := converse(room, []*person{alice, bob}, "one", "two", "three")
	alice.sync()
	alice.rotate(room)
	alice.say(room, "four") // its key waits for bob
	at := l.mark("before")
	k.Stop(t)
	if err := l.server.Stop(ctx); err != nil {
		t.Fatal(err)
	}

	s := l.bootOn(l.export("lsn:" + at.String()).importAs("").DSN)
	alice.moved(s.URL())
	bob.moved(s.URL())
	if got := bob.sync(); !slices.Equal(got, []string{"four"}) || bob.took != 1 {
		t.Errorf("bob's first sync has %q and %d to-device messages, want the fourth text and its key", got, bob.took)
	}
	if bob.sync(); bob.took != 0 {
		t.Errorf("%d to-device messages arrive again", bob.took)
	}
	old = append(old, "four")
	for _, p := range []*person{alice, bob} {
		if got := p.history(room); !slices.Equal(got, old) {
			t.Errorf("%s reads %q in the history, want %q", p.api.UserID, got, old)
		}
		p.sync()
		if n := p.oneTimeKeys(); n < 50 {
			t.Errorf("%s has %d one-time keys at the server after a sync", p.api.UserID, n)
		}
	}
	converse(room, []*person{bob, alice}, "by the keys", "that we have")
	carol := newPerson(t, s.URL(), "carol", "the password of carol", "PHONE")
	invite(alice, carol, room)
	for _, p := range []*person{alice, bob} {
		p.sync()
		p.rotate(room)
	}
	converse(room, []*person{carol, alice, bob}, "all", "of", "us")
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// secretRoom makes an encrypted room of two.
func secretRoom(a, b *person) id.RoomID {
	a.t.Helper()
	made, err := a.api.CreateRoom(a.t.Context(), &mautrix.ReqCreateRoom{
		Preset: "private_chat",
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{
			Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1},
		}}},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	invite(a, b, made.RoomID)
	a.sync()
	return made.RoomID
}

// invite brings b into a's room.
func invite(a, b *person, room id.RoomID) {
	a.t.Helper()
	if _, err := a.api.InviteUser(a.t.Context(), room, &mautrix.ReqInviteUser{UserID: b.api.UserID}); err != nil {
		a.t.Fatal(err)
	}
	if _, err := b.api.JoinRoomByID(b.t.Context(), room); err != nil {
		b.t.Fatal(err)
	}
	b.sync()
}

// converse lets the people say the texts in turn; everybody else reads each one
// before the next is said. It gives the texts back.
func converse(room id.RoomID, people []*person, texts ...string) []string {
	for i, text := range texts {
		speaker := people[i%len(people)]
		speaker.t.Helper()
		speaker.say(room, text)
		for _, p := range people {
			if got := p.sync(); len(got) == 0 || got[len(got)-1] != text {
				p.t.Errorf("%s on %s said %q, and %s on %s read %q", speaker.api.UserID, speaker.api.DeviceID, text, p.api.UserID, p.api.DeviceID, got)
			}
		}
	}
	return texts
}
