package archive

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/archivetest"
	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
	"lifeboat.im/lifeboat/record"
)

// database is rows made by hand: by table the columns and the lines.
type database map[string]*handMade

type handMade struct {
	columns []string
	lines   []string
}

func (d database) Columns(table string) []string {
	if t := d[table]; t != nil {
		return t.columns
	}
	return nil
}

func (d database) Rows(table string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if t := d[table]; t != nil {
			for _, l := range t.lines {
				if !yield([]byte(l), nil) {
					return
				}
			}
		}
	}
}

// add puts a row into a table, whose columns are those of its first row.
func (d database) add(table string, values map[string]any) {
	t := d[table]
	if t == nil {
		t = &handMade{}
		for name := range values {
			t.columns = append(t.columns, name)
		}
		slices.Sort(t.columns)
		d[table] = t
	}
	var line []byte
	for i, name := range t.columns {
		if i > 0 {
			line = append(line, '\t')
		}
		switch v := values[name].(type) {
		case nil:
			line = record.AppendNull(line)
		case bool:
			line = append(line, map[bool]string{true: "t", false: "f"}[v]...)
		default:
			line = record.AppendValue(line, []byte(fmt.Sprint(v)))
		}
	}
	t.lines = append(t.lines, string(line))
	slices.Sort(t.lines)
}

const ourServer = "example.org"

var seed = [32]byte{7}

func signingKey() string { return "ed25519:a " + base64.RawStdEncoding.EncodeToString(seed[:]) }

func options() Options {
	return Options{
		Archive:     mspf.Archive{Tool: "test", ServerName: ourServer, Media: "none", Filters: []string{}, Point: mspf.Point{Time: 1700000000000}},
		SigningKeys: []string{strings.Replace(signingKey(), ":", " ", 1)},
		Memory:      4 << 20,
	}
}

// world is a homeserver's rooms.
type world struct {
	t      testing.TB
	d      database
	stream int64
	depth  map[string]int64
	ids    map[string]bool
}

func newWorld(t testing.TB) *world {
	return &world{t: t, d: database{}, depth: map[string]int64{}, ids: map[string]bool{}}
}

// sent is an event and how it is stored.
type sent struct {
	version, room, kind, sender string
	stateKey                    any
	content                     string
	prev, auth                  []string
	unsigned                    string
	meta                        string // internal_metadata
	outlier                     bool
	rejected                    any
	tamper                      func(ev map[string]any) // after it was signed
	depth                       int64
	deep                        bool // nested deeper than an archive may be
}

// send stores an event as Synapse does, and gives the event's id and room.
func (w *world) send(s sent) (id, room string) {
	w.t.Helper()
	v, ok := event.Lookup(s.version)
	if !ok {
		w.t.Fatalf("room version %s", s.version)
	}
	w.stream++
	if s.depth == 0 {
		w.depth[s.room]++
		s.depth = w.depth[s.room]
	}
	if s.sender == "" {
		s.sender = "@a:" + ourServer
	}
	ev := map[string]any{"type": s.kind, "sender": s.sender, "depth": s.depth, "origin_server_ts": int64(1600000000000) + w.stream, "prev_events": w.refs(v, s.prev), "auth_events": w.refs(v, s.auth)}
	if s.room != "" && (!v.RoomIDIsHash || s.kind != "m.room.create") {
		ev["room_id"] = s.room
	}
	if v.IDFormat == event.IDInEvent {
		ev["event_id"] = fmt.Sprintf("$%d:%s", w.stream, ourServer)
	}
	if s.stateKey != nil {
		ev["state_key"] = s.stateKey
	}
	content, _, err := event.Parse([]byte(s.content))
	if err != nil {
		w.t.Fatal(err)
	}
	ev["content"] = content
	hash, err := v.ContentHash(ev)
	if err != nil {
		w.t.Fatal(err)
	}
	ev["hashes"] = map[string]any{"sha256": base64.RawStdEncoding.EncodeToString(hash[:])}
	if domain(s.sender) == ourServer {
		signature, err := v.Sign(ev, ed25519.NewKeyFromSeed(seed[:]))
		if err != nil {
			w.t.Fatal(err)
		}
		ev["signatures"] = map[string]any{ourServer: map[string]any{"ed25519:a": signature}}
	}
	if id, err = v.EventID(ev); err != nil {
		w.t.Fatal(err)
	}
	if room, err = v.RoomID(ev); err != nil {
		w.t.Fatal(err)
	}
	if s.tamper != nil {
		s.tamper(ev)
	}
	if s.unsigned != "" {
		ev["unsigned"], _, _ = event.Parse([]byte(s.unsigned))
	}
	w.store(s, id, room, ev)
	return id, room
}

func (w *world) store(s sent, id, room string, ev map[string]any) {
	text, err := event.Canonical(ev)
	if err != nil { // a float, which only text has
		if text, err = json.Marshal(ev); err != nil {
			w.t.Fatal(err)
		}
	}
	if s.meta == "" {
		s.meta = "{}"
	}
	if s.deep {
		text = append(text[:len(text)-1], `,"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+"}"...)
	}
	w.d.add("event_json", map[string]any{"event_id": id, "room_id": room, "internal_metadata": s.meta, "json": string(text), "format_version": 3})
	w.d.add("events", map[string]any{
		"event_id": id, "room_id": room, "type": s.kind, "sender": s.sender, "stream_ordering": w.stream, "received_ts": 1600000000500 + w.stream,
		"outlier": s.outlier, "depth": s.depth, "rejection_reason": s.rejected,
	})
}

func (w *world) refs(v event.Version, ids []string) []any {
	list := []any{}
	for _, id := range ids {
		if v.IDFormat == event.IDInEvent {
			list = append(list, []any{id, map[string]any{"sha256": "c29tZQ"}})
		} else {
			list = append(list, id)
		}
	}
	return list
}

// room makes one with its first events; last is the newest of them.
func (w *world) room(version string) (room, create, last string) {
	return w.roomOf(version, version, "!room"+version+":"+ourServer)
}

// roomOf makes one that calls itself of one version and follows the rules of another.
func (w *world) roomOf(name, version, named string) (room, create, last string) {
	create, room = w.send(sent{version: version, room: named, kind: "m.room.create", stateKey: "", content: `{"creator":"@a:example.org","room_version":"` + name + `"}`})
	w.depth[room] = 1
	auth := []string{create}
	if version == "12" {
		auth = nil // its create event is implied by the room's id
	}
	last, _ = w.send(sent{version: version, room: room, kind: "m.room.member", stateKey: "@a:example.org", content: `{"membership":"join"}`, prev: []string{create}, auth: auth})
	w.d.add("rooms", map[string]any{"room_id": room, "is_public": version == "10", "creator": "@a:example.org", "room_version": name})
	w.state(room, "m.room.create", "", create, nil)
	w.state(room, "m.room.member", "@a:example.org", last, "join")
	w.d.add("local_current_membership", map[string]any{"room_id": room, "user_id": "@a:example.org", "event_id": last, "membership": "join"})
	return room, create, last
}

func (w *world) state(room, kind, stateKey, id string, membership any) {
	w.d.add("current_state_events", map[string]any{"room_id": room, "type": kind, "state_key": stateKey, "event_id": id, "membership": membership})
}

// export writes the archive and reads it back; there must be no finding but those
// named.
func (w *world) export(o Options, findings ...string) *written {
	w.t.Helper()
	dir, err := spill.Open(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	c, err := Contents(context.Background(), w.d, dir, o)
	if err != nil {
		w.t.Fatal(err)
	}
	out := &written{t: w.t, path: filepath.Join(w.t.TempDir(), "a")}
	s, err := mspf.Write(context.Background(), out.path, *c, mspf.WriteOptions{Plaintext: true})
	if err != nil {
		w.t.Fatal(err)
	}
	out.report = s.Report
	archivetest.Check(w.t, out.path, mspf.ReadOptions{}, findings...)
	return out
}

// prepared reads a database and says which tables were read.
func (w *world) prepared(t Tables) map[string]bool {
	w.t.Helper()
	dir, err := spill.Open(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	defer dir.Close()
	b := newBuilder(context.Background(), t, dir, options())
	for _, step := range b.steps() {
		if err := step(&mspf.Contents{Server: &mspf.Server{}}); err != nil {
			w.t.Fatal(err)
		}
	}
	return b.read
}

// written is an archive that was read back.
type written struct {
	t      testing.TB
	path   string
	report mspf.Report
}

// lost gives the count of a loss by its code.
func (a *written) lost(code string) (n int64) {
	for _, l := range a.report.Losses {
		if l.Code == code {
			n += l.Count
		}
	}
	return n
}

// each goes through the elements of an item.
func (a *written) each(item string, f func(mspf.Element) error) {
	a.t.Helper()
	if _, err := mspf.Read(context.Background(), a.path, mspf.ReadOptions{}, func(e mspf.Element) error {
		if e.Item != item {
			return nil
		}
		return f(e)
	}); err != nil {
		a.t.Fatal(err)
	}
}

// decode gives the elements of an item by key.
func decode[T any](a *written, item string) map[string][]T {
	a.t.Helper()
	all := map[string][]T{}
	a.each(item, func(e mspf.Element) error {
		var v T
		err := e.Decode(&v)
		all[e.Key] = append(all[e.Key], v)
		return err
	})
	return all
}

// event gives an event with its meta by id.
func (a *written) event(id string) (tree map[string]any, m mspf.EventMeta) {
	a.t.Helper()
	at, n := -1, 0
	a.each("im.lifeboat.event_meta", func(e mspf.Element) error {
		var x mspf.EventMeta
		err := e.Decode(&x)
		if x.EventID == id {
			m, at = x, n
		}
		n++
		return err
	})
	n = 0
	a.each("m.events", func(e mspf.Element) error {
		if n++; n-1 != at {
			return nil
		}
		return e.Decode(&tree)
	})
	if tree == nil {
		a.t.Fatalf("no event %s", id)
	}
	return tree, m
}

// group stores the state after an event: the groups that each builds on, and what they hold.
func (w *world) group(id string, group int64, edges map[int64]int64, entries map[int64][][3]string) {
	for from, to := range edges {
		w.d.add("state_group_edges", map[string]any{"state_group": from, "prev_state_group": to})
	}
	for g, list := range entries {
		for _, e := range list {
			w.d.add("state_groups_state", map[string]any{"state_group": g, "room_id": "", "type": e[0], "state_key": e[1], "event_id": e[2]})
		}
	}
	w.d.add("event_to_state_groups", map[string]any{"event_id": id, "state_group": group})
}
