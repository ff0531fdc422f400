package synapseproof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// clientCheck is one thing that a client must find. needs names the step of the
// aftercare without which it fails.
type clientCheck struct {
	name, needs string
	run         func(context.Context, *homeserver.Server) error
}

func (p *past) checks() []clientCheck {
	return []clientCheck{
		{"an old access token", "", p.whoami},
		{"a password with pepper", "", p.passwords},
		{"sync with an old token", "", p.syncOld},
		{"sync with a newer token", "the bump of the sequences", p.syncNewer},
		{"messages, relations, alias, members", "", p.reads},
		{"keys and key backup", "", p.keys},
		{"no one-time key twice", "emptied one-time keys", p.oneTimeKeys},
		{"delayed events", "the defused delayed event", p.delayedEvents},
		{"the purge does not run again", "the defused task", p.notPurged},
		{"media", "", p.media},
		{"new sends, a new room, a new user", "", p.writes},
	}
}

func (p *past) whoami(ctx context.Context, s *homeserver.Server) error {
	id, err := p.bob.On(s).Whoami(ctx)
	if err == nil && id != p.bob.UserID {
		err = fmt.Errorf("the token is %s's", id)
	}
	return err
}

// passwords: alice's was changed after the point, so the old one is valid again.
func (p *past) passwords(ctx context.Context, s *homeserver.Server) error {
	for _, c := range []*homeserver.Client{p.alice, p.bob, p.carol} {
		if _, err := s.Login(ctx, c.UserID, c.Password, ""); err != nil {
			return err
		}
	}
	_, err := s.Login(ctx, "bob", "wrong", "")
	if homeserver.Code(err) != "M_FORBIDDEN" {
		return fmt.Errorf("a wrong password: %v", err)
	}
	return nil
}

// syncOld: what was waiting at the point is delivered. At the second boot it was.
func (p *past) syncOld(ctx context.Context, s *homeserver.Server) error {
	u, err := p.bob.On(s).Sync(ctx, p.oldToken, 0)
	if err != nil {
		return err
	}
	if has := holds(u, "before"); !has && p.boots < 2 {
		return fmt.Errorf("the to-device message of before is not there: %v", u.ToDevice)
	}
	return nil
}

func holds(u *homeserver.Update, body string) bool {
	return slices.ContainsFunc(u.ToDevice.Events, func(e homeserver.Event) bool { return e.Body() == body })
}

// syncNewer: a client whose token is newer than the database gets what comes now, of
// every stream.
func (p *past) syncNewer(ctx context.Context, s *homeserver.Server) error {
	body := fmt.Sprintf("after the restore %d", p.boots)
	want, err := p.news(ctx, s, body)
	if err != nil {
		return err
	}
	since := p.newToken
	for range 3 { // what comes in one sync and what in the next is the server's choice
		u, err := p.bob.On(s).Sync(ctx, since, time.Second)
		if err != nil {
			return err
		}
		for what, there := range want {
			if there(u) {
				delete(want, what)
			}
		}
		if since = u.Next; len(want) == 0 {
			p.newToken = u.Next
			return nil
		}
	}
	return fmt.Errorf("not delivered: %s", strings.Join(slices.Sorted(maps.Keys(want)), ", "))
}

// news makes something happen in each stream, and says how a sync shows it.
func (p *past) news(ctx context.Context, s *homeserver.Server, body string) (map[string]func(*homeserver.Update) bool, error) {
	alice, bob := p.alice.On(s), p.bob.On(s)
	p.toBob(s, body)
	id, err := alice.Say(ctx, p.room, body)
	if err != nil {
		return nil, err
	}
	invited, err := alice.CreateRoom(ctx, homeserver.Room{Name: "invited", Invite: []string{bob.UserID}})
	if err != nil {
		return nil, err
	}
	device, err := s.Login(ctx, alice.UserID, alice.Password, "")
	if err != nil {
		return nil, err
	}
	_, err = device.UploadKeys(ctx, 0, false)
	kind := "org.example." + strings.ReplaceAll(body, " ", "-")
	err = errors.Join(err, alice.Receipt(ctx, p.room, "m.read", id, ""), bob.SetAccountData(ctx, "", kind, map[string]any{"n": 1}),
		bob.SetPushRule(ctx, kind, "word"))
	account := func(kind string) func(*homeserver.Update) bool {
		return func(u *homeserver.Update) bool {
			return slices.ContainsFunc(u.AccountData.Events, func(e homeserver.Event) bool { return e.Type == kind })
		}
	}
	return map[string]func(*homeserver.Update) bool{
		"the to-device message": func(u *homeserver.Update) bool { return holds(u, body) },
		"the event": func(u *homeserver.Update) bool {
			return slices.ContainsFunc(u.Rooms.Join[p.room].Timeline.Events, func(e homeserver.Event) bool { return e.EventID == id })
		},
		"the receipt": func(u *homeserver.Update) bool {
			return slices.ContainsFunc(u.Rooms.Join[p.room].Ephemeral.Events, func(e homeserver.Event) bool { return e.Type == "m.receipt" && e.Content[id] != nil })
		},
		"the invitation":   func(u *homeserver.Update) bool { return u.Rooms.Invite[invited] != nil },
		"the device":       func(u *homeserver.Update) bool { return slices.Contains(u.DeviceLists.Changed, alice.UserID) },
		"the account data": account(kind), "the push rule": account("m.push_rules"),
	}, err
}

func (p *past) reads(ctx context.Context, s *homeserver.Server) error {
	bob := p.bob.On(s)
	events, err := bob.Messages(ctx, p.room, 200)
	if err != nil {
		return err
	}
	var bodies []string
	for _, e := range events {
		bodies = append(bodies, e.Body())
		if strings.HasPrefix(e.Body(), "undone") {
			return fmt.Errorf("an event of after the point is there: %s", e.Body())
		}
	}
	if !slices.Contains(bodies, "the root") { // redacted after the point
		return fmt.Errorf("the message that was redacted since is not readable: %v", bodies)
	}
	for kind, want := range map[string]int{"m.thread": 1, "m.annotation": 1} {
		if related, err := bob.Relations(ctx, p.room, p.root, kind); err != nil || len(related) != want {
			return fmt.Errorf("relations %s: %d, %v", kind, len(related), err)
		}
	}
	if threads, err := bob.Threads(ctx, p.room); err != nil || len(threads) != 1 {
		return fmt.Errorf("threads: %d, %w", len(threads), err)
	}
	if id, err := bob.Alias(ctx, "#hall:"+s.Name()); err != nil || id != p.room {
		return fmt.Errorf("the alias is of %q, %w", id, err)
	}
	members, err := bob.Members(ctx, p.room)
	if err == nil && !slices.Contains(members, p.carol.UserID) { // deactivated after the point
		err = fmt.Errorf("members: %v", members)
	}
	return err
}

func (p *past) keys(ctx context.Context, s *homeserver.Server) error {
	k, err := p.bob.On(s).QueryKeys(ctx, p.alice.UserID)
	if err != nil {
		return err
	}
	if k.Devices[p.alice.UserID][p.alice.DeviceID] == nil || k.Master[p.alice.UserID] == nil || k.SelfSigning[p.alice.UserID] == nil {
		return fmt.Errorf("alice's keys: %+v", k)
	}
	backup, err := p.alice.On(s).KeyBackup(ctx, p.backup)
	if err == nil && backup[p.room]["session"] != "sealed" {
		err = fmt.Errorf("the key backup holds %v", backup)
	}
	return err
}

// oneTimeKeys: bob's client sees that it has no key left and uploads new ones; until
// then the fallback key is handed out.
func (p *past) oneTimeKeys(ctx context.Context, s *homeserver.Server) error {
	bob := p.bob.On(s)
	if p.boots < 2 {
		u, err := bob.Sync(ctx, "", 0)
		if err != nil {
			return err
		}
		if u.OneTimeKeys["signed_curve25519"] != 0 || len(u.FallbackKeys) != 0 {
			return fmt.Errorf("bob's client is told that it has keys: %v one-time, unused fallback %v", u.OneTimeKeys, u.FallbackKeys)
		}
		ks, err := p.alice.On(s).ClaimKeys(ctx, map[string][]string{p.bob.UserID: {p.bob.DeviceID}})
		if err != nil || len(ks) != 1 || !ks[0].Fallback {
			return fmt.Errorf("with no one-time key left: %+v, %v", ks, err)
		}
	}
	if _, err := bob.UploadKeys(ctx, 5, true); err != nil {
		return err
	}
	for range 5 {
		ks, err := p.alice.On(s).ClaimKeys(ctx, map[string][]string{p.bob.UserID: {p.bob.DeviceID}})
		if err != nil {
			return err
		}
		if len(ks) != 1 || p.handed[ks[0].Key] || ks[0].Fallback {
			return fmt.Errorf("handed out: %+v", ks)
		}
		p.handed[ks[0].Key] = true
	}
	return nil
}

func (p *past) delayedEvents(ctx context.Context, s *homeserver.Server) error {
	var a struct {
		Events []map[string]any `json:"delayed_events"`
	}
	err := p.alice.On(s).Do(ctx, http.MethodGet, "/_matrix/client/unstable/org.matrix.msc4140/delayed_events", nil, &a)
	if err == nil && len(a.Events) > 0 {
		err = fmt.Errorf("they would be sent again: %v", a.Events)
	}
	return err
}

// notPurged: any new task makes the scheduler look for all that are to be run, so
// the purge would begin beside this one.
func (p *past) notPurged(ctx context.Context, s *homeserver.Server) error {
	admin := p.l.admin.On(s)
	other, err := admin.CreateRoom(ctx, homeserver.Room{Name: "another"})
	if err != nil {
		return err
	}
	if err := admin.DeleteRoom(ctx, other, true); err != nil {
		return err
	}
	var a struct {
		Results []struct {
			Status string `json:"status"`
		} `json:"results"`
	}
	if err := admin.Do(ctx, http.MethodGet, homeserver.Path("/_synapse/admin/v2/rooms", p.doomed, "delete_status"), nil, &a); err != nil {
		return err
	}
	for _, r := range a.Results {
		if r.Status != "failed" {
			return fmt.Errorf("a purge is %s", r.Status)
		}
	}
	events, err := p.bob.On(s).Messages(ctx, p.doomed, 100)
	if err == nil && !slices.ContainsFunc(events, func(e homeserver.Event) bool { return e.EventID == p.said }) {
		err = fmt.Errorf("the room has lost its messages: %v", events)
	}
	return err
}

func (p *past) media(ctx context.Context, s *homeserver.Server) error {
	b, err := p.bob.On(s).Download(ctx, p.mxc)
	if err == nil && !bytes.Equal(b, p.picture) {
		err = fmt.Errorf("%d bytes instead of the picture", len(b))
	}
	return err
}

func (p *past) writes(ctx context.Context, s *homeserver.Server) error {
	alice, bob := p.alice.On(s), p.bob.On(s)
	room, err := alice.CreateRoom(ctx, homeserver.Room{Name: "new", Invite: []string{p.bob.UserID}})
	if err != nil {
		return err
	}
	if _, err := bob.Join(ctx, room); err != nil {
		return err
	}
	if _, err := bob.Say(ctx, room, "hello"); err != nil {
		return err
	}
	if err := bob.Leave(ctx, room); err != nil {
		return err
	}
	if _, err := alice.SendState(ctx, p.room, "m.room.topic", "", map[string]any{"topic": "back"}); err != nil {
		return err
	}
	if _, err := alice.Upload(ctx, "b.bin", "application/octet-stream", []byte("new")); err != nil {
		return err
	}
	_, err = s.Register(ctx, fmt.Sprintf("erin%d", p.boots), "the password of erin", false)
	return err
}
