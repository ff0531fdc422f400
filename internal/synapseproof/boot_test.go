package synapseproof

import (
	"testing"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// TestRestoredBoots is the shortest way through everything: a message, an accident,
// the commit found, the way back, the message.
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
	id := l.conversation(room, "one", "before")
	if err := l.admin.DeleteRoom(ctx, room, true); err != nil {
		t.Fatal(err)
	}
	l.mark("after")
	k.Stop(t)

	db := l.restoreTo(l.accident(room), rollback)
	s := l.bootOn(db.DSN)
	events, err := l.admin.On(s).Messages(ctx, room, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) == 0 || events[0].EventID != id {
		t.Errorf("the restored room holds %+v, want the message %s", events, id)
	}
}
