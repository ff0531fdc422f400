package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// matrix is the story of a homeserver: a room is deleted, and comes back.
type matrix struct {
	*demo
	town
	install  homeserver.Install
	server   *homeserver.Server // the one that backs up
	restored *homeserver.Server
	before   *memory   // the square just before the accident
	hidden   int       // events of the encrypted room
	accident time.Time // when the admin pressed the button
	since    string    // where the first person's client had synced to, after the accident
}

func (d *matrix) steps() []step {
	return []step{
		{"PostgreSQL 18 starts, in a folder of its own", d.startPostgres},
		{"A Synapse homeserver starts on it", d.boot},
		{fmt.Sprintf("People move in: rooms, %d messages, reactions, a thread, encryption, media", d.messages), d.populate},
		{"The repository, the operator's key and lifeboat.yaml are made", d.setUp},
		{"The database is prepared: publication, identities, slot", d.attach},
		{"The agent runs: it copies every table and follows the stream", d.weighed("synapse", d.runAgent)},
		{fmt.Sprintf("People talk for %d seconds, and go on after that", d.seconds), d.weighed("synapse", d.live)},
		{"The accident: the admin deletes the room \"Town square\", with purge", d.weighed("synapse", d.purge)},
		{"Who did it, and when?", d.find},
		{"The moment before becomes a new database", d.weighed("restored", d.restore)},
		{"Synapse boots on it: is the room there?", d.bootRestored},
		{"And everything else that clients hold on to?", d.check},
		{"Synapse boots a second time: the room is not purged again", d.bootAgain},
		{"The repository is whole, and equal to the old database", d.verify},
		{"What it weighs", d.weigh},
		{"The agent stops in order, the old database is left as it was", d.detach},
	}
}

// boot makes the homeserver's database and starts it. Its role is no superuser: it
// owns the tables, and has REPLICATION.
func (d *matrix) boot(ctx context.Context) error {
	for _, q := range []string{"CREATE ROLE synapse LOGIN REPLICATION", "CREATE DATABASE synapse OWNER synapse"} {
		if _, err := d.sql(ctx, "postgres", q); err != nil {
			return err
		}
	}
	var err error
	d.server, err = d.startServer(ctx, homeserver.Options{Dir: filepath.Join(d.dir, "homeserver"), Install: d.install, DSN: d.dsn("synapse")})
	if err != nil {
		return err
	}
	tables, err := d.sql(ctx, "synapse", "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
	d.say("Synapse answers at %s; %s tables", d.server.URL(), tables)
	return err
}

// startServer starts a homeserver that ends with the demo.
func (d *matrix) startServer(ctx context.Context, o homeserver.Options) (*homeserver.Server, error) {
	s, err := homeserver.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	d.ends = append(d.ends, func() {
		if s.Running() {
			_ = s.Stop(context.Background())
		}
		s.Kill()
	})
	return s, nil
}

func (d *matrix) dsn(db string) string {
	return fmt.Sprintf("postgres://synapse@127.0.0.1:%d/%s", d.port, db)
}

func (d *matrix) populate(ctx context.Context) error {
	for _, do := range []func() error{
		func() error { return d.settle(ctx, d.server) },
		func() error { return d.keys(ctx) },
		func() error { return d.chat(ctx, d.messages) },
		func() error { return d.pictures(ctx, 3) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	if err := d.settled(ctx); err != nil {
		return err
	}
	hidden, err := d.recall(ctx, d.people[0], d.secret)
	if err != nil {
		return err
	}
	d.hidden = len(hidden.events)
	events, err := d.sql(ctx, "synapse", "SELECT count(*) || ' events, the database has ' || pg_size_pretty(pg_database_size('synapse')) FROM events")
	d.say("%d users, %d rooms, %s", len(d.people)+1, len(d.rooms)+2, events)
	return err
}

// settled waits until a new Synapse has made the indexes that it makes in the
// background.
func (d *matrix) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		left, err := d.sql(ctx, "synapse", "SELECT count(*) FROM background_updates")
		if err != nil || left == "0" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s background updates are left: %w", left, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *matrix) setUp(ctx context.Context) error {
	return d.init(ctx, "--homeserver", d.typed(d.server.ConfigPath()))
}

// typed writes a path as it is typed from the demo's folder.
func (d *matrix) typed(path string) string {
	if rel, err := filepath.Rel(d.dir, path); err == nil {
		return rel
	}
	return path
}

func (d *matrix) live(ctx context.Context) error {
	said := d.said.Load()
	d.begin()
	d.ends = append(d.ends, func() { _ = d.hush() })
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(d.seconds) * time.Second):
	}
	d.say("%d things said and done", d.said.Load()-said)
	return nil
}

// purge deletes the room. Nobody speaks in it while the judge of the restore looks
// at it; everywhere else the talk goes on.
func (d *matrix) purge(ctx context.Context) error {
	if err := d.close(ctx); err != nil {
		return err
	}
	d.say("just before: %d events, %d messages of them, %d answers in the thread, checksum %016x", len(d.before.events), d.before.texts, d.before.replies, d.before.hash)
	d.say("$ curl -X DELETE …/_synapse/admin/v2/rooms/%s -d '{\"purge\": true}'", d.square)
	d.accident = time.Now()
	if err := d.admin.DeleteRoom(ctx, d.square, true); err != nil {
		return err
	}
	_, err := d.people[0].Messages(ctx, d.square, 1)
	if err == nil {
		return errors.New("the room was deleted and can still be read")
	}
	d.say("%s asks for its messages: %v", d.people[0].UserID, err)
	u, err := d.people[0].Sync(ctx, "", 0)
	if err != nil {
		return err
	}
	d.since = u.Next
	left, err := d.sql(ctx, "synapse", "SELECT count(*) FROM events WHERE room_id = '"+d.square+"'")
	d.say("events of the room in the database: %s. People talk on in the others.", left)
	return err
}

func (d *matrix) close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var err error
	d.before, err = d.recall(ctx, d.people[0], d.square)
	return err
}

// find asks which commits deleted from the room. Synapse made everybody leave it
// before it purged it: find takes the deletion as one accident and names the moment
// before its first commit.
func (d *matrix) find(ctx context.Context) error {
	var found []struct {
		Deletes uint64 `json:"deletes"`
		Before  string `json:"restore_at"`
		Run     *struct {
			Before string `json:"restore_at"`
		} `json:"run"`
	}
	args := []string{"find", "--room", d.square, "--deletes", "--key", key}
	err := d.wait(ctx, "the accident to be in the repository", time.Minute, d.agent, func() (bool, error) {
		if err := d.facts(ctx, &found, args...); err != nil {
			return false, err
		}
		for _, c := range found {
			if c.Deletes >= uint64(len(d.before.events)) {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return err
	}
	if d.at = found[0].Before; found[0].Run != nil {
		d.at = found[0].Run.Before
	}
	return d.lifeboatRun(ctx, args...)
}

func (d *matrix) restore(ctx context.Context) error {
	d.say("$ createdb restored")
	if _, err := d.sql(ctx, "postgres", "CREATE DATABASE restored OWNER synapse"); err != nil {
		return err
	}
	return d.lifeboatBrief(ctx, []string{"  table ", "            "}, "restore", "--at", d.at, "--to", d.dsn("restored"), "--mode", "rollback", "--key", key)
}

// bootRestored ends the old homeserver and starts the restored one, whose
// configuration, signing key and media are the old one's: they are files, and not in
// the backup yet.
func (d *matrix) bootRestored(ctx context.Context) error {
	if err := d.hush(); err != nil {
		return fmt.Errorf("the clients: %w", err)
	}
	if faults := d.server.Faults(); len(faults) > 0 {
		return fmt.Errorf("the homeserver failed while it was backed up: %s", strings.Join(faults, "; "))
	}
	if err := d.server.Stop(ctx); err != nil {
		return err
	}
	d.say("the old homeserver is stopped; %d things were said and done on it, none failed", d.said.Load())
	if err := d.again(ctx); err != nil {
		return err
	}
	alice := d.people[0].On(d.restored)
	first, err := alice.Messages(ctx, d.square, 1)
	if err != nil {
		return err
	}
	if len(first) == 0 {
		return errors.New("the room is empty")
	}
	d.say("%.0f seconds from the accident to the first message read", time.Since(d.accident).Seconds())
	return d.compare(ctx)
}

func (d *matrix) again(ctx context.Context) error {
	o := d.server.Options()
	o.From, o.Dir, o.DSN = o.Dir, filepath.Join(d.dir, "homeserver-restored"), d.dsn("restored")
	var err error
	d.restored, err = d.startServer(ctx, o)
	return err
}

// compare holds the room against what it was.
func (d *matrix) compare(ctx context.Context) error {
	have, err := d.recall(ctx, d.people[0].On(d.restored), d.square)
	if err != nil {
		return err
	}
	if diff := d.before.differs(have); diff != "" {
		return errors.New("the restored room differs: " + diff)
	}
	d.say("equal: %d events, %d messages of them, %d answers in the thread, checksum %016x", len(have.events), have.texts, have.replies, have.hash)
	return nil
}

// check asks for what clients hold on to; every client still has its old token.
func (d *matrix) check(ctx context.Context) error {
	alice, bob := d.people[0].On(d.restored), d.people[1].On(d.restored)
	hidden, err := d.recall(ctx, alice, d.secret)
	if err != nil {
		return err
	}
	if len(hidden.events) != d.hidden {
		return fmt.Errorf("the encrypted room has %d events and had %d", len(hidden.events), d.hidden)
	}
	var keys struct {
		Devices map[string]map[string]any `json:"device_keys"`
	}
	err = bob.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/query", map[string]any{"device_keys": map[string]any{alice.UserID: []string{}}}, &keys)
	if err != nil {
		return err
	}
	if n := len(keys.Devices[alice.UserID]); n != 2 {
		return fmt.Errorf("%s has %d devices with keys, had 2", alice.UserID, n)
	}
	waiting, err := d.offline.On(d.restored).Sync(ctx, "", 0)
	if err != nil {
		return err
	}
	if n := len(waiting.ToDevice.Events); n != 5 {
		return fmt.Errorf("%d messages wait for the device that was offline, were 5", n)
	}
	d.say("encrypted room: %d events; keys of 2 devices; 5 to-device messages for the one that was offline", d.hidden)
	if err := d.download(ctx, alice); err != nil {
		return err
	}
	id, err := bob.Say(ctx, d.square, "Here we are again.")
	if err != nil {
		return err
	}
	u, err := alice.Sync(ctx, d.since, 0)
	if err != nil {
		return err
	}
	for _, e := range u.Rooms.Join[d.square].Timeline.Events {
		if e.EventID == id {
			d.say("a new message arrives, at a client that had synced after the accident as well")
			return d.healthy()
		}
	}
	return errors.New("a message sent after the restore does not arrive at a client that had synced after the accident")
}

func (d *matrix) download(ctx context.Context, c *homeserver.Client) error {
	for uri, want := range d.media {
		var have []byte
		if err := c.Do(ctx, http.MethodGet, "/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil, &have); err != nil {
			return err
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("%s is not what was uploaded", uri)
		}
	}
	d.say("%d pictures are what was uploaded (their files are the old ones: media is not in the backup yet)", len(d.media))
	return nil
}

func (d *matrix) healthy() error {
	if e := d.restored.Errors(); len(e) > 0 {
		return fmt.Errorf("the restored homeserver logs errors: %s", strings.Join(e, "\n"))
	}
	if f := d.restored.Faults(); len(f) > 0 {
		return fmt.Errorf("the restored homeserver failed: %s", strings.Join(f, "; "))
	}
	d.say("not one error in its log")
	return nil
}

func (d *matrix) bootAgain(ctx context.Context) error {
	if err := d.restored.Stop(ctx); err != nil {
		return err
	}
	if err := d.again(ctx); err != nil {
		return err
	}
	events, err := d.people[0].On(d.restored).Messages(ctx, d.square, 100_000)
	if err != nil {
		return err
	}
	var there int
	for _, e := range events {
		if _, ok := d.before.events[e.EventID]; ok {
			there++
		}
	}
	if there != len(d.before.events) || len(events) < there+1 {
		return fmt.Errorf("after the second boot %d of %d events are there", there, len(d.before.events))
	}
	d.say("%d events, and the new message", there)
	if err := d.healthy(); err != nil {
		return err
	}
	return d.restored.Stop(ctx)
}

func (d *matrix) weigh(ctx context.Context) error {
	size, err := d.sql(ctx, "postgres", "SELECT pg_size_pretty(pg_database_size('synapse'))")
	if err != nil {
		return err
	}
	d.say("the database has %s on disk", size)
	return d.sizes(ctx)
}

// needSynapse looks for what make demo installs.
func (d *matrix) needSynapse() error {
	var err error
	if d.install, err = homeserver.Find(d.tools); err != nil {
		return fmt.Errorf("look for Synapse below %s: %w", filepath.Join(d.tools, ".tools"), err)
	}
	return nil
}
