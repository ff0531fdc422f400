package cdc

import (
	"fmt"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestStreamRests: a stream that keeps up is read a few times a second, brings all
// the same, and one that falls behind has no rest until it has caught up.
func TestStreamRests(t *testing.T) {
	const rest = 50 * time.Millisecond
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "CREATE TABLE t (i int)")
	h := &tape{}
	within := 0
	h.hold = func() {
		if h.st.rests != 0 {
			within++
		}
	}
	st, stop := play(t, s, h, StreamOptions{Rest: rest})
	const n = 200
	for i := range n {
		d.Exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
	}
	wait(t, "every transaction", func() bool { return len(h.all()) == n })
	_ = stop()
	want := time.Duration(0) // a busy machine falls behind
	if st.resting {
		want = rest
	}
	if within > 0 || st.rests != want {
		t.Errorf("%d rows came at rest, within their transaction; after the last one it is %s, want %s", within, st.rests, want)
	}
	for i, step := range []struct {
		lag  time.Duration
		want bool
	}{{rest, true}, {3 * rest, true}, {3*rest + 1, false}, {2 * rest, false}, {rest, true}} {
		if st.pace(step.lag); st.resting != step.want {
			t.Errorf("step %d, %s behind: resting is %t", i, step.lag, st.resting)
		}
	}
}
