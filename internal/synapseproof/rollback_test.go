package synapseproof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// The restore of a homeserver to the very moment in which a purge of a room was
// scheduled, with clients that know more than it does. The same checks are held
// against the bare rows too, where they must fail: a check that cannot fail is none.
func TestRollbackBootsAndHeals(t *testing.T) {
	l := newLab(t, func(o *homeserver.Options) { o.Extra = map[string]any{"max_event_delay_duration": "24h"} })
	p := newPast(t, l)
	l.attach()
	k := l.start()
	l.ready()
	p.before()
	start := l.mark("before the purge")
	p.after()
	l.mark("after")
	k.stop(t)
	if err := l.server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	at := l.firstInsert(start, "scheduled_tasks")
	r := l.restoreTo("lsn:"+at.String(), func(o *restore.Options) { o.Mode = "" })
	p.reported(r)
	t.Run("first boot", func(t *testing.T) { p.boot(t, r.DSN) })
	t.Run("second boot", func(t *testing.T) { p.boot(t, r.DSN) })

	bare := l.restoreTo("lsn:"+at.String(), func(o *restore.Options) { o.Mode = synapse.Raw })
	t.Run("without the aftercare", func(t *testing.T) { p.bare(t, bare.DSN) })

	_, err := restore.NewPlan(t.Context(), l.view(), r.plan.Point, restore.Options{Mode: synapse.Move})
	if !errors.Is(err, restore.ErrNotNewest) {
		t.Errorf("a move to an older point: %v, want ErrNotNewest", err)
	}
}

// firstInsert gives the first commit after a position that inserts into a table.
func (l *lab) firstInsert(after record.LSN, table string) (at record.LSN) {
	l.t.Helper()
	v := l.view()
	err := v.Commits(l.t.Context(), after, v.Durable, true, func(c record.Transaction, touched []history.Touch) error {
		if at == 0 && slices.ContainsFunc(touched, func(t history.Touch) bool { return t.Relation.Name == table && t.Inserts > 0 }) {
			at = c.End
		}
		return nil
	})
	if err != nil || at == 0 {
		l.t.Fatalf("no insert into %s after %s: %v", table, after, err)
	}
	return at
}

// past is what the clients of a rolled-back homeserver did, and what they remember.
type past struct {
	t                 testing.TB
	l                 *lab
	alice, bob, carol *homeserver.Client
	room, doomed      string
	root              string // of a thread in room, which is redacted after the point
	said              string // an event of before the point
	picture           []byte
	mxc               string
	backup            string
	oldToken          string // of bob's sync before the point
	newToken          string // and after it, the newest of all
	sourceToken       string // the newest that the lost server gave
	handed            map[string]bool
	delayed           string
	boots             int
}

func newPast(t testing.TB, l *lab) *past {
	p := &past{t: t, l: l, handed: map[string]bool{}}
	for _, u := range []struct {
		to   **homeserver.Client
		name string
	}{{&p.alice, "alice"}, {&p.bob, "bob"}, {&p.carol, "carol"}} {
		c, err := l.server.Register(t.Context(), u.name, "the password of "+u.name, false)
		p.must(err)
		*u.to = c
	}
	return p
}

func (p *past) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// got is must for a call with a value.
func got[T any](p *past) func(T, error) T {
	return func(v T, err error) T {
		p.t.Helper()
		p.must(err)
		return v
	}
}

// before is what the restored homeserver must know.
func (p *past) before() {
	ctx := p.t.Context()
	p.room = got[string](p)(p.alice.CreateRoom(ctx, homeserver.Room{Name: "hall", Alias: "hall", Public: true}))
	p.doomed = got[string](p)(p.alice.CreateRoom(ctx, homeserver.Room{Name: "doomed", Public: true}))
	for _, room := range []string{p.room, p.doomed} {
		for _, c := range []*homeserver.Client{p.bob, p.carol, p.l.admin} {
			_, err := c.Join(ctx, room)
			p.must(err)
		}
	}
	p.root = got[string](p)(p.alice.Say(ctx, p.room, "the root"))
	_, err := p.bob.Thread(ctx, p.room, p.root, "in a thread")
	p.must(err)
	_, err = p.bob.React(ctx, p.room, p.root, "👍")
	p.must(err)
	p.said = got[string](p)(p.bob.Say(ctx, p.doomed, "in the doomed room"))
	p.picture = bytes.Repeat([]byte("a picture "), 1000)
	p.mxc = got[string](p)(p.alice.Upload(ctx, "a.bin", "application/octet-stream", p.picture))
	for _, c := range []*homeserver.Client{p.alice, p.bob} {
		_, err := c.UploadKeys(ctx, 12, true)
		p.must(err)
	}
	p.must(p.alice.CrossSign(ctx))
	p.backup = got[string](p)(p.alice.NewKeyBackup(ctx))
	p.must(p.alice.BackUpKey(ctx, p.backup, p.room, "session", "sealed"))
	p.oldToken = got[*homeserver.Update](p)(p.bob.Sync(ctx, "", 0)).Next
	p.toBob(p.l.server, "before")
	p.claim(3)
	var a struct {
		ID string `json:"delay_id"`
	}
	p.must(p.alice.Do(ctx, http.MethodPut, homeserver.Path("/_matrix/client/v3/rooms", p.room, "send", "m.room.message", "delayed")+
		"?org.matrix.msc4140.delay=3600000", map[string]any{"msgtype": "m.text", "body": "delayed"}, &a))
	p.delayed = a.ID
}

// after is what is undone: its first commit schedules the purge.
func (p *past) after() {
	ctx := p.t.Context()
	p.must(p.l.admin.DeleteRoom(ctx, p.doomed, true))
	for i := range 12 {
		_, err := p.alice.Say(ctx, p.room, fmt.Sprintf("undone %d", i))
		p.must(err)
		p.toBob(p.l.server, fmt.Sprintf("undone %d", i))
	}
	_, err := p.alice.Redact(ctx, p.room, p.root, "a slip")
	p.must(err)
	p.claim(12) // to the last one, and the fallback key
	p.must(p.bob.SetAccountData(ctx, "", "org.example.note", map[string]any{"n": 1}))
	p.must(p.alice.Do(ctx, http.MethodPost, "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/"+p.delayed+"/send", nil, nil))
	_, err = p.l.server.Login(ctx, "bob", p.bob.Password, "LATER")
	p.must(err)
	_, err = p.l.server.Register(ctx, "dave", "the password of dave", false)
	p.must(err)
	p.must(p.l.admin.Do(ctx, http.MethodPost, homeserver.Path("/_synapse/admin/v1/deactivate", p.carol.UserID), map[string]any{"erase": true}, nil))
	p.must(p.l.admin.Do(ctx, http.MethodPost, homeserver.Path("/_synapse/admin/v1/reset_password", p.alice.UserID),
		map[string]any{"new_password": "another", "logout_devices": false}, nil))
	for since := p.oldToken; ; since = p.newToken {
		u := got[*homeserver.Update](p)(p.bob.Sync(ctx, since, 0))
		if p.newToken = u.Next; len(u.ToDevice.Events) == 0 {
			break
		}
	}
	p.sourceToken = p.newToken
}

func (p *past) toBob(s *homeserver.Server, body string) {
	p.t.Helper()
	p.must(p.alice.On(s).ToDevice(p.t.Context(), "org.example.note", map[string]map[string]any{p.bob.UserID: {p.bob.DeviceID: map[string]any{"body": body}}}))
}

// claim takes bob's keys and remembers them.
func (p *past) claim(n int) {
	for range n {
		for _, k := range got[[]homeserver.Claimed](p)(p.carol.ClaimKeys(p.t.Context(), map[string][]string{p.bob.UserID: {p.bob.DeviceID}})) {
			if !k.Fallback {
				p.handed[k.Key] = true
			}
		}
	}
}

// reported holds the report of the restore against what was done.
func (p *past) reported(r *restored) {
	p.t.Helper()
	if r.plan.Mode != synapse.Rollback {
		p.t.Errorf("the mode of a Synapse is %q, want rollback", r.plan.Mode)
	}
	step := func(name string) restore.StepReport {
		i := slices.IndexFunc(r.report.Aftercare, func(s restore.StepReport) bool { return s.Name == name })
		if i < 0 {
			p.t.Fatalf("the report has no step %q", name)
		}
		return r.report.Aftercare[i]
	}
	if s := step("scheduled tasks"); s.Rows != 1 || s.Details[0][1] != "shutdown_and_purge_room" || s.Details[0][2] != p.doomed {
		p.t.Errorf("the report says of the purge: %+v", s)
	}
	if s := step("delayed events"); s.Rows != 1 || s.Details[0][1] != p.delayed {
		p.t.Errorf("the report says of the delayed event: %+v", s)
	}
	if s := step("one-time keys"); s.Rows == 0 {
		p.t.Error("no one-time key was taken away")
	}
	loss := r.report.Loss
	t := loss.Totals
	if t.Messages < 12 || t.Redactions != 1 || t.RoomsPurged != 1 || t.Registered != 1 || t.Passwords != 1 || t.LoggedIn < 2 || t.Returns != 0 {
		p.t.Errorf("the loss report sums up: %+v", t)
	}
	if again := loss.Again(); !slices.Equal(again, []string{p.carol.UserID}) {
		p.t.Errorf("to deactivate again: %v, want %s", again, p.carol.UserID)
	}
	if i := slices.IndexFunc(loss.Rooms, func(r synapse.RoomLoss) bool { return r.Room == p.doomed }); i < 0 || !loss.Rooms[i].Purged {
		p.t.Errorf("the loss report does not say that %s is back: %+v", p.doomed, loss.Rooms)
	}
}

// boot runs every check on a homeserver over the restored database.
func (p *past) boot(t *testing.T, dsn string) {
	p.t, p.boots = t, p.boots+1
	s := p.l.bootOn(dsn)
	defer func() {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		p.l.healthy(s)
	}()
	for _, c := range p.checks() {
		began := time.Now()
		if err := c.run(t.Context(), s); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		t.Logf("%s: %.1fs", c.name, time.Since(began).Seconds())
	}
}

// bare runs on rows that nothing was done to the checks that must fail there.
func (p *past) bare(t *testing.T, dsn string) {
	p.t, p.newToken = t, p.sourceToken
	o := p.l.server.Options()
	o.From, o.DSN, o.Dir = o.Dir, dsn, filepath.Join(p.l.dir, "bare")
	s, err := homeserver.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	for _, c := range p.checks() {
		if c.needs == "" {
			continue
		}
		if err := c.run(t.Context(), s); err == nil {
			t.Errorf("%q passes without %s", c.name, c.needs)
		} else {
			t.Logf("without %s: %s: %v", c.needs, c.name, err)
		}
	}
}

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

// syncNewer: a client whose token is newer than the database gets what comes now.
func (p *past) syncNewer(ctx context.Context, s *homeserver.Server) error {
	body := fmt.Sprintf("after the restore %d", p.boots)
	p.toBob(s, body)
	id, err := p.alice.On(s).Say(ctx, p.room, body)
	if err != nil {
		return err
	}
	device, event := false, false
	for range 3 { // what comes in one sync and what in the next is the server's choice
		u, err := p.bob.On(s).Sync(ctx, p.newToken, 2*time.Second)
		if err != nil {
			return err
		}
		device = device || holds(u, body)
		event = event || slices.ContainsFunc(u.Rooms.Join[p.room].Timeline.Events, func(e homeserver.Event) bool { return e.EventID == id })
		if device && event {
			p.newToken = u.Next
			return nil
		}
	}
	return fmt.Errorf("delivered: the to-device message %t, the event %t", device, event)
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
