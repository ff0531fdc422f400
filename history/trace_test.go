package history

import (
	"testing"

	"lifeboat.im/lifeboat/record"
)

// TestTrace reads back what a restore leaves in a comment, and keeps what others
// wrote there.
func TestTrace(t *testing.T) {
	p := Parent{ID: LineageID{Source: record.Source{SystemID: 7, Database: 16384}, Lineage: record.NewLineage()}, At: 0x1_0000_0020}
	other := Parent{ID: p.ID, At: 5}
	for _, comment := range []string{"", "the homeserver", "two\nlines", "ends with a line\n"} {
		with := WithTrace(WithTrace(comment, other), p)
		got, rest, ok := ParseTrace(with)
		if !ok || got != p || rest != comment {
			t.Errorf("%q: have %v %v %q from %q", comment, ok, got, rest, with)
		}
	}
	for _, none := range []string{"", "restored from x", tracePrefix, tracePrefix + p.ID.String(), tracePrefix + "x at lsn:0/1"} {
		if _, _, ok := ParseTrace(none); ok {
			t.Errorf("%q is taken for a trace", none)
		}
	}
}
