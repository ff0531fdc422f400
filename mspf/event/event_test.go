package event_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf/event"
	"maunium.net/go/mautrix/crypto/canonicaljson"
)

var update = flag.Bool("update", false, "write the vectors anew")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func replaceVersion(s, id string) string { return strings.ReplaceAll(s, "VERSION", id) }

// The vectors are what other implementers hold themselves to: they change only when
// the corpus does, never when the code does.
func TestVectors(t *testing.T) {
	all := corpus(t)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, v := range all {
		must(t, enc.Encode(v))
	}
	const path = "testdata/vectors.jsonl"
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(want, b.Bytes()) {
		t.Fatalf("%s is not what the corpus gives now (-update, after the oracle agreed)", path)
	}
}

// Synapse's own code says the same of every event of the corpus.
func TestSynapseAgrees(t *testing.T) {
	install, err := homeserver.Find("../..")
	testpg.Need(t, "Synapse", err == nil, "tools")
	all := corpus(t)
	var in bytes.Buffer
	for _, v := range all {
		must(t, json.NewEncoder(&in).Encode(v))
	}
	cmd := exec.CommandContext(t.Context(), install.Python, "testdata/oracle.py")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+install.Lib)
	cmd.Stdin = &in
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oracle: %v\n%s", err, stderr.String())
	}
	dec, n := json.NewDecoder(bytes.NewReader(out)), 0
	for ; dec.More(); n++ {
		var got struct {
			EventID, ContentHash, Redacted, RoomID string
			ContentOK, SignatureOK                 bool
			Error                                  string
		}
		must(t, dec.Decode(&got))
		want := all[n]
		if got.Error != "" || got.EventID != want.EventID || got.ContentHash != want.ContentHash || got.Redacted != string(want.Redacted) ||
			got.RoomID != want.RoomID || !got.ContentOK || !got.SignatureOK {
			t.Errorf("version %s, %s:\n  Synapse %+v\n  we      %s %s %s %s", want.RoomVersion, want.Name, got, want.EventID, want.ContentHash, want.Redacted, want.RoomID)
		}
	}
	if n != len(all) || n < 180 {
		t.Errorf("asked for %d events, heard of %d", len(all), n)
	}
}

func TestSignature(t *testing.T) {
	pub := key().Public().(ed25519.PublicKey)
	for _, x := range corpus(t) {
		v, _ := event.Lookup(x.RoomVersion)
		ev, _, err := event.Parse(x.Event)
		must(t, err)
		must(t, v.CheckSignature(ev, server, keyID, pub))
		must(t, v.CheckContentHash(ev))
		must(t, v.CheckSignature(v.Redact(ev), server, keyID, pub))
		if err := v.CheckSignature(ev, server, "ed25519:other", pub); !errors.Is(err, event.ErrNoSignature) {
			t.Errorf("a key that did not sign: %v", err)
		}
		id, err := v.EventID(v.Redact(ev))
		must(t, err)
		if id != x.EventID {
			t.Errorf("version %s, %s: a redaction changes the id from %s to %s", v.ID, x.Name, x.EventID, id)
		}
		ev["depth"] = int64(-1)
		if err := v.CheckSignature(ev, server, keyID, pub); !errors.Is(err, event.ErrSignature) {
			t.Errorf("version %s, %s: another depth, and the signature says %v", v.ID, x.Name, err)
		}
		if err := v.CheckContentHash(ev); !errors.Is(err, event.ErrContentHash) {
			t.Errorf("version %s, %s: another depth, and the hash says %v", v.ID, x.Name, err)
		}
	}
}

func TestParse(t *testing.T) {
	for text, exact := range map[string]bool{
		`{"a":1}`: true, `{"a":-0}`: true, `{"a":9007199254740991}`: true, `{"a":9007199254740992}`: false, `{"a":1.0}`: false, `{"a":1e2}`: false,
		`{"a":"\ud83d\ude00"}`: true, `{"a":"\ud83d"}`: false, `{"a":"\ude00\ud83d"}`: false, `{"a":"\\ud83d"}`: true, `{"\ud83dx":1}`: false,
		`{"a":123456789012345678901234567890}`: false,
	} {
		ev, got, err := event.Parse([]byte(text))
		if err != nil || got != exact {
			t.Errorf("%s: exact %v, %v", text, got, err)
		}
		if !strings.Contains(text, `\u`) && event.Exact(ev) != exact {
			t.Errorf("%s: the tree is exact: %v", text, !exact)
		}
	}
	for _, text := range []string{``, `[]`, `{`, `{} {}`, `{"a":1e999}`, `null`, `"x"`, `{"a":01}`, `{"a":1.}`, "{\"a\":\"\n\"}", strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200)} {
		if _, _, err := event.Parse([]byte(text)); !errors.Is(err, event.ErrJSON) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	ev, _, err := event.Parse([]byte(`{"a":1,"a":2,"b":123456789012345678901234567890}`))
	must(t, err)
	if ev["a"] != int64(2) || ev["b"].(*big.Int).String() != "123456789012345678901234567890" {
		t.Errorf("%v", ev)
	}
}

// mautrix agrees on everything but what doc.go names.
func TestCanonicalIsThatOfMautrix(t *testing.T) {
	for _, x := range corpus(t) {
		if !x.Exact || bytes.Contains(x.Event, []byte(`\u00`)) || x.Name == "minuszero" {
			continue
		}
		ev, _, err := event.Parse(x.Event)
		must(t, err)
		ours, err := event.Canonical(ev)
		must(t, err)
		theirs, err := canonicaljson.CanonicalJSON(x.Event)
		must(t, err)
		if !bytes.Equal(ours, theirs) {
			t.Errorf("version %s, %s:\n%s\n%s", x.RoomVersion, x.Name, ours, theirs)
		}
	}
	for text, want := range map[string]string{`{"a":"\u001f"}`: `{"a":"\u001F"}`, `{"a":1e3}`: `{"a":1e3}`, `{"a":1,"a":2}`: `{"a":1,"a":2}`} {
		theirs, err := canonicaljson.CanonicalJSON([]byte(text))
		if err != nil || string(theirs) != want {
			t.Errorf("mautrix spells %s as %s (%v): doc.go says otherwise", text, theirs, err)
		}
	}
}

// reference is Parse by means of encoding/json.
func reference(text []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows")
	}
	obj, ok := tree.(map[string]any)
	if !ok {
		return nil, errors.New("no object")
	}
	return obj, nil
}

// sameTree compares with numbers by their value.
func sameTree(ours, theirs any) bool {
	switch x := ours.(type) {
	case map[string]any:
		y, ok := theirs.(map[string]any)
		return ok && maps.EqualFunc(x, y, sameTree)
	case []any:
		y, ok := theirs.([]any)
		return ok && slices.EqualFunc(x, y, sameTree)
	case int64, *big.Int:
		n, ok := new(big.Int).SetString(string(theirs.(json.Number)), 10)
		return ok && n.String() == fmt.Sprint(x)
	case float64:
		f, err := theirs.(json.Number).Float64()
		return err == nil && f == x
	}
	return ours == theirs
}

// Parse takes what encoding/json takes and makes the same of it.
func FuzzParseIsThatOfGo(f *testing.F) {
	for _, x := range corpus(f) {
		f.Add([]byte(x.Event))
	}
	for _, s := range []string{
		`{"a":"\ud83d"}`, `{"a":"\ud83d\ud83d\ude00"}`, "{\"a\":\"\xff\\n\xc3\"}", `{"a":[1,-0,0.5e+1,01]}`, `{"a":"\u12g4"}`, ` { "a" : [ true , false , null ] } `, `{"a":1,}`, `{"":{}}x`,
		"{\"a\":\"\x01\"}", `{"a":-}`, `{"a":1.}`, `{"a":"\'"}`, `{"a":tru}`, `{"a"`, `{"\`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ours, exact, err := event.Parse(text)
		theirs, ref := reference(text)
		if errors.Is(err, event.ErrDeep) || err != nil && strings.Contains(err.Error(), "is too large") || err != nil && strings.Contains(err.Error(), "digits") && ref == nil {
			return
		}
		if (err == nil) != (ref == nil) {
			t.Fatalf("%q: %v, Go says %v", text, err, ref)
		}
		if err == nil && !sameTree(ours, theirs) {
			t.Fatalf("%q: %v, Go says %v", text, ours, theirs)
		}
		if exact && !utf8.Valid(text) {
			t.Fatalf("%q is exact", text)
		}
	})
}

// What Parse accepts has a canonical form that parses to itself.
func FuzzParse(f *testing.F) {
	for _, x := range corpus(f) {
		f.Add([]byte(x.Event))
	}
	f.Add([]byte(`{"a":"\ud83d"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		ev, exact, err := event.Parse(text)
		if err != nil {
			return
		}
		if exact && !event.Exact(ev) {
			t.Fatal("exact, but the tree is not")
		}
		b, err := event.Canonical(ev)
		must(t, err)
		again, _, err := event.Parse(b)
		must(t, err)
		c, err := event.Canonical(again)
		must(t, err)
		if !bytes.Equal(b, c) {
			t.Fatalf("%s\n%s", b, c)
		}
		for _, v := range event.Versions() {
			_ = v.CheckContentHash(ev)
			_, _ = v.EventID(ev)
			_, _ = v.RoomID(ev)
			_ = v.CheckSignature(ev, server, keyID, nil)
			event.References(ev, "prev_events")
		}
	})
}
