package mspf

import (
	"bytes"
	"testing"

	"lifeboat.im/lifeboat/mspf/event"
)

// FuzzPlainCBOR: what package event makes of a plain event is what a tree is encoded to.
func FuzzPlainCBOR(f *testing.F) {
	for _, s := range []string{
		`{"type":"m.room.message","content":{"body":"ü\n","n":[0,23,24,255,256,65535,65536,4294967296,-1,-24,-25,-257],"b":{"bb":1,"a":2,"ab":null,"":true,"c":false}},"unsigned":{"a":1}}`,
		`{"a":{},"b":[],"destinations":[],"outlier":true,"age_ts":1,"cc":"","ca":[[{"x":"012345678901234567890123456789"}]]}`,
	} {
		f.Add([]byte(s))
	}
	var p event.Plain
	f.Fuzz(func(t *testing.T, text []byte) {
		if !p.Read(text) {
			return
		}
		tree, _, err := event.Parse(text)
		must(t, err)
		event.Strip(tree)
		want, err := EncodeEvent(tree)
		must(t, err)
		if got := p.AppendCBOR(nil); !bytes.Equal(got, want) {
			t.Fatalf("%q is\n%x, want\n%x", text, got, want)
		}
	})
}
