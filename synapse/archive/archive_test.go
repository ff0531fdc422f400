package archive

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// TestEveryRoomVersion: rooms of all versions go into an archive in which nothing is to
// be objected to, and whose report has no loss.
func TestEveryRoomVersion(t *testing.T) {
	w := newWorld(t)
	for _, v := range event.Versions() {
		room, _, last := w.room(v.ID)
		w.send(sent{version: v.ID, room: room, kind: "m.room.message", content: `{"body":"hello"}`, prev: []string{last}, unsigned: `{"age_ts":1}`})
	}
	w.d.add("room_retention", map[string]any{"room_id": "!room10:example.org", "event_id": "$r", "min_lifetime": nil, "max_lifetime": 1000})
	a := w.export(options())
	if n := len(slices.Concat(slices.Collect(maps.Values(decode[map[string]any](a, "m.events")))...)); n != 36 {
		t.Errorf("%d events, want 36", n)
	}
	for _, l := range a.report.Losses {
		if l.State != mspf.Absent {
			t.Errorf("lost: %+v", l)
		}
	}
	archive := decode[mspf.Archive](a, "im.lifeboat.archive")[""][0]
	if archive.EventOrder != "dag" || archive.Redaction != "applied" {
		t.Errorf("order %q, redaction %q", archive.EventOrder, archive.Redaction)
	}
	rooms := decode[mspf.RoomDetails](a, "im.lifeboat.rooms")
	if d := rooms["!room10:example.org"][0]; !d.Public || !d.LocalOnly || d.Members["@a:example.org"].Membership != "join" || len(d.State) != 2 {
		t.Errorf("details: %+v", d)
	} else if p, ok := d.Retention.(map[string]any); !ok || len(p) != 1 || fmt.Sprint(p["max_lifetime"]) != "1000" {
		t.Errorf("retention: %+v", d.Retention)
	}
}

// TestX1_RedactedContentNeverLeaks: what was taken back and is still stored is not in the
// archive; a redaction that Synapse does not honour takes nothing back.
func TestX1_RedactedContentNeverLeaks(t *testing.T) {
	w := newWorld(t)
	room, create, last := w.room("10")
	say := func(body, sender string) string {
		id, _ := w.send(sent{version: "10", room: room, kind: "m.room.message", sender: sender, content: `{"body":"` + body + `"}`, prev: []string{last}, auth: []string{create}})
		last = id
		return id
	}
	redact := func(target, sender, meta string, rejected any, recheck bool) string {
		id, _ := w.send(sent{version: "10", room: room, kind: "m.room.redaction", sender: sender, content: `{"redacts":"` + target + `"}`, prev: []string{last}, auth: []string{create}, meta: meta, rejected: rejected})
		w.d.add("redactions", map[string]any{"event_id": id, "redacts": target, "have_censored": false, "recheck": recheck})
		last = id
		return id
	}
	gone, kept := map[string]string{}, map[string]string{}
	x := say("secret-confirmed", "")
	gone[x] = redact(x, "@a:example.org", "{}", nil, false)
	x = say("secret-same-server", "")
	gone[x] = redact(x, "@b:example.org", `{"recheck_redaction": true}`, nil, true)
	x = say("kept-other-server", "")
	kept[x] = redact(x, "@b:elsewhere.org", `{"recheck_redaction": true}`, nil, true)
	x = say("kept-rejected", "")
	kept[x] = redact(x, "@a:example.org", "{}", "AuthError", true)
	kept[create] = redact(create, "@a:example.org", "{}", nil, false)
	x = say("secret-of-banned", "@spam:elsewhere.org")
	ban, _ := w.send(sent{version: "10", room: room, kind: "m.room.member", stateKey: "@spam:elsewhere.org", content: `{"membership":"ban"}`, prev: []string{last}, auth: []string{create}})
	w.d.add("room_ban_redactions", map[string]any{"room_id": room, "user_id": "@spam:elsewhere.org", "redacting_event_id": ban, "redact_end_ordering": w.stream})
	gone[x] = ban
	last = ban
	kept[say("kept-after-the-ban", "@spam:elsewhere.org")] = ""
	for v, rules := range map[string]string{"org.example.future": "6", "3": "3"} { // rules that nobody knows here; a text beside CBOR
		room, create, _ := w.roomOf(v, rules, "!"+v+":example.org")
		content := `{"body":"secret-` + v + `","n":1}`
		x, _ := w.send(sent{version: rules, room: room, kind: "m.room.message", content: content, prev: []string{create}, auth: []string{create}, unsigned: `{"prev_content":{"body":"secret-unsigned"},"age":1.5}`})
		w.d.add("redactions", map[string]any{"event_id": "$r" + v, "redacts": x, "have_censored": false, "recheck": false})
	}
	w.send(sent{version: "10", room: room, kind: "m.room.message", content: `{"body":"x","n":1}`, prev: []string{create}, auth: []string{create}, unsigned: `{"prev_content":{"body":"secret-unsigned"},"age":1.5}`})
	invite, _ := w.send(sent{
		version: "10", room: room, kind: "m.room.member", stateKey: "@b:example.org", content: `{"membership":"invite","reason":"secret-reason"}`, prev: []string{create}, auth: []string{create},
		unsigned: `{"invite_room_state":[{"type":"m.room.name","state_key":"","content":{"name":"secret-name"},"sender":"@a:example.org"}]}`,
	})
	w.d.add("local_current_membership", map[string]any{"room_id": room, "user_id": "@b:example.org", "event_id": invite, "membership": "invite"})
	gone[invite] = redact(invite, "@a:example.org", "{}", nil, false)
	deep, _ := w.send(sent{version: "10", room: room, kind: "m.room.message", content: `{"body":"secret-deep"}`, prev: []string{create}, auth: []string{create}, deep: true})
	redact(deep, "@a:example.org", "{}", nil, false)

	a := w.export(options(), mspf.CodeVersion)
	for id, by := range gone {
		ev, m := a.event(id)
		if content := ev["content"].(map[string]any); content["body"] != nil || content["reason"] != nil || m.RedactedBy != by || !m.Censored {
			t.Errorf("%s: content %v, meta %+v, want redacted by %s", id, content, m, by)
		}
	}
	for id := range kept {
		if ev, m := a.event(id); len(ev["content"].(map[string]any)) == 0 || m.RedactedBy != "" {
			t.Errorf("%s: %v %+v, want it as it was", id, ev, m)
		}
	}
	if i := decode[mspf.Invite](a, "im.lifeboat.invites")[room]; len(i) != 1 || len(i[0].State) != 0 {
		t.Errorf("a redacted invitation: %+v", i)
	}
	for code, n := range map[string]int64{"redaction_guessed": 1, "redaction_failed": 1} {
		if got := a.lost(code); got != n {
			t.Errorf("%s: %d, want %d", code, got, n)
		}
	}
	if leak := holding(t, a.path, "secret-"); leak != "" {
		t.Errorf("%s holds redacted content", leak)
	}
	o := options()
	o.AsStored = true
	if b := w.export(o, mspf.CodeVersion); holding(t, b.path, "secret-confirmed") == "" {
		t.Error("as stored, nothing is redacted")
	}
}

// holding gives a file of the archive that holds a text.
func holding(t *testing.T, dir, text string) (found string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			found = path
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestWhatAnEventIs: what the server keeps beside an event is beside it in the archive.
func TestWhatAnEventIs(t *testing.T) {
	w := newWorld(t)
	room, create, last := w.room("11")
	send := func(s sent) string {
		s.version, s.room, s.kind, s.content, s.prev, s.auth = "11", room, "m.room.message", `{"body":"x"}`, []string{last}, []string{create}
		id, _ := w.send(s)
		return id
	}
	want := map[string]func(m mspf.EventMeta) bool{
		send(sent{meta: `{"soft_failed": true}`}):          func(m mspf.EventMeta) bool { return m.SoftFailed },
		send(sent{rejected: "AuthError"}):                  func(m mspf.EventMeta) bool { return m.Rejected == "AuthError" },
		send(sent{outlier: true}):                          func(m mspf.EventMeta) bool { return m.Outlier },
		send(sent{meta: `{"policy_server_spammy": true}`}): func(m mspf.EventMeta) bool { return m.Policy == "policy_server_spammy" },
		send(sent{tamper: func(ev map[string]any) { delete(ev["content"].(map[string]any), "body") }}): func(m mspf.EventMeta) bool { return m.Censored },
	}
	txn := send(sent{})
	w.d.add("event_txn_id_device_id", map[string]any{"event_id": txn, "txn_id": "t1", "device_id": "DEV"})
	want[txn] = func(m mspf.EventMeta) bool {
		return m.TxnID == "t1" && m.DeviceID == "DEV" && m.ReceivedTS > 0 && m.StreamOrdering > 0
	}
	a := w.export(options())
	for id, ok := range want {
		if _, m := a.event(id); !ok(m) {
			t.Errorf("meta: %+v", m)
		}
	}
}

// TestX3_WhatIsWrongIsReported: events that are not what they say are carried and counted.
func TestX3_WhatIsWrongIsReported(t *testing.T) {
	w := newWorld(t)
	room, create, last := w.room("9")
	send := func(tamper func(ev map[string]any)) {
		w.send(sent{version: "9", room: room, kind: "m.room.message", content: `{"body":"x"}`, prev: []string{last}, auth: []string{create}, tamper: tamper})
	}
	send(func(ev map[string]any) { ev["content"] = map[string]any{"body": "another"} })
	send(func(ev map[string]any) { ev["origin_server_ts"] = int64(5) })
	send(func(ev map[string]any) {
		ev["signatures"].(map[string]any)[ourServer].(map[string]any)["ed25519:a"] = strings.Repeat("A", 86)
	})
	w.d.add("event_json", map[string]any{"event_id": "$nojson", "room_id": room, "internal_metadata": "{}", "json": "[]", "format_version": 3})
	a := w.export(options(), mspf.CodeHash, mspf.CodeEventID, mspf.CodeSignature)
	for code, n := range map[string]int64{"content_hash": 2, "event_id": 1, "signature": 2, "event_unreadable": 1} {
		if got := a.lost(code); got != n {
			t.Errorf("%s: %d, want %d", code, got, n)
		}
	}
	if a.report.Complete {
		t.Error("the report calls it complete")
	}
}

// TestX2_EventsFollowWhatTheyName: depth may lie; the archive has each event after those that it names.
func TestX2_EventsFollowWhatTheyName(t *testing.T) {
	w := newWorld(t)
	room, create, last := w.room("10")
	for range 20 {
		id, _ := w.send(sent{version: "10", room: room, kind: "m.room.message", content: `{"body":"x"}`, prev: []string{last}, auth: []string{create}, depth: 1000 - w.stream})
		last = id
	}
	a := w.export(options())
	if o := decode[mspf.Archive](a, "im.lifeboat.archive")[""][0].EventOrder; o != "dag" {
		t.Errorf("order %q", o)
	}
}

// TestGap: an event whose past is not here has the state before it, its own change of
// the state taken out.
func TestGap(t *testing.T) {
	w := newWorld(t)
	room, create, last := w.room("10")
	say, _ := w.send(sent{version: "10", room: room, kind: "m.room.message", content: `{"body":"x"}`, prev: []string{"$unknown"}, auth: []string{create}})
	topic, _ := w.send(sent{version: "10", room: room, kind: "m.room.topic", stateKey: "", content: `{"topic":"x"}`, prev: []string{"$alsounknown"}, auth: []string{create}})
	w.d.add("event_backward_extremities", map[string]any{"room_id": room, "event_id": "$unknown"})
	for group, entries := range map[int][][3]string{1: {{"m.room.create", "", create}, {"m.room.topic", "", "$oldtopic"}}, 2: {{"m.room.member", "@a:example.org", last}}, 3: {{"m.room.topic", "", topic}}} {
		w.d.add("state_groups", map[string]any{"id": group, "room_id": room, "event_id": create})
		for _, e := range entries {
			w.d.add("state_groups_state", map[string]any{"state_group": group, "room_id": room, "type": e[0], "state_key": e[1], "event_id": e[2]})
		}
		if group > 1 {
			w.d.add("state_group_edges", map[string]any{"state_group": group, "prev_state_group": group - 1})
		}
	}
	w.d.add("event_to_state_groups", map[string]any{"event_id": say, "state_group": 2})
	w.d.add("event_to_state_groups", map[string]any{"event_id": topic, "state_group": 3})
	a := w.export(options())
	states := decode[mspf.Snapshot](a, "im.lifeboat.room_state")[room]
	if len(states) != 2 || states[0].EventID != say || len(states[0].Set) != 3 || states[1].EventID != topic || !states[1].Delta || len(states[1].Set)+len(states[1].Gone) != 0 {
		t.Errorf("states: %+v, want the same three entries before both", states)
	}
	if d := decode[mspf.RoomDetails](a, "im.lifeboat.rooms")[room][0]; len(d.BackwardExtremities) != 1 {
		t.Errorf("details: %+v", d)
	}
}

// TestGapAtAWholeState: where a group holds all of the state, what an event replaced is
// what Synapse noted; groups may build on ones with higher numbers.
func TestGapAtAWholeState(t *testing.T) {
	w := newWorld(t)
	room, create, _ := w.room("10")
	group := int64(0)
	whole := func(unsigned string) string {
		id, _ := w.send(sent{version: "10", room: room, kind: "m.room.topic", stateKey: "", content: `{"topic":"x"}`, prev: []string{"$unknown"}, auth: []string{create}, unsigned: unsigned})
		group += 10
		w.group(id, group, map[int64]int64{group: group + 2, group + 2: group + 1}, map[int64][][3]string{group + 1: {{"m.room.create", "", create}}, group: {{"m.room.topic", "", id}}})
		return id
	}
	replacing, first := whole(`{"replaces_state":"$before"}`), whole("")
	states := map[string]mspf.Snapshot{}
	for _, s := range decode[mspf.Snapshot](w.export(options()), "im.lifeboat.room_state")[room] {
		states[s.EventID] = s
	}
	want := []mspf.StateEntry{{Type: "m.room.create", EventID: create}, {Type: "m.room.topic", EventID: "$before"}}
	if s := states[replacing]; !slices.Equal(s.Set, want) {
		t.Errorf("before %s: %+v, want %v", replacing, s, want)
	}
	if s := states[first]; !s.Delta || len(s.Set) != 0 || !slices.Equal(s.Gone, [][2]string{{"m.room.topic", ""}}) {
		t.Errorf("before %s: %+v, want the topic gone", first, s)
	}
}

// TestCircle: events that name each other are carried, by depth, and reported.
func TestCircle(t *testing.T) {
	w := newWorld(t)
	room, create, _ := w.room("1") // only here an event's id does not follow from what it names
	next := fmt.Sprintf("$%d:%s", w.stream+2, ourServer)
	for range 2 {
		next, _ = w.send(sent{version: "1", room: room, kind: "m.room.message", content: `{"body":"x"}`, prev: []string{next}, auth: []string{create}})
	}
	a := w.export(options())
	if a.lost("event_cycle") != 1 || decode[mspf.Archive](a, "im.lifeboat.archive")[""][0].EventOrder != "" {
		t.Errorf("a circle of two: %+v", a.report.Losses)
	}
}

// TestLocalOnly: a room that everybody of this server left has no state any more; who
// else was there shows who sent something.
func TestLocalOnly(t *testing.T) {
	w := newWorld(t)
	ours, _, _ := w.room("10")
	theirs, create, _ := w.roomOf("9", "9", "!theirs:elsewhere.org")
	w.send(sent{version: "9", room: theirs, kind: "m.room.message", sender: "@b:elsewhere.org", content: `{"body":"x"}`, prev: []string{create}, auth: []string{create}})
	w.d["current_state_events"].lines = slices.DeleteFunc(w.d["current_state_events"].lines, func(l string) bool { return strings.Contains(l, theirs) })
	a := w.export(options())
	rooms := decode[mspf.RoomDetails](a, "im.lifeboat.rooms")
	if !rooms[ours][0].LocalOnly || rooms[theirs][0].LocalOnly {
		t.Errorf("ours %+v, theirs %+v", rooms[ours], rooms[theirs])
	}
}

// TestInvites: an invitation carries what the inviting server said of the room, which
// no event of the archive has.
func TestInvites(t *testing.T) {
	w := newWorld(t)
	w.room("10")
	for i, x := range []struct{ membership, meta string }{{"invite", `{"out_of_band_membership": true}`}, {"leave", `{"out_of_band_membership": true}`}, {"leave", "{}"}} {
		room := "!elsewhere" + x.membership + string(rune('0'+i)) + ":elsewhere.org"
		id, _ := w.send(sent{
			version: "10", room: room, kind: "m.room.member", sender: "@b:elsewhere.org", stateKey: "@a:example.org", content: `{"membership":"` + x.membership + `"}`,
			prev: []string{"$theirs"}, unsigned: `{"invite_room_state":[{"type":"m.room.name","state_key":"","content":{"name":"n"},"sender":"@b:elsewhere.org"}]}`, meta: x.meta, outlier: true,
		})
		w.d.add("rooms", map[string]any{"room_id": room, "is_public": false, "creator": "", "room_version": "10"})
		w.d.add("local_current_membership", map[string]any{"room_id": room, "user_id": "@a:example.org", "event_id": id, "membership": x.membership})
	}
	a := w.export(options())
	invites := decode[mspf.Invite](a, "im.lifeboat.invites")
	if len(invites) != 2 {
		t.Fatalf("%d rooms have invites, want 2: %+v", len(invites), invites)
	}
	i := invites["!elsewhereinvite0:elsewhere.org"][0]
	if i.Version != "10" || i.User != "@a:example.org" || len(i.State) != 1 || i.Rejected || len(i.Via) != 1 || i.Via[0] != "elsewhere.org" {
		t.Errorf("invite: %+v", i)
	}
	if !invites["!elsewhereleave1:elsewhere.org"][0].Rejected {
		t.Error("a declined invitation is not called so")
	}
}

// TestVersionUnknown: a room of which nothing says the version is not carried, and the
// report says so; a create event is enough.
func TestVersionUnknown(t *testing.T) {
	w := newWorld(t)
	w.room("10")
	room := "!old:example.org"
	create, _ := w.send(sent{version: "1", room: room, kind: "m.room.create", stateKey: "", content: `{"creator":"@a:example.org"}`})
	w.d.add("rooms", map[string]any{"room_id": room, "is_public": false, "creator": "", "room_version": nil})
	w.send(sent{version: "10", room: "!what:example.org", kind: "m.room.message", content: `{}`, prev: []string{create}})
	a := w.export(options())
	if r := decode[mspf.Room](a, "m.rooms"); r[room] == nil || r[room][0].Version != "1" || r["!what:example.org"] != nil {
		t.Errorf("rooms: %+v", r)
	}
	if n := a.lost("room_version_unknown"); n != 1 {
		t.Errorf("%d events of rooms without a version reported, want 1", n)
	}
}
