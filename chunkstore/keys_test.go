package chunkstore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/restic/chunker"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	k := Keys{Name: fixed(0x41)}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%T %v"} {
		fmt.Fprintf(&out, verb+"\n", k.Name)
		fmt.Fprintf(&out, verb+"\n", &k.Name)
		fmt.Fprintf(&out, verb+"\n", k)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", k.Name, "keys", k)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k.Name, "keys", k)
	fmt.Fprintln(&out, k.Name.String(), k.Name.GoString(), fmt.Errorf("x %v", k.Name))
	if _, err := json.Marshal(k); err == nil {
		t.Error("keys marshal to JSON")
	}
	for _, leak := range []string{"AAAA", "4141", "65 65", "65, 65", "65,65", "0x41"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q in %s", leak, out.String())
		}
	}
}

func TestNewKeys(t *testing.T) {
	k, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Secret]bool{{}: true}
	for _, s := range []Secret{k.Name, k.Chunk, k.Seal, k.Cut, NewSecret(), k.Seal.Subkey("trailer"), k.Seal.Subkey("part1"), k.Cut.Subkey("rows")} {
		if seen[s] || s.IsZero() {
			t.Error("one secret twice, or none")
		}
		seen[s] = true
	}
	if p := chunker.Pol(k.Polynomial); p.Deg() != 53 || !p.Irreducible() {
		t.Errorf("polynomial %v", p)
	}
}

func TestNames(t *testing.T) {
	n := Name{0xab, 0xcd}
	want := "abcd" + strings.Repeat("0", 60)
	if n.String() != want || n.Key() != "chunk/ab/"+want {
		t.Errorf("%s %s", n, n.Key())
	}
	if got, err := ParseName(want); err != nil || got != n {
		t.Errorf("%s %v", got, err)
	}
	if got, err := ParseKey(n.Key()); err != nil || got != n {
		t.Errorf("%s %v", got, err)
	}
	for _, bad := range []string{"", "ab", strings.ToUpper(want), want + "0", "x" + want[1:]} {
		if _, err := ParseName(bad); err == nil {
			t.Errorf("name %q", bad)
		}
		if _, err := ParseKey("chunk/ab/" + bad); err == nil {
			t.Errorf("key of %q", bad)
		}
	}
	for _, bad := range []string{want, "chunk/ac/" + want, "chunk/ab/x/" + want, "chunks/ab/" + want} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("key %q", bad)
		}
	}
}

// TestRefCBOR fixes a reference's bytes: an array of two byte strings and a number.
func TestRefCBOR(t *testing.T) {
	r := Ref{D: [32]byte{1}, Gen: Gen{2}, Size: 1000}
	b, err := cbor.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := "835820" + hex.EncodeToString(r.D[:]) + "50" + hex.EncodeToString(r.Gen[:]) + "1903e8"
	if hex.EncodeToString(b) != want {
		t.Errorf("%x", b)
	}
	var back Ref
	if err := cbor.Unmarshal(b, &back); err != nil || back != r {
		t.Errorf("%+v %v", back, err)
	}
	again, _ := cbor.Marshal(back)
	if !bytes.Equal(b, again) {
		t.Errorf("%x", again)
	}
}
