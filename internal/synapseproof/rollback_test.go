package synapseproof

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
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
	k.Stop(t)
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
	gone              []string // checks that cannot pass
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
		if slices.Contains(p.gone, c.name) {
			continue
		}
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
