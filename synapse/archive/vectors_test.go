package archive

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// TestVectors: the events that other implementers hold themselves to, each of them in an
// archive: by its id, unaltered, and as text where CBOR does not carry it exactly.
func TestVectors(t *testing.T) {
	type vector struct {
		RoomVersion string          `json:"room_version"`
		Event       json.RawMessage `json:"event"`
		EventID     string          `json:"event_id"`
		RoomID      string          `json:"room_id"`
		Exact       bool            `json:"exact"`
	}
	f, err := os.Open("../../mspf/event/testdata/vectors.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	by := map[string][]vector{}
	for dec := json.NewDecoder(f); dec.More(); {
		var v vector
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		by[v.RoomVersion] = append(by[v.RoomVersion], v)
	}
	if len(by) != len(event.Versions()) {
		t.Errorf("vectors of %d room versions", len(by))
	}
	o := options()
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	o.SigningKeys = []string{"ed25519 a_test " + base64.RawStdEncoding.EncodeToString(key)}
	for version, vectors := range by {
		w := newWorld(t)
		rooms, missing := map[string]bool{}, map[[2]string]bool{}
		for _, v := range vectors {
			ev, _, err := event.Parse(v.Event)
			if err != nil {
				t.Fatal(err)
			}
			w.stream++
			w.d.add("event_json", map[string]any{"event_id": v.EventID, "room_id": v.RoomID, "internal_metadata": "{}", "json": string(v.Event)})
			w.d.add("events", map[string]any{"event_id": v.EventID, "room_id": v.RoomID, "type": ev["type"], "sender": ev["sender"], "stream_ordering": w.stream, "received_ts": 1, "outlier": false, "rejection_reason": nil})
			for _, id := range event.References(ev, "prev_events") {
				missing[[2]string{v.RoomID, id}] = true
			}
			rooms[v.RoomID] = true
		}
		for id := range rooms {
			w.d.add("rooms", map[string]any{"room_id": id, "is_public": false, "creator": "", "room_version": version})
		}
		for gap := range missing {
			w.d.add("event_backward_extremities", map[string]any{"room_id": gap[0], "event_id": gap[1]})
		}
		a := w.export(o, mspf.CodeGap) // events of their own: what authorizes them is nowhere
		texts := map[string]string{}
		for _, room := range decode[map[string]string](a, "im.lifeboat.raw_events") {
			for id, text := range room[0] {
				texts[id] = text
			}
		}
		metas := map[string]mspf.EventMeta{}
		for _, room := range decode[mspf.EventMeta](a, "im.lifeboat.event_meta") {
			for _, m := range room {
				metas[m.EventID] = m
			}
		}
		for _, v := range vectors {
			m, here := metas[v.EventID]
			if text, kept := texts[v.EventID]; kept == v.Exact || kept && !json.Valid([]byte(text)) || m.Censored || !here {
				t.Errorf("version %s, %s: exact %v, its text %q, meta %+v", version, v.EventID, v.Exact, text, m)
			}
		}
		for _, code := range []string{"event_id", "content_hash", "signature", "signature_unchecked"} {
			if n := a.lost(code); n != 0 {
				t.Errorf("version %s: %d times %s", version, n, code)
			}
		}
	}
}
