package synapseproof

import (
	"testing"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// TestRestoredBoots is the shortest way through everything: a message, an accident,
// the way back, the message.
func TestRestoredBoots(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	room, err := l.admin.CreateRoom(ctx, homeserver.Room{Name: "hall"})
	if err != nil {
		t.Fatal(err)
	}
	l.attach()
	k := l.start()
	l.ready()
	id, err := l.admin.Say(ctx, room, "before")
	if err != nil {
		t.Fatal(err)
	}
	at := l.mark("before")
	if err := l.admin.DeleteRoom(ctx, room, true); err != nil {
		t.Fatal(err)
	}
	l.mark("after")
	k.stop(t)

	db := l.restoreTo("lsn:" + at.String())
	s := l.bootOn(db.DSN)
	events, err := l.admin.On(s).Messages(ctx, room, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) == 0 || events[0].EventID != id {
		t.Errorf("the restored room holds %+v, want the message %s", events, id)
	}
}
