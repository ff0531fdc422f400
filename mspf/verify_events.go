package mspf

import (
	"bytes"
	"errors"
	"strings"

	"lifeboat.im/lifeboat/mspf/event"
)

// pendingEvent is an event that has not met its entry of event_meta.
type pendingEvent struct {
	room, id   string
	prev, auth []uint64
	altered    bool // its content hash fails, and it is not what a redaction leaves
	unchecked  bool // its room version is not known, or it has no id
}

// suspect is an event that is not what it says, unless raw_events has its text.
type suspect struct{ code, where string }

// event checks what an event says of itself. Whether it is excused (a redaction, a text
// in raw_events) is known when event_meta was read.
func (v *verifier) event(e Element, ev map[string]any) {
	if len(v.pending) > 0 && e.File != v.graph.file {
		v.settle() // an archive without event_meta
	}
	v.graph.file = e.File
	p := pendingEvent{room: e.Key}
	name, ok := v.versions[e.Key]
	if !ok {
		v.report(CodeNoRoom, e.Item, "events of a room that m.rooms does not have", e.Key)
	}
	version, ok := v.known[name]
	if !ok {
		p.unchecked = true
		v.report(CodeUnverified, e.Item, "events of rooms of unknown version", e.Key)
		v.pending = append(v.pending, p)
		return
	}
	id, err := version.EventID(ev)
	if err != nil {
		v.report(CodeEventID, e.Item, "an event is not the one that its id names", e.Key+": "+err.Error())
		p.unchecked = true
	}
	p.id = id
	v.events++
	if room, err := version.RoomID(ev); err != nil || room != e.Key {
		v.report(CodeRoomID, e.Item, "an event is in another room than it says", e.Key+" "+id)
	}
	p.altered = version.CheckContentHash(ev) != nil && !redacted(version, ev)
	for _, ref := range event.References(ev, "prev_events") {
		p.prev = append(p.prev, v.hash(e.Key, ref))
	}
	for _, ref := range event.References(ev, "auth_events") {
		p.auth = append(p.auth, v.hash(e.Key, ref))
	}
	v.signature(version, ev, e.Key, id)
	v.pending = append(v.pending, p)
}

// redacted says whether the event is what a redaction leaves of it. Of such an event the
// content hash fails and its id and signatures do not: a server that got an event with a
// wrong content hash keeps it like that, too.
func redacted(version event.Version, ev map[string]any) bool {
	all, err1 := event.Canonical(ev)
	kept, err2 := event.Canonical(version.Redact(ev))
	return err1 == nil && err2 == nil && bytes.Equal(all, kept)
}

// signature checks that of the archive's own server on what its users sent. Keys of
// other servers are not in the archive.
func (v *verifier) signature(version event.Version, ev map[string]any, room, id string) {
	server := v.core.ServerName
	sender, _ := ev["sender"].(string)
	if _, of, _ := strings.Cut(sender, ":"); of != server || len(v.keys) == 0 {
		return
	}
	bySource, _ := ev["signatures"].(map[string]any)
	keys, _ := bySource[server].(map[string]any)
	checked := false
	for keyID := range keys {
		key, ok := v.keys[keyID]
		if !ok {
			continue
		}
		checked = true
		v.signed++
		if err := version.CheckSignature(ev, server, keyID, key); errors.Is(err, event.ErrSignature) {
			v.report(CodeSignature, itemEvents, "an event of this server that its key did not sign", room+" "+id)
		}
	}
	if !checked {
		v.report(CodeUnverified, itemEvents, "events of this server that none of the archive's keys signed", room+" "+id)
	}
}

// meta holds an entry against the event at the same place.
func (v *verifier) meta(e Element) error {
	var m EventMeta
	if err := e.Decode(&m); err != nil {
		return err
	}
	if v.metaAt >= len(v.pending) || v.pending[v.metaAt].room != e.Key {
		v.report(CodeMeta, e.Item, "events and what is kept beside them do not go together", e.Key+" "+m.EventID)
		return nil
	}
	p := &v.pending[v.metaAt]
	v.metaAt++
	switch where := p.room + " " + m.EventID; {
	case p.unchecked:
	case p.id != m.EventID:
		v.suspects[v.hash(p.room, m.EventID)] = suspect{CodeEventID, where}
	case p.altered:
		v.suspects[v.hash(p.room, m.EventID)] = suspect{CodeHash, where}
	}
	p.id = m.EventID
	v.graph.add(v, p, m.Outlier || m.OutOfBand || m.Rejected != "")
	return nil
}

// settle ends a file of m.events: what met no entry of event_meta is taken as it is.
func (v *verifier) settle() {
	meta := v.metaAt > 0 || v.archive != nil
	for i := v.metaAt; i < len(v.pending); i++ {
		p := &v.pending[i]
		if meta {
			v.report(CodeMeta, itemMeta, "events and what is kept beside them do not go together", p.room+" "+p.id)
		}
		if p.altered {
			v.report(CodeHash, itemEvents, "content that its hash does not fit", p.room+" "+p.id)
		}
		v.graph.add(v, p, false)
	}
	v.pending, v.metaAt = v.pending[:0], 0
	v.graph.fileEnds(v)
}

// rawEvents checks the text of events that CBOR does not carry exactly.
func (v *verifier) rawEvents(room string, texts map[string]any) {
	version, ok := v.known[v.versions[room]]
	for id, x := range texts {
		text, _ := x.(string)
		where := room + " " + id
		v.raw[v.hash(room, id)] = true
		ev, _, err := event.Parse([]byte(text))
		if errors.Is(err, event.ErrDeep) {
			v.report(CodeUnverified, itemRaw, "events that are nested too deep", where)
			continue
		}
		if err != nil {
			v.report(CodeShape, itemRaw, "an element is not what the format says", where)
			continue
		}
		if !ok {
			continue
		}
		got, err := version.EventID(ev)
		switch {
		case strings.Contains(text, `\ud`) || strings.Contains(text, `\uD`):
			v.report(CodeUnverified, itemRaw, "events with half a surrogate pair: no two servers agree on their hash", where)
		case err != nil || got != id:
			v.report(CodeEventID, itemRaw, "an event is not the one that its id names", where)
		case version.CheckContentHash(ev) != nil:
			v.report(CodeHash, itemRaw, "content that its hash does not fit", where)
		}
	}
}

func (v *verifier) finish() {
	v.settle()
	v.graph.end(v)
	for h, s := range v.suspects {
		if v.raw[h] {
			continue // its text was checked in its place
		}
		text := "an event is not the one that its id names"
		if s.code == CodeHash {
			text = "content that its hash does not fit, and that no redaction left"
		}
		v.report(s.code, itemEvents, text, s.where)
	}
}
