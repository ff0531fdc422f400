package mspf

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/mspf/event"
)

var update = flag.Bool("update", false, "write what is in testdata and docs anew")

var forms = []string{"dir", "a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"}

func TestM1_TwoWritesAreTheSameBytes(t *testing.T) {
	for _, form := range forms {
		a, b := written(t, form), written(t, form)
		if form != "dir" {
			if !bytes.Equal(read(t, a), read(t, b)) {
				t.Errorf("%s: two writes differ", form)
			}
			continue
		}
		err := fs.WalkDir(os.DirFS(a), ".", func(name string, d fs.DirEntry, err error) error {
			must(t, err)
			x, err := os.Stat(filepath.Join(a, name))
			must(t, err)
			y, err := os.Stat(filepath.Join(b, name))
			must(t, err)
			if !x.ModTime().Equal(y.ModTime()) || x.Mode() != y.Mode() {
				t.Errorf("%s: %v %v, %v %v", name, x.ModTime(), x.Mode(), y.ModTime(), y.Mode())
			}
			if !d.IsDir() && !bytes.Equal(read(t, filepath.Join(a, name)), read(t, filepath.Join(b, name))) {
				t.Errorf("%s differs", name)
			}
			return nil
		})
		must(t, err)
	}
}

// Every form holds the same archive, and nothing is to be objected to in it.
func TestVerifyWhatWasWritten(t *testing.T) {
	sum := ""
	for _, form := range forms {
		v := mustVerify(t, written(t, form), ReadOptions{})
		if !v.Complete || v.Events != 48 || v.Signed != 48 || v.Items[itemEvents].Elements != 48 || v.Items[itemMeta].Elements != 48 || v.Items[itemRooms].Elements != 12 {
			t.Errorf("%s: %+v", form, v)
		}
		if sum != "" && v.SHA256 != sum {
			t.Errorf("%s: the integrity item differs from that of the other forms", form)
		}
		sum = v.SHA256
		if v.Archive.Point.LSN != "0/16B3748" || v.Core.ServerName != testServer {
			t.Errorf("%+v", v.Outcome)
		}
	}
}

func TestEncrypted(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	other, err := age.GenerateX25519Identity()
	must(t, err)
	for _, form := range []string{"a.tar.age", "a.tar.gz.age", "a.tar.zst.age"} {
		path := filepath.Join(t.TempDir(), form)
		_, err = Write(t.Context(), path, newWorld(t, "10").contents(), WriteOptions{Recipients: []age.Recipient{id.Recipient()}})
		must(t, err)
		mustVerify(t, path, ReadOptions{Identities: []age.Identity{other, id}})
		for _, ids := range [][]age.Identity{nil, {other}} {
			if _, err := Verify(t.Context(), path, ReadOptions{Identities: ids}); !errors.Is(err, ErrEncrypted) {
				t.Errorf("with the wrong key: %v", err)
			}
		}
		b := read(t, path)
		must(t, os.WriteFile(path, b[:len(b)-1], 0o600))
		if _, err := Verify(t.Context(), path, ReadOptions{Identities: []age.Identity{id}}); !errors.Is(err, ErrTruncated) {
			t.Errorf("without its last byte: %v", err)
		}
	}
}

func TestPlaintextIsAskedFor(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	dir := t.TempDir()
	for _, name := range []string{"a.tar", "a.tar.gz", "dir"} {
		_, err := Write(t.Context(), filepath.Join(dir, name), newWorld(t, "10").contents(), WriteOptions{Recipients: []age.Recipient{id.Recipient()}})
		if !errors.Is(err, ErrPlaintext) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Write(t.Context(), filepath.Join(dir, "dir.age"), newWorld(t, "10").contents(), WriteOptions{Recipients: []age.Recipient{id.Recipient()}}); err == nil {
		t.Error("an encrypted directory")
	}
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Whatever fails, neither the archive nor a part of it stays, and nothing is replaced.
func TestWriteFails(t *testing.T) {
	broken := errors.New("the disk went away")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, x := range map[string]struct {
		ctx    context.Context
		change func(*Contents)
		want   error
	}{
		"iterator": {t.Context(), func(c *Contents) { c.Users = func(yield func(User, error) bool) { yield(User{}, broken) } }, broken},
		"user":     {t.Context(), func(c *Contents) { c.Users = seq(User{ID: "@b:x"}, User{ID: "@a:x"}) }, ErrTwice},
		"twice":    {t.Context(), func(c *Contents) { c.Profiles = seq(UserDetails{ID: "@b:x"}, UserDetails{ID: "@b:x"}) }, ErrTwice},
		"room":     {t.Context(), func(c *Contents) { c.Rooms = seq(Room{ID: "!a"}, Room{ID: "!a"}) }, ErrTwice},
		"changed": {t.Context(), func(c *Contents) {
			n := 0
			c.Rooms = func(yield func(Room, error) bool) { n++; yield(Room{ID: strings.Repeat("!", n)}, nil) }
		}, ErrChanged},
		"otk":       {t.Context(), func(c *Contents) { c.Rows = seq(Row{oneTimeKeys, []byte("x")}) }, ErrOneTimeKeys},
		"not UTF-8": {t.Context(), func(c *Contents) { c.Rows = seq(Row{"users", []byte("\xff")}) }, ErrCBOR},
		"cancelled": {cancelled, func(*Contents) {}, context.Canceled},
	} {
		for _, form := range []string{"dir", "a.tar.zst"} {
			dir := t.TempDir()
			c := newWorld(t, "10").contents()
			x.change(&c)
			if _, err := Write(x.ctx, filepath.Join(dir, form), c, plain()); !errors.Is(err, x.want) {
				t.Errorf("%s: %v", name, err)
			}
			left, err := os.ReadDir(dir)
			must(t, err)
			if len(left) > 0 {
				t.Errorf("%s: left: %v", name, left)
			}
		}
	}
	path := written(t, "a.tar")
	if _, err := Write(t.Context(), path, newWorld(t, "10").contents(), plain()); !errors.Is(err, ErrExists) {
		t.Errorf("over an archive: %v", err)
	}
}

func TestM3_WhatIsNotCarriedIsInTheReport(t *testing.T) {
	w := newWorld(t, "3")
	w.send("3", "!v3:example.org", map[string]any{"type": "m.room.message"}, `{"a":1.0,"b":1152921504606846976,"c":1e3}`, []string{w.events[3].Meta.EventID}, nil)
	w.events = append(w.events, Event{Room: "!v3:example.org", JSON: []byte(`{"half":`), Meta: EventMeta{EventID: "$broken"}})
	path := filepath.Join(t.TempDir(), "a.tar")
	sum, err := Write(t.Context(), path, w.contents(), plain())
	must(t, err)
	v := mustVerify(t, path, ReadOptions{})
	ask(t, path, true)
	codes := map[string]int64{}
	for _, l := range v.Report.Losses {
		codes[l.Code] = l.Count
	}
	if v.Report.Complete || codes["event_unreadable"] != 1 || codes["event_inexact"] != 1 || codes["media"] != 3 || len(sum.Report.Losses) != 3 {
		t.Errorf("%+v", v.Report)
	}
	raw := ""
	_, err = Read(t.Context(), path, ReadOptions{}, func(e Element) error {
		if e.Item == itemRaw {
			texts := map[string]string{}
			must(t, e.Decode(&texts))
			raw = texts[w.events[4].Meta.EventID]
		}
		return nil
	})
	must(t, err)
	want, err := event.StripText(w.events[4].JSON)
	must(t, err)
	if raw != string(want) || !strings.Contains(string(w.events[4].JSON), `"unsigned"`) || !strings.Contains(raw, `"c":1e3`) {
		t.Errorf("raw_events has %q", raw)
	}
	c := newWorld(t, "3").contents()
	c.Losses = nil
	sum, err = Write(t.Context(), path+".2.tar", c, plain())
	must(t, err)
	if !sum.Report.Complete || len(sum.Report.Losses) != 0 {
		t.Errorf("nothing is lost, and the report says %+v", sum.Report)
	}
}

func TestM5_OneTimeKeysAreNotWritten(t *testing.T) {
	c := newWorld(t, "10").contents()
	c.Rows = seq(Row{"e2e_fallback_keys_json", []byte("fallback")}, Row{oneTimeKeys, []byte("KNOWNKEY")})
	path := filepath.Join(t.TempDir(), "a.tar")
	if _, err := Write(t.Context(), path, c, plain()); !errors.Is(err, ErrOneTimeKeys) {
		t.Fatalf("%v", err)
	}
	// An archive of another writer that has them is found out.
	v := tampered(t, "dir", func(dir string) {
		b := event.AppendHead(nil, majorMap, 1)
		b = appendText(event.AppendHead(appendText(b, oneTimeKeys), majorArray, 1), "KNOWNKEY")
		must(t, os.WriteFile(filepath.Join(dir, "im.lifeboat.synapse", "rows.1.cbor"), b, 0o600))
	})
	if !slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.Code == CodeOTK }) {
		t.Errorf("%+v", v.Findings)
	}
}

// Everything comes back as it went in.
func TestRead(t *testing.T) {
	w := newWorld(t, allVersions...)
	path := written(t, "a.tar.zst")
	var users []string
	got := map[string][]any{}
	_, err := Read(t.Context(), path, ReadOptions{}, func(e Element) error {
		switch e.Item {
		case itemUsers:
			var u User
			must(t, e.Decode(&u))
			users = append(users, e.Key+" "+*u.Devices["PHONE"].DisplayName)
		case itemEvents:
			tree, err := e.Tree()
			must(t, err)
			if e.Index != len(got[e.Key]) {
				t.Errorf("%s: index %d at %d", e.Key, e.Index, len(got[e.Key]))
			}
			got[e.Key] = append(got[e.Key], tree)
		case itemToDevice:
			var m map[string][]map[string]any
			must(t, e.Decode(&m))
			if len(m["PHONE"]) != 2 || m["PHONE"][1]["message_id"] != "x" {
				t.Errorf("%v", m)
			}
		case itemKeys:
			var k Keys
			must(t, e.Decode(&k))
			if b := k.Backups["1"]; b.Etag != "3" || len(b.Rooms["!v1:example.org"]) != 2 {
				t.Errorf("the parts of a backup do not come together: %+v", k)
			}
		}
		return nil
	})
	must(t, err)
	if !slices.Equal(users, []string{"@a:example.org phone", "@b:example.org phone"}) || len(got) != 12 {
		t.Errorf("%v, %d rooms", users, len(got))
	}
	for _, e := range w.events {
		ev := got[e.Room][0].(map[string]any)
		got[e.Room] = got[e.Room][1:]
		if _, there := ev["unsigned"]; there || len(ev) < 8 {
			t.Errorf("%v", ev)
		}
	}
	stop := errors.New("enough")
	if _, err := Read(t.Context(), path, ReadOptions{}, func(Element) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func TestInspect(t *testing.T) {
	for _, form := range forms {
		out, err := Inspect(t.Context(), written(t, form), ReadOptions{})
		must(t, err)
		if !out.Complete || out.Items[itemEvents].Elements != 48 || out.Archive.Source.Schema != 94 || out.Report.Losses[0].Code != "media" {
			t.Errorf("%s: %+v", form, out)
		}
	}
}

// Rejected, soft-failed and censored events are carried with what they are; one that is
// too deep for CBOR is carried as text.
func TestStatesOfEvents(t *testing.T) {
	const room = "!v5:example.org"
	w := newWorld(t, "5")
	message := func(content string) *Event {
		w.send("5", room, map[string]any{"type": "m.room.message"}, content, []string{w.events[3].Meta.EventID}, nil)
		return &w.events[len(w.events)-1]
	}
	message(`{"body":"rejected"}`).Meta.Rejected = "auth_error"
	message(`{"body":"soft"}`).Meta.SoftFailed = true
	censored := message(`{"body":"secret"}`)
	censored.Meta.Censored = true
	redact(t, censored, "5")
	deep := Event{Room: room, JSON: []byte(`{"content":` + strings.Repeat(`[`, 300) + strings.Repeat(`]`, 300) + `}`), Meta: EventMeta{EventID: "$deep"}}
	w.events = append(w.events, deep)
	path := filepath.Join(t.TempDir(), "a.tar")
	_, err := Write(t.Context(), path, w.contents(), plain())
	must(t, err)
	ask(t, path, true)
	v, err := Verify(t.Context(), path, ReadOptions{})
	must(t, err)
	if !v.OK() || !slices.Equal(codesOf(v), []string{CodeUnverified}) || v.Report.Losses[1].Code != "event_deep" {
		t.Errorf("%+v %+v", v.Findings, v.Report)
	}
	var got []EventMeta
	_, err = Read(t.Context(), path, ReadOptions{}, func(e Element) error {
		switch e.Item {
		case itemMeta:
			var m EventMeta
			must(t, e.Decode(&m))
			got = append(got, m)
		case itemRaw:
			var texts map[string]string
			must(t, e.Decode(&texts))
			if texts["$deep"] != string(deep.JSON) {
				t.Errorf("%v", texts)
			}
		}
		return nil
	})
	must(t, err)
	if len(got) != 7 || got[4].Rejected != "auth_error" || !got[5].SoftFailed || !got[6].Censored {
		t.Errorf("%+v", got)
	}
	if bytes.Contains(read(t, path), []byte("secret")) {
		t.Error("what was redacted is in the archive")
	}
	c := newWorld(t, "5").contents()
	var nested any = map[string]any{}
	for range 200 {
		nested = []any{nested}
	}
	c.Profiles = seq(UserDetails{ID: "@a:example.org", Dehydrated: nested})
	if _, err := Write(t.Context(), path+"2.tar", c, plain()); !errors.Is(err, ErrCBOR) {
		t.Errorf("what no reader would take was written: %v", err)
	}
}

// Other homeservers can use these packages: they know nothing of Lifeboat.
func TestImportsNothingOfLifeboat(t *testing.T) {
	for _, dir := range []string{".", "event"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		must(t, err)
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			src, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
			must(t, err)
			for _, i := range src.Imports {
				if p := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(p, "lifeboat.im/") && p != "lifeboat.im/lifeboat/mspf/event" {
					t.Errorf("%s imports %s", f, p)
				}
			}
		}
	}
}
