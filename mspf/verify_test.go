package mspf

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/mspf/event"
)

// codes of what Verify objects to in an archive of contents.
func codes(t testing.TB, c Contents) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.tar")
	_, err := Write(t.Context(), path, c, plain())
	must(t, err)
	v, err := Verify(t.Context(), path, ReadOptions{})
	must(t, err)
	ask(t, path, readerAccepts(codesOf(v)))
	return codesOf(v)
}

func codesOf(v *Verdict) []string {
	var list []string
	for _, f := range v.Findings {
		if len(list) == 0 || list[len(list)-1] != f.Code {
			list = append(list, f.Code)
		}
	}
	return list
}

// edit changes the stored text of an event.
func edit(e *Event, from, to string) {
	e.JSON = bytes.Replace(e.JSON, []byte(from), []byte(to), 1)
}

// redact leaves of an event what a redaction leaves.
func redact(t testing.TB, e *Event, version string) {
	tree, _, err := event.Parse(e.JSON)
	must(t, err)
	v, _ := event.Lookup(version)
	e.JSON, err = event.Canonical(v.Redact(tree))
	must(t, err)
}

// Each thing that can be wrong with the events of an archive has its finding, and what
// only looks wrong has none.
func TestVerifyFindsWhatIsWrong(t *testing.T) {
	const room = "!v10:example.org"
	for name, x := range map[string]struct {
		change func(w *world, c *Contents)
		want   []string
	}{
		"nothing":          {func(*world, *Contents) {}, nil},
		"content altered":  {func(w *world, _ *Contents) { edit(&w.events[2], "first", "worst") }, []string{CodeHash}},
		"depth altered":    {func(w *world, _ *Contents) { edit(&w.events[2], `"depth":3`, `"depth":4`) }, []string{CodeEventID, CodeSignature}},
		"id altered":       {func(w *world, _ *Contents) { w.events[3].Meta.EventID = "$other" }, []string{CodeEventID}},
		"redacted":         {func(w *world, _ *Contents) { redact(w.t, &w.events[2], "10"); w.events[2].Meta.Censored = true }, nil},
		"redacted, silent": {func(w *world, _ *Contents) { redact(w.t, &w.events[2], "10") }, nil},
		"not redacted": {func(w *world, _ *Contents) {
			edit(&w.events[2], "first", "worst")
			w.events[2].Meta.Censored = true
		}, []string{CodeHash}},
		"signature of another": {func(w *world, c *Contents) {
			c.Core.SigningKey = "ed25519 a_1 " + strings.Repeat("A", 43)
			c.Server = nil
		}, []string{CodeSignature}},
		"no key": {func(_ *world, c *Contents) { c.Core.SigningKey, c.Server = "", nil }, nil},
		"key that is old": {func(_ *world, c *Contents) {
			c.Server.OldVerifyKeys["ed25519:a_1"] = c.Server.OldVerifyKeys["ed25519:a_0"]
		}, []string{CodeKey}},
		"room not listed": {func(_ *world, c *Contents) { c.Rooms = seq[Room]() }, []string{CodeNoRoom, CodeUnverified}},
		"version unknown": {func(_ *world, c *Contents) { c.Rooms = seq(Room{ID: room, Version: "org.example.99"}) }, []string{CodeVersion, CodeUnverified}},
		"another room": {func(w *world, c *Contents) {
			w.events[3].Room = "!other:example.org"
			c.Rooms = seq(Room{ID: room, Version: "10"}, Room{ID: "!other:example.org", Version: "10"})
		}, []string{CodeGap, CodeRoomID}},
		"event twice": {func(w *world, _ *Contents) { w.events = append(w.events, w.events[3]) }, []string{CodeDuplicate}},
		"order":       {func(w *world, _ *Contents) { w.events[2], w.events[3] = w.events[3], w.events[2] }, []string{CodeOrder}},
		"order not claimed": {func(w *world, c *Contents) {
			w.events[2], w.events[3] = w.events[3], w.events[2]
			c.Archive.EventOrder = ""
		}, nil},
		"gap":               {func(w *world, _ *Contents) { w.events = slices.Delete(w.events, 2, 3) }, []string{CodeGap}},
		"no create event":   {func(w *world, _ *Contents) { w.events = w.events[1:] }, []string{CodeGap}},
		"gap of an outlier": {func(w *world, _ *Contents) { w.events = slices.Delete(w.events, 2, 3); w.events[2].Meta.Outlier = true }, nil},
		"gap, extremity": {func(w *world, c *Contents) {
			c.Details = seq(RoomDetails{ID: room, BackwardExtremities: []string{w.events[2].Meta.EventID}})
			w.events = slices.Delete(w.events, 2, 3)
		}, []string{CodeGapKnown}},
		"gap, state": {func(w *world, c *Contents) {
			c.States = seq(RoomState{Room: room, Event: w.events[3].Meta.EventID})
			w.events = slices.Delete(w.events, 2, 3)
		}, []string{CodeGapKnown}},
	} {
		w := newWorld(t, "10")
		c := w.contents()
		x.change(w, &c)
		c.Events = seq(w.events...)
		if got := codes(t, c); !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, not %v", name, got, x.want)
		}
	}
}

func TestVerifyFindsForeignBytes(t *testing.T) {
	for name, x := range map[string]struct {
		file, cbor, want string
	}{
		"number not shortest": {"m.users/users.1.cbor", "\xa1\x62@a\xa3\x67devices\xa0\x69room_tags\xa0\x6acreated_at\x18\x05", CodeEncoding},
		"outer not shortest":  {"m.users/users.1.cbor", "\xb8\x00", CodeEncoding},
		"inner unsorted":      {"m.users/users.1.cbor", "\xa1\x62@a\xa3\x69room_tags\xa0\x67devices\xa0\x6acreated_at\x05", CodeEncoding},
		"no created_at":       {"m.users/users.1.cbor", "\xa1\x62@a\xa2\x67devices\xa0\x69room_tags\xa0", CodeShape},
		"unknown key":         {"m.users/users.1.cbor", "\xa1\x62@a\xa4\x61x\x00\x67devices\xa0\x69room_tags\xa0\x6acreated_at\x05", CodeShape},
		"text for a number":   {"m.users/users.1.cbor", "\xa1\x62@a\xa3\x67devices\xa0\x69room_tags\xa0\x6acreated_at\x615", CodeShape},
		"meta missing":        {Prefix + "event_meta/event_meta.1.cbor", "\xa0", CodeMeta},
	} {
		dir := ""
		v := tampered(t, "dir", func(d string) { dir = d; must(t, os.WriteFile(filepath.Join(d, x.file), []byte(x.cbor), 0o600)) })
		if x.want != CodeShape {
			ask(t, dir, false)
		}
		if got := codesOf(v); !slices.Equal(got, []string{x.want}) {
			t.Errorf("%s: %v, not %s: %+v", name, got, x.want, v.Findings)
		}
	}
}

// Rooms that go on from file to file are one room; one that comes back later is not.
func TestVerifyFollowsRoomsOverFiles(t *testing.T) {
	w := newWorld(t, "10", "11")
	dir := filepath.Join(t.TempDir(), "dir")
	_, err := Write(t.Context(), dir, w.contents(), plain())
	must(t, err)
	split := func(files ...[]Event) []string {
		for i, list := range files {
			var ev, meta builder
			for _, e := range list {
				tree := mustTree(t, e.JSON)
				delete(tree, "unsigned")
				raw, err := encode(w.parse(tree))
				must(t, err)
				must(t, ev.add(raw, e.Room))
				raw, err = encode(e.Meta)
				must(t, err)
				must(t, meta.add(raw, e.Room))
			}
			n := string(rune('1' + i))
			must(t, os.WriteFile(filepath.Join(dir, "m.events", "events."+n+".cbor"), ev.encode(), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, Prefix+"event_meta", "event_meta."+n+".cbor"), meta.encode(), 0o600))
		}
		reseal(t, dir)
		v, err := Verify(t.Context(), dir, ReadOptions{})
		must(t, err)
		ask(t, dir, true)
		return codesOf(v)
	}
	a, b := w.events[:4], w.events[4:]
	if got := split(a[:2], a[2:3], append(slices.Clone(a[3:]), b...)); got != nil {
		t.Errorf("a room over three files: %v", got)
	}
	if got := split(a[:2], b, a[2:]); !slices.Equal(got, []string{CodeGap, CodeSplit}) {
		t.Errorf("a room that comes back: %v", got)
	}
}

// States are written as differences and read back as states.
func TestStatesAreDifferences(t *testing.T) {
	w := newWorld(t, "10")
	entry := func(typ, key, id string) StateEntry { return StateEntry{Type: typ, Key: key, EventID: id} }
	states := []RoomState{
		{Room: "!v10:example.org", Event: "$1", State: []StateEntry{entry("a", "", "$a"), entry("b", "", "$b")}},
		{Room: "!v10:example.org", Event: "$2", State: []StateEntry{entry("a", "", "$a2"), entry("c", "x", "$c")}},
		{Room: "!v11:example.org", Event: "$3", State: []StateEntry{entry("a", "", "$a")}},
	}
	c := w.contents()
	c.States = seq(states...)
	path := filepath.Join(t.TempDir(), "a.tar")
	_, err := Write(t.Context(), path, c, plain())
	must(t, err)
	mustVerify(t, path, ReadOptions{})
	ask(t, path, true)
	now := map[[2]string]string{}
	i := 0
	_, err = Read(t.Context(), path, ReadOptions{}, func(e Element) error {
		if e.Item != itemState {
			return nil
		}
		var s Snapshot
		must(t, e.Decode(&s))
		if s.Delta != (i == 1) {
			t.Errorf("entry %d is a difference: %v", i, s.Delta)
		}
		if !s.Delta {
			clear(now)
		}
		for _, x := range s.Set {
			now[[2]string{x.Type, x.Key}] = x.EventID
		}
		for _, k := range s.Gone {
			delete(now, k)
		}
		want := map[[2]string]string{}
		for _, x := range states[i].State {
			want[[2]string{x.Type, x.Key}] = x.EventID
		}
		if !maps.Equal(now, want) {
			t.Errorf("state %d: %v", i, now)
		}
		i++
		return nil
	})
	must(t, err)
}

func TestCDDL(t *testing.T) {
	const path = "../docs/mspf.cddl"
	if *update {
		must(t, os.WriteFile(path, []byte(CDDL()), 0o644))
	}
	if string(read(t, path)) != CDDL() {
		t.Errorf("%s is not made from the table (-update)", path)
	}
}

// The example that docs/format-mspf.md explains is what the writer writes.
func TestExample(t *testing.T) {
	const path = "testdata/example"
	fresh := filepath.Join(t.TempDir(), "example")
	_, err := Write(t.Context(), fresh, newWorld(t, "1", "12").contents(), plain())
	must(t, err)
	if *update {
		must(t, os.RemoveAll(path))
		must(t, os.CopyFS(path, os.DirFS(fresh)))
	}
	mustVerify(t, path, ReadOptions{})
	ask(t, path, true)
	var sums Integrity
	must(t, json.Unmarshal(read(t, filepath.Join(fresh, Prefix+"integrity.json")), &sums))
	for name := range sums.Files {
		if !bytes.Equal(read(t, filepath.Join(fresh, name)), read(t, filepath.Join(path, name))) {
			t.Errorf("%s is not what is in %s", name, path)
		}
	}
	if !bytes.Equal(read(t, filepath.Join(fresh, Prefix+"integrity.json")), read(t, filepath.Join(path, Prefix+"integrity.json"))) {
		t.Error("the integrity item differs")
	}
}

// Who plans an import sees every element on the way, and may end it.
func TestVerifyHandsOn(t *testing.T) {
	path := written(t, "a.tar")
	seen := map[string]int64{}
	v, err := Verify(t.Context(), path, ReadOptions{}, func(e Element) error {
		seen[e.Item]++
		return nil
	})
	must(t, err)
	for item, s := range v.Items {
		if seen[item] != s.Elements {
			t.Errorf("%d elements of %s, want %d", seen[item], item, s.Elements)
		}
	}
	enough := errors.New("enough")
	if _, err := Verify(t.Context(), path, ReadOptions{}, func(Element) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("ended with %v", err)
	}
}
