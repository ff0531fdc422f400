package event_test

import (
	"crypto/sha256"
	"slices"
	"testing"

	"lifeboat.im/lifeboat/mspf/event"
)

// oddEvents are at the edges of what a plain event is.
func oddEvents() []string {
	return []string{
		`{"type":"m.room.member","content":{"third_party_invite":{"signed":{"a":1}},"membership":"join"},"state_key":"@a:b"}`,
		`{"type":"m.room.member","content":{"third_party_invite.signed":1,"membership":"join"}}`, `{"type":"m.room.create","room_id":"!a:b","content":{"*":1,"creator":"c","x":[]}}`,
		`{"a":1,"a":2,"content":{}}`, `{"content":[]}`, `{}`, ` { "content" : { "b" : [ 1 , -0 , 0 , -12 ] , "a" : { } } } `, `{"content":{"b":[1,-0,9007199254740991]}}`,
		`{"content":{"body":"\u00fc\n\ud83d\ude00\/\u001f"},"hashes":{"sha256":"AA="}}`, "{\"content\":{\"body\":\"ü\x7f\"}}", `{"content":{"body":"\ud83d"}}`, `{"content":{"n":1.0}}`,
		`{"prev_events":["$a",["$b",{"sha256":"x"}],[],[1],2],"auth_events":{},"content":{}}`, `{"content":{"bb":1,"a":2,"ccc":3,"ba":4},"b":null,"aa":true,"c":false}`,
		`{"event_id":"$x:y","content":{},"hashes":{"sha256":""},"unsigned":{"a":1},"age_ts":1,"outlier":true,"destinations":[]}`, `{"a\u0062":1,"ab":2,"content":{}}`, `{"content":{},"0123456789\"":"0123456\\"}`,
	}
}

func FuzzPlain(f *testing.F) {
	for _, x := range corpus(f) {
		f.Add([]byte(x.Event))
	}
	for _, s := range oddEvents() {
		f.Add([]byte(s))
	}
	var p event.Plain // used again
	f.Fuzz(func(t *testing.T, text []byte) {
		if p.Read(text) {
			plainIsParsed(t, &p, text)
		}
	})
}

func plainIsParsed(t *testing.T, p *event.Plain, text []byte) {
	t.Helper()
	tree, exact, err := event.Parse(text)
	if err != nil || !exact {
		t.Fatalf("%q is plain, and Parse says %v, %v", text, exact, err)
	}
	for _, v := range event.Versions() {
		if signed, ok := p.AppendSigned(nil, &v); ok {
			want, err := v.Signed(tree)
			must(t, err)
			if string(signed) != string(want) {
				t.Fatalf("%q: version %s signs\n%s, want\n%s", text, v.ID, signed, want)
			}
			id, _ := v.EventIDOf(tree, want)
			if got := p.AppendID(nil, &v, signed); string(got) != id {
				t.Fatalf("%q: version %s, id %s, want %s", text, v.ID, got, id)
			}
		}
		content := p.AppendContent(nil)
		want, err := v.ContentHash(tree)
		must(t, err)
		if sha256.Sum256(content) != want {
			t.Fatalf("%q: the content is %s", text, content)
		}
		if got, want := p.HasContentHash(content), v.CheckContentHash(tree) == nil; got != want {
			t.Fatalf("%q: its hash is right: %v, want %v", text, got, want)
		}
	}
	for _, key := range []string{"prev_events", "auth_events"} {
		var ids []string
		p.References(key, func(id []byte) { ids = append(ids, string(id)) })
		if !slices.Equal(ids, event.References(tree, key)) {
			t.Fatalf("%q: %s %q", text, key, ids)
		}
	}
	kind, _ := tree["type"].(string)
	depth, _ := tree["depth"].(int64)
	if got, _ := p.Text("type"); string(got) != kind || p.Int("depth") != depth {
		t.Fatalf("%q: type %s, depth %d", text, got, p.Int("depth"))
	}
}

// TestPlain: of events as servers make them nearly all are plain ones.
func TestPlain(t *testing.T) {
	var p event.Plain
	all, plain, signed := 0, 0, 0
	for _, x := range corpus(t) {
		all++
		if !p.Read(x.Event) {
			continue
		}
		plain++
		plainIsParsed(t, &p, x.Event)
		v, _ := event.Lookup(x.RoomVersion)
		if b, ok := p.AppendSigned(nil, &v); ok {
			signed++
			if id := p.AppendID(nil, &v, b); string(id) != x.EventID {
				t.Errorf("version %s, %s: id %s, want %s", v.ID, x.Name, id, x.EventID)
			}
		}
	}
	if plain < all*4/5 || signed < plain*9/10 {
		t.Errorf("of %d events %d are plain, of which %d can be checked", all, plain, signed)
	}
	read := 0
	for _, s := range oddEvents() {
		if p.Read([]byte(s)) {
			read++
			plainIsParsed(t, &p, []byte(s))
		}
	}
	if read != len(oddEvents())-4 { // a key twice (two spell one alike), half a pair, a float
		t.Errorf("%d of %d odd events are plain", read, len(oddEvents()))
	}
}
