package history

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"lifeboat.im/lifeboat/record"
)

// Runs hold what they were made of and nothing else, merged or not; what is not as few
// and ascending as can be is refused.
func TestEntryRuns(t *testing.T) {
	place := rapid.Custom(func(t *rapid.T) Position {
		return Position{Epoch: rapid.Uint64Range(0, 3).Draw(t, "epoch"), Seq: rapid.Uint64Range(0, 12).Draw(t, "seq")}
	})
	draw := func(t *rapid.T, name string) []Position {
		list := rapid.SliceOf(place).Draw(t, name)
		slices.SortFunc(list, Position.compare)
		return slices.Compact(list)
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		r, m := runsOf(a), runsOf(a).merge(runsOf(b))
		if got := slices.Collect(r.all()); !slices.Equal(got, a) {
			t.Fatalf("%v are %v", a, got)
		}
		if err := errors.Join(r.validate(), m.validate()); err != nil {
			t.Fatal(err)
		}
		for epoch := range uint64(4) {
			for seq := range uint64(14) {
				at := Position{Epoch: epoch, Seq: seq}
				if in := slices.Contains(a, at); r.has(at) != in || m.has(at) != (in || slices.Contains(b, at)) {
					t.Fatalf("%s: %v %v of %v and %v", at, r.has(at), m.has(at), a, b)
				}
			}
		}
	})
	for _, bad := range []entryRuns{
		{{Epoch: 1, From: 2, To: 1}},
		{{Epoch: 1, To: maxNumber + 1}},
		{{Epoch: 1, From: 1, To: 2}, {Epoch: 1, From: 3, To: 3}},
		{{Epoch: 2}, {Epoch: 1}},
		{{Epoch: 1, From: 4, To: 6}, {Epoch: 1, From: 1, To: 2}},
	} {
		if err := bad.validate(); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
