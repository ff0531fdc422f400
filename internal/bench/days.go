package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// Of a simulated homeserver: users with a device; of a step, which stands for two hours,
// how many of them are seen, and how many events they send.
const (
	dayUsers, stepUsers, stepEvents = 1000, 100, 50
	daySteps                        = 12
)

// functions give hashes, users of this server, and what a key of a device looks like.
const functions = `SET synchronous_commit = off; SET session_replication_role = replica;
CREATE FUNCTION pg_temp.h(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT translate(rtrim(encode(sha256(t::bytea), 'base64'), '='), '+/', '-_') $$;
CREATE FUNCTION pg_temp.who(u bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '@user' || 2 * u || ':localhost' $$;
CREATE FUNCTION pg_temp.key(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT '{"key":"' || pg_temp.h('n' || t) || '","signatures":{"@user:localhost":{"ed25519:DEVICE":"' || pg_temp.h('o' || t) || pg_temp.h('p' || t) || '"}}}' $$;
`

// devices fills the tables that a homeserver rewrites all the time, for %[1]d users.
const devices = functions + `
INSERT INTO devices (user_id, device_id, display_name, last_seen, ip, user_agent, hidden)
	SELECT pg_temp.who(u), 'DEVICE' || u, 'a phone', 0, '10.0.' || u / 250 || '.' || u %% 250, 'Element/1.6.10 (Pixel 8; Android 15; build 40106100)', false FROM generate_series(0, %[1]d - 1) u;
INSERT INTO user_ips SELECT user_id, pg_temp.h('token' || user_id), device_id, ip, user_agent, 0 FROM devices WHERE device_id LIKE 'DEVICE%%';
INSERT INTO presence_stream SELECT u, pg_temp.who(u), 'offline', 0, 0, 0, NULL, false, 'master' FROM generate_series(0, %[1]d - 1) u;
INSERT INTO e2e_one_time_keys_json SELECT pg_temp.who(u), 'DEVICE' || u, 'signed_curve25519', 'k' || k, 0, pg_temp.key(u || 'a' || k) FROM generate_series(0, %[1]d - 1) u, generate_series(1, 20) k;
INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data)
	SELECT u * 20 + r, room_id, 'm.read', pg_temp.who(u), pg_temp.h(''), '{"ts":0}' FROM generate_series(0, %[1]d - 1) u, generate_series(0, 19) r,
		LATERAL (SELECT room_id FROM events WHERE stream_ordering = 100000 + (u * 7 + r) %% 997)`

// step is what a step of number %[1]d does beside its events, which begin with %[2]d: users
// are seen and read, keys are used up and made, messages to devices come and go, members
// of rooms change, what was pushed a day ago is forgotten, one event is redacted and ten go
// for good.
const step = functions + `
CREATE FUNCTION pg_temp.active() RETURNS SETOF text LANGUAGE sql STABLE AS $$ SELECT pg_temp.who((%[1]d::bigint * 37 + k * 13) %% %[3]d) FROM generate_series(1, %[4]d) k $$;
CREATE TEMP TABLE now AS SELECT 1767225600000 + %[1]d * 7200000::bigint AS ms;
CREATE TEMP TABLE new AS SELECT event_id, room_id, stream_ordering FROM events WHERE stream_ordering >= 100000 + %[2]d;
CREATE TEMP TABLE old AS SELECT event_id FROM events WHERE stream_ordering < 100010 + %[1]d * 10;
UPDATE devices SET last_seen = ms FROM now WHERE user_id IN (SELECT pg_temp.active());
UPDATE user_ips SET last_seen = ms FROM now WHERE user_id IN (SELECT pg_temp.active());
UPDATE presence_stream SET stream_id = stream_id + 100000, state = 'online', last_active_ts = ms, currently_active = true FROM now WHERE user_id IN (SELECT pg_temp.active());
UPDATE receipts_linearized SET stream_id = stream_id + 100000, event_id = new.event_id, data = '{"ts":' || ms + stream_id || '}' FROM now, new
	WHERE stream_ordering = 100000 + %[2]d + stream_id %% 50 AND user_id IN (SELECT pg_temp.active()) AND hashtext(receipts_linearized.room_id) & 7 = %[1]d & 7;
DELETE FROM e2e_one_time_keys_json WHERE (user_id, key_id) IN (SELECT pg_temp.who((%[1]d * 20 + k) %% %[3]d), 'k' || 1 + %[1]d * 20 / %[3]d FROM generate_series(0, 19) k);
INSERT INTO e2e_one_time_keys_json SELECT pg_temp.who((%[1]d * 20 + k) %% %[3]d), 'DEVICE' || (%[1]d * 20 + k) %% %[3]d, 'signed_curve25519', 'n' || %[1]d, ms, pg_temp.key('n' || %[1]d || ' ' || k)
	FROM now, generate_series(0, 19) k;
DELETE FROM device_inbox WHERE stream_id <= (%[1]d + 1) * 100;
INSERT INTO device_inbox SELECT pg_temp.who(k * 9), 'DEVICE' || k * 9, (%[1]d + 1) * 100 + k, '{"content":{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":"' || pg_temp.h('q' || %[1]d || ' ' || k)
	|| pg_temp.h('r' || %[1]d || ' ' || k) || pg_temp.h('s' || %[1]d || ' ' || k) || '"},"type":"m.room.encrypted"}', 'master' FROM generate_series(1, 100) k;
DELETE FROM event_push_actions WHERE stream_ordering < 100000 + %[2]d - 12 * 50;
INSERT INTO event_push_actions (room_id, event_id, user_id, actions, topological_ordering, stream_ordering, notif, highlight, unread, thread_id)
	SELECT room_id, event_id, pg_temp.who((stream_ordering * 5 + k) %% %[3]d), '', 1, stream_ordering, 1, 0, 1, 'main' FROM new, generate_series(1, 5) k;
INSERT INTO state_groups SELECT stream_ordering + 10000000, room_id, event_id FROM new WHERE stream_ordering %% 10 = 0;
INSERT INTO state_group_edges SELECT stream_ordering + 10000000, stream_ordering + 10000000 - 50 FROM new WHERE stream_ordering %% 10 = 0;
INSERT INTO state_groups_state SELECT stream_ordering + 10000000, room_id, 'm.room.member', pg_temp.who(stream_ordering %% %[3]d), event_id FROM new WHERE stream_ordering %% 10 = 0;
UPDATE event_json SET json = '{"content":{},"redacted":true,"type":"m.room.message"}' WHERE event_id = (SELECT event_id FROM events WHERE stream_ordering = 100000 + %[2]d - 100);
DELETE FROM event_json WHERE event_id IN (SELECT event_id FROM old);
DELETE FROM event_search WHERE event_id IN (SELECT event_id FROM old);
DELETE FROM event_edges WHERE event_id IN (SELECT event_id FROM old);
DELETE FROM events WHERE event_id IN (SELECT event_id FROM old);
CHECKPOINT;
SET synchronous_commit = on;
BEGIN;
UPDATE presence_stream SET state = 'offline' WHERE user_id = pg_temp.who(0);
SELECT pg_current_wal_insert_lsn();
COMMIT`

// simulated is a simulated database and how far its time is.
type simulated struct {
	db     string
	events *chronicle
	home   home
	agent  *agent
	steps  int
	tables int64 // copied at first
}

// days: what is stored after a month of a homeserver's life, beside what backup tools
// store that take it from the same server at each day's end. Nothing waits for the days: a
// step is a set of transactions, after which the server makes a checkpoint and the agent
// stores and merges what came. In life both come more often. Every table is copied anew twice
// meanwhile, as in a month.
func (b *bench) days(ctx context.Context) error {
	install, err := homeserver.Find(".")
	if err != nil {
		return err
	}
	port, server := b.port, b.server
	defer func() { b.port, b.server = port, server }() // it ends with the figure
	if err := b.startServer(ctx, "days", "archive_mode=on", "summarize_wal=on"); err != nil {
		return err
	}
	if err := b.archiveBy(ctx, "true"); err != nil { // what came before the first backup counts for nobody
		return err
	}
	s := &simulated{db: "days"}
	if err := b.populate(ctx, s, install); err != nil {
		return err
	}
	if s.home, err = b.attach(ctx, s.db, 100*time.Millisecond, strings.TrimSpace(monthLines)); err != nil {
		return err
	}
	if s.agent, err = b.runAgent(s.home); err != nil {
		return err
	}
	if err := b.untilReady(ctx, s.agent); err != nil {
		return err
	}
	s.tables = s.agent.copied.Load()
	peers := b.peers(ctx, s.db)
	for day := range b.month + 1 {
		for range daySteps * min(day, 1) { // day 0 is the first backup
			if err := b.step(ctx, s); err != nil {
				return err
			}
		}
		for _, p := range peers {
			if err := p.day(ctx, day); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
		if day%5 == 0 || day == b.month {
			fmt.Printf("   day %2d: %s\n", day, b.weigh(s, peers))
		}
	}
	return b.sum(ctx, s, peers)
}

// populate makes a homeserver's database with a past.
func (b *bench) populate(ctx context.Context, s *simulated, install homeserver.Install) error {
	if err := b.createDB(ctx, s.db); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "days-homeserver")
	hs, err := homeserver.Start(ctx, homeserver.Options{Dir: dir, Install: install, DSN: b.dsn(s.db)})
	if err != nil {
		return err
	}
	if err := hs.Stop(ctx); err != nil {
		return err
	}
	if s.events, err = newChronicle("localhost", filepath.Join(dir, "signing.key")); err != nil {
		return err
	}
	if err := s.events.grow(ctx, b.dsn(s.db), max(2000, int64(b.megabytes)*15)); err != nil {
		return err
	}
	statements := strings.Split(fmt.Sprintf(devices, dayUsers), ";\n")
	size, err := b.sql(ctx, s.db, append(statements, "VACUUM ANALYZE", "CHECKPOINT", "SELECT pg_size_pretty(pg_database_size('"+s.db+"'))")...)
	fmt.Printf("   %d events, a database of %s; %d days of %d\n", s.events.n, size, b.month, daySteps*stepEvents)
	return err
}

// step lets two hours pass, and waits until the agent has stored them.
func (b *bench) step(ctx context.Context, s *simulated) error {
	from := s.events.n
	if err := s.events.grow(ctx, b.dsn(s.db), stepEvents); err != nil {
		return err
	}
	end, err := b.sql(ctx, s.db, strings.Split(fmt.Sprintf(step, s.steps, from, dayUsers, stepUsers), ";\n")...)
	if err != nil {
		return err
	}
	s.steps++
	return b.confirmed(ctx, s.home.slot, end, s.agent.child)
}

const (
	mb           = 1e6
	monthSeconds = 30 * 24 * 3600
	// monthLines are of the configuration: an epoch for each step, no alarm because a minute
	// holds days, and copies anew as often as in a month.
	monthLines = "merge_segments: 1\nalarm: off\nrefresh_every: 60s\n"
)

// weigh says in a line what everybody stores.
func (b *bench) weigh(s *simulated, peers []*peer) string {
	line := fmt.Sprintf("lifeboat %.1f MB", float64(treeSize(s.home.repository()))/mb)
	for _, p := range peers {
		line += fmt.Sprintf(", %s %.1f MB", p.name, float64(treeSize(p.dir))/mb)
	}
	return line
}

// sum adds the figures.
func (b *bench) sum(ctx context.Context, s *simulated, peers []*peer) error {
	after := fmt.Sprintf("stored after %d days: ", b.month)
	ours, objects := tree(s.home.repository())
	b.tell(after+"lifeboat", fmt.Sprintf("%.1f MB, of it the log %.1f, in %d objects, each of one PUT; to any commit; %d copies of %d tables",
		float64(ours)/mb, float64(treeSize(s.home.log()))/mb, objects, s.agent.copied.Load(), s.tables))
	for _, p := range peers {
		its, wal := treeSize(p.dir), ""
		if p.wal != "" {
			wal = fmt.Sprintf(", of it WAL %.1f", float64(treeSize(p.wal))/mb)
		}
		b.tell(after+p.name, fmt.Sprintf("%.1f MB%s; to %s; lifeboat ÷ it %.2f", float64(its)/mb, wal, p.reach, float64(ours)/float64(its)))
	}
	return b.small(ctx, s, peers)
}

// small adds what a commit of one row costs that is stored at once by itself. Days are made
// of steps, so what is stored more often than that is not in the sums.
func (b *bench) small(ctx context.Context, s *simulated, peers []*peer) error {
	if _, err := b.end(s.agent.child); err != nil {
		return err
	}
	text, err := os.ReadFile(s.home.config())
	if err != nil {
		return err
	}
	// Epochs of the usual length, so that nothing is merged or copied meanwhile.
	if err := os.WriteFile(s.home.config(), []byte(strings.ReplaceAll(string(text), monthLines, "")), 0o644); err != nil {
		return err
	}
	// After this, only what is committed here is written.
	if _, err := b.sql(ctx, s.db, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()", "VACUUM", "CHECKPOINT"); err != nil {
		return err
	}
	if s.agent, err = b.runAgent(s.home); err != nil {
		return err
	}
	const name = "a commit of one row stored by itself: "
	each, err := b.alone(ctx, s.db, s.home.log(), func(end string) error { return b.confirmed(ctx, s.home.slot, end, s.agent.child) })
	if err != nil {
		return err
	}
	b.tell(name+"lifeboat", fmt.Sprintf("%.2f kB; one every 5 s (rpo): %.0f MB a month", each, each*monthSeconds/5/1000))
	for _, p := range peers {
		if p.wal == "" {
			continue
		}
		if each, err = b.alone(ctx, s.db, p.wal, func(string) error { return b.archived(ctx) }); err != nil {
			return err
		}
		b.tell(name+p.name, fmt.Sprintf("%.2f kB; one every 60 s (archive_timeout): %.0f MB a month", each, each*monthSeconds/60/1000))
	}
	return nil
}

// alone gives the kB by which a commit of one row lets a folder grow, when it is stored
// before the next one comes.
func (b *bench) alone(ctx context.Context, db, dir string, store func(end string) error) (kB float64, err error) {
	const commits = 20
	var first int64
	for i := range commits + 1 {
		end, err := b.sql(ctx, db, "BEGIN", "UPDATE devices SET last_seen = last_seen + 1 WHERE user_id = '@user2:localhost'", "SELECT pg_current_wal_insert_lsn()", "COMMIT")
		if err != nil {
			return 0, err
		}
		if err := store(end); err != nil {
			return 0, err
		}
		if i == 0 { // the first one also brings what an agent's start does
			first = treeSize(dir)
		}
	}
	return float64(treeSize(dir)-first) / commits / 1000, nil
}
