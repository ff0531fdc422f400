package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestAllowance walks through what the source may keep: budget 100, so a quarter is 25.
func TestAllowance(t *testing.T) {
	const start = -1 // the agent is started again after a crash
	for name, steps := range map[string][]struct {
		retained int64
		over     bool
	}{
		"within":                        {{90, false}, {100, false}, {101, true}},
		"behind at start, catches up":   {{900, false}, {500, false}, {80, false}, {120, true}},
		"behind at start, grows":        {{900, false}, {925, false}, {926, true}},
		"shrinks, then grows":           {{900, false}, {300, false}, {320, false}, {326, true}},
		"a crash loop does not creep":   {{900, false}, {start, false}, {920, false}, {start, false}, {930, true}},
		"caught up, then a crash":       {{900, false}, {50, false}, {start, false}, {500, false}, {526, true}},
		"a small step back is no notch": {{900, false}, {890, false}, {920, false}},
	} {
		dir := t.TempDir()
		w := &allowance{dir: dir, limit: 100, log: slog.New(slog.DiscardHandler)}
		for i, s := range steps {
			if s.retained == start {
				w = &allowance{dir: dir, limit: 100, log: w.log}
				continue
			}
			if over, err := w.over(s.retained); err != nil || over != s.over {
				t.Errorf("%s, step %d: %d kept: over %t, %v, want %t", name, i, s.retained, over, err, s.over)
			}
		}
	}
	w := &allowance{dir: t.TempDir(), limit: -1}
	if over, err := w.over(1 << 60); over || err != nil {
		t.Errorf("without a budget: %t, %v", over, err)
	}
}

// TestCatchUpOverBudget: more WAL than the budget is kept when the agent starts, and
// the store is away at first. Nothing is given up, nothing is lost.
func TestCatchUpOverBudget(t *testing.T) {
	b, g := gated(t, "CREATE TABLE k (id serial PRIMARY KEY, v text)", "INSERT INTO k (v) VALUES ('first')")
	b.attach()
	stop := b.run()
	b.waitReady()
	stop()
	b.db.Exec(t, "INSERT INTO k (v) SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
	b.o.Tuning.WALBudget = 1 << 20
	var failed atomic.Int32
	g.mu.Lock()
	g.fail = func(key string) (before, after bool) {
		return strings.HasPrefix(key, "log/") && failed.Add(1) <= 20, false
	}
	g.mu.Unlock()
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "the store to be back", func() bool { return failed.Load() > 20 })
	b.mark("end")
	testpg.WaitFor(t, 2*time.Minute, "the budget to hold again", func() bool {
		b.db.Exec(t, "INSERT INTO k (v) VALUES ('more')", "CHECKPOINT")
		_, err := os.Lstat(filepath.Join(b.o.State, allowanceFile))
		return err != nil
	})
	b.wantLive()
	stop()
	if n := len(b.view().Incompletes); n != 0 {
		t.Errorf("%d intervals are incomplete", n)
	}
}
