package history

import (
	"slices"
	"testing"

	"lifeboat.im/lifeboat/record"
)

const everything = record.LSN(1 << 60)

// A log that is written, rotated and merged reads the same rows throughout.
func TestWalk(t *testing.T) {
	ctx, b := t.Context(), newBench(t)
	keys := newMemKeys()
	l := b.agentLog(keys)
	_, err := l.Load(ctx)
	mustBe(t, err, ErrNoLineage)
	w, err := l.Begin(ctx, nil, keys, Opening{Durable: 1000, Slot: "lifeboat", ServerVersion: 180006})
	must(t, err)
	var want []row
	at := record.LSN(1000)
	for i := range 6 {
		s, rows := segmentOf(at, []row{ins(100, "1\tx"), ins(102, "1\tsecret"), ins(100, "2\ty")}, []row{ins(101, "3\tz")})
		must(t, w.Segment(ctx, s, SegmentMeta{}))
		at, want = s.End, append(want, rows...)
		if i == 2 {
			must(t, w.Rotate(ctx, Opening{}))
		}
		check := func(when string) {
			t.Helper()
			v, err := b.operatorLog().Load(ctx)
			must(t, err)
			got, err := readRows(ctx, v, 0, everything, nil)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Fatalf("%s after segment %d: %v\nwant %v", when, i, got, want)
			}
			if v.Durable != at {
				t.Fatalf("durable %s, want %s", v.Durable, at)
			}
		}
		check("before merge")
		for _, e := range w.Unmerged() {
			must(t, w.Merge(ctx, e))
		}
		check("after merge")
	}
	if k := keys.held(); !slices.Equal(k, []uint64{1}) {
		t.Fatalf("keys of epochs %v are held, want 1 only", k)
	}
}
