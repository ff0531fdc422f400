package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// history fills the schema that Synapse made with the events from %[1]d to before
// %[2]d, multiples of 50: ids, JSON, signatures and search words as wide as real ones,
// an edge for each, a state group for every 50 with 100 rows of state. Half of the
// content is ciphertext.
const history = `SET synchronous_commit = off; SET session_replication_role = replica;
CREATE FUNCTION pg_temp.h(t text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT translate(rtrim(encode(sha256(t::bytea), 'base64'), '='), '+/', '-_') $$;
CREATE FUNCTION pg_temp.id(g bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '$' || pg_temp.h(g::text) $$;
CREATE FUNCTION pg_temp.room(g bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '!' || pg_temp.h('room' || g %% 997) $$;
CREATE FUNCTION pg_temp.who(g bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '@user' || g %% 5003 || ':localhost' $$;
INSERT INTO rooms (room_id, is_public, creator, room_version) SELECT DISTINCT pg_temp.room(g), false, pg_temp.who(g %% 997), '10' FROM generate_series(%[1]d, %[2]d - 1) g ON CONFLICT DO NOTHING;
INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts, sender, contains_url, instance_name, stream_ordering)
	SELECT g / 997, pg_temp.id(g), CASE WHEN g %% 2 = 0 THEN 'm.room.encrypted' ELSE 'm.room.message' END, pg_temp.room(g), true, false, g / 997,
		1767225600000 + g * 1700, 1767225600020 + g * 1700, pg_temp.who(g), false, 'master', 100000 + g FROM generate_series(%[1]d, %[2]d - 1) g;
INSERT INTO event_json SELECT pg_temp.id(g), pg_temp.room(g), '{"device_id":"' || substr(upper(md5(g::text)), 1, 10) || '","txn_id":"m' || 1767225600000 + g || '"}',
	'{"auth_events":["' || pg_temp.h('a' || g %% 997) || '","' || pg_temp.h('b' || g %% 5003) || '"],"content":{' || CASE WHEN g %% 2 = 0 THEN
		'"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"' || pg_temp.h('c' || g) || pg_temp.h('d' || g) || pg_temp.h('e' || g) || pg_temp.h('f' || g)
			|| pg_temp.h('g' || g) || pg_temp.h('h' || g) || '","device_id":"' || substr(upper(md5(g::text)), 1, 10) || '","sender_key":"' || pg_temp.h('i' || g %% 5003)
			|| '","session_id":"' || pg_temp.h('j' || g / 100) || '"'
		ELSE '"body":"' || repeat('the quick brown fox jumps over the lazy dog ', 1 + (g %% 5)::int) || g || '","msgtype":"m.text"' END
	|| '},"depth":' || g / 997 || ',"hashes":{"sha256":"' || pg_temp.h('k' || g) || '"},"origin_server_ts":' || 1767225600000 + g * 1700
	|| ',"prev_events":["' || pg_temp.id(g - 997) || '"],"room_id":"' || pg_temp.room(g) || '","sender":"' || pg_temp.who(g)
	|| '","signatures":{"localhost":{"ed25519:a_life":"' || pg_temp.h('l' || g) || pg_temp.h('m' || g) || '"}},"type":"m.room.'
	|| CASE WHEN g %% 2 = 0 THEN 'encrypted' ELSE 'message' END || '","unsigned":{"age_ts":' || 1767225600000 + g * 1700 || '}}', 4 FROM generate_series(%[1]d, %[2]d - 1) g;
INSERT INTO event_edges (event_id, prev_event_id, is_state) SELECT pg_temp.id(g), pg_temp.id(g - 997), false FROM generate_series(%[1]d, %[2]d - 1) g;
INSERT INTO event_to_state_groups SELECT pg_temp.id(g), 100000 + g / 50 FROM generate_series(%[1]d, %[2]d - 1) g;
INSERT INTO event_search SELECT pg_temp.id(g), pg_temp.room(g), NULL, 'content.body', to_tsvector('simple', 'word' || g %% 3001 || ' word' || g %% 7013 || ' the quick brown fox ' || g),
	1767225600000 + g * 1700, 100000 + g FROM generate_series(%[1]d, %[2]d - 1, 2) g;
INSERT INTO state_groups SELECT 100000 + k, pg_temp.room(k), pg_temp.id(k * 50) FROM generate_series(%[1]d / 50, %[2]d / 50 - 1) k;
INSERT INTO state_groups_state SELECT 100000 + k, pg_temp.room(k), 'm.room.member', pg_temp.who(k * 31 + m), pg_temp.id(-k * 31 - m)
	FROM generate_series(%[1]d / 50, %[2]d / 50 - 1) k, generate_series(1, 100) m`

// synapse: what a message costs with and without the agent, on a homeserver that
// runs; then copy and restore of a database of its shape.
func (b *bench) synapse(ctx context.Context) error {
	const db = "synapse"
	install, err := homeserver.Find(".")
	if errors.Is(err, homeserver.ErrMissing) {
		fmt.Printf("   not measured: %v\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if err := b.messages(ctx, db, install); err != nil {
		return err
	}
	events, err := b.grow(ctx, db, int64(b.megabytes)<<20)
	if err != nil {
		return err
	}
	h, err := b.copyAndRestore(ctx, db, ", Synapse")
	if err != nil {
		return err
	}
	return b.export(ctx, h, events)
}

// export writes the archive of a homeserver: events a second of processor time, and the
// peak of the memory.
func (b *bench) export(ctx context.Context, h home, events int64) error {
	const target, most = 40_000, 256 // events a second of one processor, MiB
	var rates []float64
	peak := int64(0)
	for i := range b.pairs {
		file := filepath.Join(h.dir, fmt.Sprintf("server-%d.tar.zst.age", i))
		u, err := b.lifeboatRun(ctx, h, "export", "--at", "latest", "--no-signing-key", "--key", h.key(), file)
		if err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("   export: %d events, %d MiB, in %.2f s (cpu %.2f), peak %d MiB\n", events, info.Size()>>20, u.wall, u.cpu, u.peak>>10)
		rates, peak = append(rates, float64(events)/u.cpu), max(peak, u.peak)
	}
	r := &result{name: "export, events a second and processor", target: target, miss: median(rates) < target}
	r.plain = fmt.Sprintf("%.0f of %d (target ≥ %d)", median(rates), events, target)
	b.results = append(b.results, r)
	fmt.Printf("   %s: %s\n", r.name, r.plain)
	b.peak("peak memory of export", peak, most)
	return nil
}

// grow adds events until the database has size bytes, and gives their number.
func (b *bench) grow(ctx context.Context, db string, size int64) (events int64, err error) {
	for from, step := int64(0), int64(b.megabytes)*200/50*50; ; {
		if _, err := b.sql(ctx, db, append(strings.Split(fmt.Sprintf(history, from, from+step), ";\n"), "VACUUM ANALYZE", "CHECKPOINT")...); err != nil {
			return 0, err
		}
		from += step
		out, err := b.sql(ctx, db, "SELECT pg_database_size('"+db+"')")
		if err != nil {
			return 0, err
		}
		have, err := strconv.ParseInt(out, 10, 64)
		if err != nil {
			return 0, err
		}
		if have >= size {
			fmt.Printf("   %d events, a database of %d bytes\n", from, have)
			return from, nil
		}
		step = ((size-have)/(have/from)/50 + 20) * 50 // what is left, at the size of an event so far, and 1000
	}
}

// messages boots a homeserver and measures the sending of messages by one client
// after the other, as its user sees it.
func (b *bench) messages(ctx context.Context, db string, install homeserver.Install) error {
	s, err := homeserver.Start(ctx, homeserver.Options{Dir: filepath.Join(b.dir, "homeserver"), Install: install, DSN: b.dsn(db)})
	if err != nil {
		return err
	}
	defer func() { _ = s.Stop(ctx) }()
	c, err := s.Register(ctx, "alice", "wonderland", true)
	if err != nil {
		return err
	}
	room, err := c.CreateRoom(ctx, homeserver.Room{Name: "measured"})
	if err != nil {
		return err
	}
	if _, err := b.send(ctx, db, c, room); err != nil { // warms up
		return err
	}
	var with, without []sending
	for i := range b.pairs {
		for _, agent := range []bool{i%2 == 0, i%2 != 0} {
			if !agent {
				took, err := b.send(ctx, db, c, room)
				if err != nil {
					return err
				}
				without = append(without, took)
				continue
			}
			took, err := b.sendFollowed(ctx, db, c, room)
			if err != nil {
				return err
			}
			with = append(with, took)
		}
	}
	for _, f := range []struct {
		name, unit string
		of         func(sending) float64
	}{
		{"a message, median, with and without", "ms", func(s sending) float64 { return s.p50 }},
		{"a message, 99th of 100, with and without", "ms", func(s sending) float64 { return s.p99 }},
		{"WAL of a message, with and without", "kB", func(s sending) float64 { return s.wal }},
	} {
		b.compare(f.name, f.unit, with, without, f.of)
	}
	return nil
}

// sending is what messages took: milliseconds each, and kB of WAL.
type sending struct{ p50, p99, wal float64 }

func (b *bench) sendFollowed(ctx context.Context, db string, c *homeserver.Client, room string) (took sending, err error) {
	h, err := b.attach(ctx, db, 5*time.Second)
	if err != nil {
		return took, err
	}
	a, err := b.runAgentAt(h, agentNice)
	if err != nil {
		return took, err
	}
	if err := b.untilReady(ctx, a); err != nil {
		return took, err
	}
	if took, err = b.send(ctx, db, c, room); err != nil {
		return took, err
	}
	if _, err := b.end(a.child); err != nil {
		return took, err
	}
	return took, b.detach(ctx, h)
}

// send sends 30 messages for each second that the other figures take.
func (b *bench) send(ctx context.Context, db string, c *homeserver.Client, room string) (took sending, err error) {
	if _, err := b.sql(ctx, db, "CHECKPOINT"); err != nil {
		return took, err
	}
	position := func() (float64, error) {
		n, err := b.sql(ctx, db, "SELECT pg_current_wal_insert_lsn() - '0/0'")
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(n, 64)
	}
	const first = 30 // after a checkpoint each page that is touched is in the WAL whole
	var each []float64
	var from float64
	for i := range first + 30*b.seconds {
		if i == first {
			if from, err = position(); err != nil {
				return took, err
			}
		}
		began := time.Now()
		if _, err := c.Say(ctx, room, fmt.Sprintf("message %d of some length, as people write them", i)); err != nil {
			return took, err
		}
		if i >= first {
			each = append(each, time.Since(began).Seconds()*1000)
		}
	}
	to, err := position()
	slices.Sort(each)
	return sending{p50: median(each), p99: each[len(each)*99/100], wal: (to - from) / float64(len(each)) / 1000}, err
}

// compare adds a figure that is a pair of values and not a ratio of times.
func (b *bench) compare(name, unit string, with, without []sending, of func(sending) float64) {
	values := func(all []sending) float64 {
		x := make([]float64, len(all))
		for i := range all {
			x[i] = of(all[i])
		}
		return median(x)
	}
	w, o := values(with), values(without)
	r := &result{name: name, plain: fmt.Sprintf("%.1f and %.1f %s (%.2f; no target)", w, o, unit, w/o)}
	b.results = append(b.results, r)
	fmt.Printf("   %s: %s\n", r.name, r.plain)
}
