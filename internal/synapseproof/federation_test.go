package synapseproof

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// TestFederationHeals: of two homeservers that share a room, one goes back. What
// the other holds comes back by federation, of both sides; what is said then
// reaches both; and over two more boots clients find what they must find.
func TestFederationHeals(t *testing.T) {
	federate := func(o *homeserver.Options) {
		o.Federation = true
		// A server that was away is asked again soon, not after ten minutes.
		o.Extra = map[string]any{"max_event_delay_duration": "24h", "federation": map[string]any{
			"destination_min_retry_interval": "1s", "destination_max_retry_interval": "2s",
		}}
	}
	l := newLab(t, federate)
	ctx := t.Context()
	far := homeserver.Options{Dir: filepath.Join(l.dir, "far"), Install: l.server.Options().Install, DSN: l.cluster.Database(t).DSN}
	federate(&far)
	other := l.boot(far)
	bea, err := other.Register(ctx, "bea", "the password of bea", true)
	if err != nil {
		t.Fatal(err)
	}
	ann := l.admin
	room, err := ann.CreateRoom(ctx, homeserver.Room{Name: "shared", Public: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bea.Join(ctx, room, l.server.Name()); err != nil {
		t.Fatal(err)
	}
	p := newPast(t, l)
	l.attach()
	k := l.start()
	l.ready()

	p.before()
	d := &dialogue{t: t, room: room}
	d.say(ann, "before", 2)
	d.say(bea, "before", 2)
	d.arrive(ann, bea)
	kept := len(d.ids)
	start := l.mark("before")
	p.after()
	for i := range 4 {
		d.say(ann, fmt.Sprintf("lost %d", i), 6)
		d.say(bea, fmt.Sprintf("lost %d", i), 6)
		d.note(bea, ann, fmt.Sprintf("lost %d", i))
		d.hear(ann, fmt.Sprintf("lost %d", i))
	}
	d.arrive(ann, bea)
	d.hear(ann, "") // the newest token that her server gave
	l.mark("after")
	k.Stop(t)
	if err := l.server.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	d.say(bea, "while the other was away", 3)

	at := l.firstInsert(start, "scheduled_tasks")
	r := l.restoreTo("lsn:"+at.String(), rollback)
	loss, said := r.report.Loss, len(d.ids)-kept-3
	shared := slices.IndexFunc(loss.Rooms, func(r synapse.RoomLoss) bool { return r.Room == room })
	if shared < 0 || loss.Rooms[shared].Messages != said || !loss.Rooms[shared].Held || loss.Totals.Returns != loss.Rooms[shared].Sum() {
		t.Errorf("the loss report says %+v of %+v, want %d messages of the shared room to return, and no others", loss.Totals, loss.Rooms, said)
	}
	s := l.bootOn(r.DSN)
	ann = ann.On(s)
	events, err := ann.Messages(ctx, room, 500)
	if err != nil {
		t.Fatal(err)
	}
	gone := 0
	for _, id := range d.ids {
		if !slices.ContainsFunc(events, func(e homeserver.Event) bool { return e.EventID == id }) {
			gone++
		}
	}
	if gone != len(d.ids)-kept {
		t.Errorf("%d of %d messages are gone at first, want the %d that were said since", gone, len(d.ids), len(d.ids)-kept)
	}
	d.say(ann, "after the rollback", 2)
	d.arrive(bea)
	d.say(bea, "after the rollback", 2)
	d.arrive(ann, bea)
	d.note(bea, ann, "after the rollback")
	d.hear(ann, "after the rollback")
	d.say(ann, "healed", 1)
	d.arrive(ann, bea)
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	t.Run("second boot", func(t *testing.T) { p.boot(t, r.DSN) })
	t.Run("third boot", func(t *testing.T) { p.boot(t, r.DSN) })
	if err := other.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// dialogue is what was said in a room that two homeservers share.
type dialogue struct {
	t     testing.TB
	room  string
	ids   []string
	since string // the token of who hears
}

// say says a text n times.
func (d *dialogue) say(c *homeserver.Client, text string, n int) {
	d.t.Helper()
	for i := range n {
		id, err := c.Say(d.t.Context(), d.room, fmt.Sprintf("%s: %s, %d", c.UserID, text, i))
		if err != nil {
			d.t.Fatal(err)
		}
		d.ids = append(d.ids, id)
	}
}

// note sends a message from device to device, to the other server.
func (d *dialogue) note(from, to *homeserver.Client, body string) {
	d.t.Helper()
	err := from.ToDevice(d.t.Context(), "org.example.note", map[string]map[string]any{to.UserID: {to.DeviceID: map[string]any{"body": body}}})
	if err != nil {
		d.t.Fatal(err)
	}
}

// hear goes on syncing until a note has come, by the token of the last sync, however
// much newer than the server it is. Without a note it syncs once.
func (d *dialogue) hear(c *homeserver.Client, body string) {
	d.t.Helper()
	testpg.WaitFor(d.t, 2*time.Minute, "the note "+body+" to reach "+c.UserID, func() bool {
		u, err := c.Sync(d.t.Context(), d.since, time.Second)
		if err != nil {
			d.t.Fatal(err)
		}
		d.since = u.Next
		return body == "" || slices.ContainsFunc(u.ToDevice.Events, func(e homeserver.Event) bool { return e.Body() == body })
	})
}

// arrive waits until each client's own server shows it everything that was said. A
// restored server's new events have smaller depths than those that it lost, so the
// look goes far back; and it is this look that makes a server ask others for what
// it misses.
func (d *dialogue) arrive(clients ...*homeserver.Client) {
	d.t.Helper()
	for _, c := range clients {
		begin := time.Now()
		var missing []string
		defer func() {
			if d.t.Failed() {
				d.t.Logf("%s misses %d of %d messages", c.UserID, len(missing), len(d.ids))
			}
		}()
		testpg.WaitFor(d.t, 2*time.Minute, "every message to reach "+c.UserID, func() bool {
			events, err := c.Messages(d.t.Context(), d.room, 500)
			if err != nil {
				d.t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, e := range events {
				seen[e.EventID] = true
			}
			missing = slices.DeleteFunc(slices.Clone(d.ids), func(id string) bool { return seen[id] })
			return len(missing) == 0
		})
		d.t.Logf("%d messages are at %s after %.1f s", len(d.ids), c.UserID, time.Since(begin).Seconds())
	}
}

// rollback makes a restore one after which the same server goes on.
func rollback(o *restore.Options) { o.Mode = synapse.Rollback }
