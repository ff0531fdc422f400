package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// large is a server of one room with many events, whose rows are made when they are
// asked for.
type large struct {
	events int
	body   string
	look   func()
}

func (l large) Columns(table string) []string {
	return map[string][]string{
		"rooms": {"room_id", "is_public", "creator", "room_version"}, "event_json": {"event_id", "room_id", "internal_metadata", "json"},
		"events": {"event_id", "type", "sender", "stream_ordering", "received_ts", "outlier", "rejection_reason"},
	}[table]
}

func (l large) Rows(table string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if table == "rooms" {
			yield([]byte("!r:example.org\tf\t@a:example.org\t10"), nil)
			return
		}
		for i := range l.events {
			if i%1000 == 0 {
				l.look()
			}
			id, depth := fmt.Sprintf("$%040d", i), i*7919%l.events // not in the order of the room
			line := id + fmt.Sprintf("\tm.room.message\t@a:example.org\t%d\t1600000000000\tf\t\\N", i)
			if table == "event_json" {
				line = id + "\t!r:example.org\t{}\t" + fmt.Sprintf(
					`{"type":"m.room.message","sender":"@a:example.org","room_id":"!r:example.org","depth":%d,"content":{"body":"%s"},"prev_events":[],"auth_events":[],"hashes":{"sha256":"x"}}`, depth, l.body)
			}
			if !yield([]byte(line), nil) {
				return
			}
		}
	}
}

// TestMemoryIsBounded: an archive of 400 MB of events takes no more memory than one of
// few, but for some words for each event of a room.
func TestMemoryIsBounded(t *testing.T) {
	const most = 150 << 20
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	var peak uint64
	look := func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapInuse)
	}
	dir, err := spill.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	o := options()
	o.Memory = 32 << 20
	const events = 100_000
	c, err := Contents(context.Background(), large{events, strings.Repeat("x", 4000), look}, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	all, n := c.Events, 0
	c.Events = func(yield func(mspf.Event, error) bool) {
		for e, err := range all {
			if n++; n%1000 == 0 {
				look()
			}
			if !yield(e, err) {
				return
			}
		}
	}
	if _, err := mspf.Write(context.Background(), filepath.Join(t.TempDir(), "a.tar.zst"), *c, mspf.WriteOptions{Plaintext: true}); err != nil {
		t.Fatal(err)
	}
	if n != events || peak > most || peak == 0 {
		t.Errorf("%d events, a heap of %d MiB at most, want %d and at most %d", n, peak>>20, events, most>>20)
	}
	t.Logf("%d events, a heap of %d MiB at most", n, peak>>20)
}

// TestInterrupted: whoever stops an export leaves nothing behind, neither half an archive
// nor what was sorted.
func TestInterrupted(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	parent, to := t.TempDir(), t.TempDir()
	dir, err := spill.Open(parent)
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Memory = 1 << 20
	rows := large{20_000, "x", func() {}}
	c, err := Contents(ctx, rows, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	all, n := c.Events, 0
	c.Events = func(yield func(mspf.Event, error) bool) {
		for e, err := range all {
			if n++; n == 5000 {
				stop()
			}
			if !yield(e, err) {
				return
			}
		}
	}
	if _, err := mspf.Write(ctx, filepath.Join(to, "a.tar.zst"), *c, mspf.WriteOptions{Plaintext: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped in the midst of writing: %v", err)
	}
	if _, err := Contents(ctx, rows, dir, o); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped in the midst of sorting: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Error(err)
	}
	for _, d := range []string{parent, to} {
		if left, err := os.ReadDir(d); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
