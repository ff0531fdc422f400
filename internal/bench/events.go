package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/mspf/event"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// Of the history that is made: rooms, users in turn, events for a group of states, rows
// of each group.
const (
	historyRooms  = 997
	historyUsers  = 5003
	historyEvents = 50
	historyStates = 100
)

// chronicle makes the history of a homeserver as Synapse stores it: events of room
// version 10 with right hashes and ids, signed by the servers of their senders, an edge for
// each, search words for what is not ciphertext (half of it is), a group of states for
// every 50 of a room with 100 rows. Half of the events are of users of other servers, and
// half of the rooms were theirs: what was there before the join is missing, but for the
// first events of the state.
type chronicle struct {
	server string
	id     string // of the server's signing key
	key    ed25519.PrivateKey
	rules  event.Version
	rooms  []roomEnd
	n      int64 // events so far
	tables map[string]*bytes.Buffer
	row    []byte
}

// roomEnd is a room and its newest events.
type roomEnd struct {
	id, creator string
	events      int64
	last        string
	auth        []any
}

// copied are the tables that a chronicle fills, with their columns.
func copied() map[string]string {
	return map[string]string{
		"rooms": "room_id, is_public, creator, room_version",
		"events": "topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts, sender, contains_url, instance_name, " +
			"stream_ordering, state_key",
		"event_json":            "event_id, room_id, internal_metadata, json, format_version",
		"event_edges":           "event_id, prev_event_id, is_state",
		"event_to_state_groups": "event_id, state_group",
		"event_search":          "event_id, room_id, sender, key, vector, origin_server_ts, stream_ordering",
		"state_groups":          "id, room_id, event_id",
		"state_groups_state":    "state_group, room_id, type, state_key, event_id",
	}
}

// newChronicle takes the signing key of a server that runs.
func newChronicle(server, keyFile string) (*chronicle, error) {
	lines, err := synapse.ReadSigningKeys(keyFile)
	if err != nil {
		return nil, err
	}
	f := strings.Fields(lines[0])
	seed, err := base64.RawStdEncoding.DecodeString(f[2])
	if err != nil {
		return nil, fmt.Errorf("the signing key: %w", err)
	}
	rules, ok := event.Lookup("10")
	if !ok {
		return nil, fmt.Errorf("room version 10 is not known")
	}
	return &chronicle{server: server, id: "ed25519:" + f[1], key: ed25519.NewKeyFromSeed(seed), rules: rules, rooms: make([]roomEnd, historyRooms), tables: map[string]*bytes.Buffer{}}, nil
}

// grow adds events to the database.
func (c *chronicle) grow(ctx context.Context, dsn string, events int64) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off; SET session_replication_role = replica").ReadAll(); err != nil {
		return err
	}
	for end := c.n + events; c.n < end; {
		for stop := min(end, c.n+10_000); c.n < stop; c.n++ {
			if err := c.event(); err != nil {
				return err
			}
		}
		for table, rows := range c.tables {
			if _, err := conn.CopyFrom(ctx, rows, "COPY "+table+" ("+copied()[table]+") FROM STDIN"); err != nil {
				return fmt.Errorf("fill %s: %w", table, err)
			}
			rows.Reset()
		}
	}
	return nil
}

// put adds a row.
func (c *chronicle) put(table string, values ...any) {
	rows := c.tables[table]
	if rows == nil {
		rows = &bytes.Buffer{}
		c.tables[table] = rows
	}
	c.row = c.row[:0]
	for i, v := range values {
		if i > 0 {
			c.row = append(c.row, '\t')
		}
		switch v := v.(type) {
		case nil:
			c.row = record.AppendNull(c.row)
		case bool:
			c.row = append(c.row, map[bool]string{true: "t", false: "f"}[v]...)
		case []byte:
			c.row = record.AppendValue(c.row, v)
		default:
			c.row = record.AppendValue(c.row, fmt.Append(nil, v))
		}
	}
	rows.Write(append(c.row, '\n'))
}

// noise is as wide as a hash, and the same each time.
func noise(kind string, n int64) string {
	sum := sha256.Sum256(strconv.AppendInt([]byte(kind), n, 10))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// user gives the users in turn; every other one is of another server.
func (c *chronicle) user(n int64) string {
	n %= historyUsers
	if n%2 == 0 {
		return fmt.Sprintf("@user%d:%s", n, c.server)
	}
	return fmt.Sprintf("@user%d:remote%d.example.org", n, n%97)
}

// event makes the next one: the first three of a room are its state.
func (c *chronicle) event() error {
	room := c.n % historyRooms
	r := &c.rooms[room]
	foreign := room%2 != 0
	if r.events == 0 {
		r.creator = c.user(room)
		r.id = "!" + noise("room", room)[:18] + r.creator[strings.IndexByte(r.creator, ':'):]
		c.put("rooms", r.id, false, r.creator, "10")
	}
	ev := map[string]any{"room_id": r.id, "sender": r.creator, "state_key": "", "prev_events": []any{r.last}, "auth_events": r.auth}
	switch r.events {
	case 0:
		ev["type"], ev["content"], ev["prev_events"], ev["auth_events"] = "m.room.create", map[string]any{"creator": r.creator, "room_version": "10"}, []any{}, []any{}
	case 1:
		ev["type"], ev["state_key"], ev["content"] = "m.room.member", r.creator, map[string]any{"membership": "join", "displayname": r.creator[1:8]}
	case 2:
		ev["type"], ev["content"] = "m.room.power_levels", map[string]any{"users": map[string]any{r.creator: int64(100)}, "users_default": int64(0), "ban": int64(50), "events": map[string]any{}}
	default:
		delete(ev, "state_key")
		c.message(ev)
		if r.events == 3 && foreign {
			ev["prev_events"] = []any{"$" + noise("before", room)}
		}
	}
	ev["depth"] = 1 + r.events
	id, text, err := c.sign(ev)
	if err != nil {
		return err
	}
	c.store(ev, r, id, text, foreign && r.events < 3)
	if r.last = id; r.events < 3 {
		r.auth = append(r.auth, id)
	}
	r.events++
	return nil
}

func (c *chronicle) message(ev map[string]any) {
	ev["sender"] = c.user(c.n)
	if c.n/2%2 == 0 {
		text := ""
		for _, part := range []string{"c", "d", "e", "f", "g", "h"} {
			text += noise(part, c.n)
		}
		ev["type"], ev["content"] = "m.room.encrypted", map[string]any{
			"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": text, "device_id": strings.ToUpper(noise("device", c.n)[:10]),
			"sender_key": noise("i", c.n%historyUsers), "session_id": noise("j", c.n/100),
		}
		return
	}
	ev["type"], ev["content"] = "m.room.message", map[string]any{"msgtype": "m.text", "body": strings.Repeat("the quick brown fox jumps over the lazy dog ", 1+int(c.n%5)) + strconv.FormatInt(c.n, 10)}
}

func (c *chronicle) time() int64 { return 1767225600000 + c.n*1700 }

// sign makes an event whole: hash, signature, id.
func (c *chronicle) sign(ev map[string]any) (id string, text []byte, err error) {
	ev["origin_server_ts"] = c.time()
	sum, err := c.rules.ContentHash(ev)
	if err != nil {
		return "", nil, err
	}
	ev["hashes"] = map[string]any{"sha256": base64.RawStdEncoding.EncodeToString(sum[:])}
	_, server, _ := strings.Cut(ev["sender"].(string), ":")
	keyID, key := c.id, c.key
	if server != c.server {
		seed := sha256.Sum256([]byte(server))
		keyID, key = "ed25519:a_far", ed25519.NewKeyFromSeed(seed[:])
	}
	signature, err := c.rules.Sign(ev, key)
	if err != nil {
		return "", nil, err
	}
	ev["signatures"] = map[string]any{server: map[string]any{keyID: signature}}
	if id, err = c.rules.EventID(ev); err != nil {
		return "", nil, err
	}
	ev["unsigned"] = map[string]any{"age_ts": c.time()}
	text, err = event.Canonical(ev)
	return id, text, err
}

func (c *chronicle) store(ev map[string]any, r *roomEnd, id string, text []byte, outlier bool) {
	stream := 100_000 + c.n
	kind, depth, at := ev["type"], ev["depth"], c.time()
	c.put("events", depth, id, kind, r.id, true, outlier, depth, at, at+20, ev["sender"], false, "master", stream, ev["state_key"])
	c.put("event_json", id, r.id, fmt.Sprintf(`{"device_id":"%s","txn_id":"m%d"}`, strings.ToUpper(noise("device", c.n)[:10]), at), text, 4)
	if outlier {
		return
	}
	for _, prev := range ev["prev_events"].([]any) {
		c.put("event_edges", id, prev, false)
	}
	if kind == "m.room.message" {
		c.put("event_search", id, r.id, nil, "content.body", fmt.Sprintf("'word%d':1 'word%d':2 'the':3 'quick':4 'brown':5 'fox':6 '%d':7", c.n%3001, c.n%7013, c.n), at, stream)
	}
	c.states(r, id)
}

// states notes the group of states of an event, and makes one where it is time.
func (c *chronicle) states(r *roomEnd, id string) {
	room, of := c.n%historyRooms, r.events/historyEvents
	group := 100_000 + of*historyRooms + room
	c.put("event_to_state_groups", id, group)
	first := of * historyEvents
	if of == 0 && room%2 != 0 {
		first = 3 // those before it are of the others
	}
	if r.events != first {
		return
	}
	c.put("state_groups", group, r.id, id)
	for m := range int64(historyStates) {
		c.put("state_groups_state", group, r.id, "m.room.member", c.user(room*31+m), "$"+noise("member", room*31+m))
	}
}
