package archive

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// BenchmarkEvents: from rows to a compressed archive, everything checked.
func BenchmarkEvents(b *testing.B) {
	const events = 20000
	w := newWorld(b)
	room, create, last := w.room("10")
	_, member, _ := create, last, 0
	lines := map[string][]string{}
	for i := range events {
		id, _ := w.send(sent{
			version: "10", room: room, kind: "m.room.message", content: `{"msgtype":"m.text","body":"` + strings.Repeat("word ", 20) + strconv.Itoa(i) + `"}`,
			prev: []string{last}, auth: []string{create, member}, unsigned: `{"age_ts":1600000000}`, meta: `{"token_id":1,"txn_id":"m1","historical":false,"stream_ordering":5}`,
		})
		last = id
		for _, t := range []string{"events", "event_json"} { // rows are sorted once, not with each
			lines[t] = append(lines[t], w.d[t].lines...)
			w.d[t].lines = nil
		}
	}
	for t, l := range lines {
		slices.Sort(l) // as a spool gives them
		w.d[t].lines = l
	}
	used := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		dir, err := spill.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		o := options()
		o.Memory = 0
		c, err := Contents(context.Background(), w.d, dir, o)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := mspf.Write(context.Background(), filepath.Join(b.TempDir(), "a.tar.zst"), *c, mspf.WriteOptions{Plaintext: true}); err != nil {
			b.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			b.Fatal(err)
		}
	}
	n := float64(events) * float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(n/(cpuTime(b)-used).Seconds(), "events/core-s")
}

// cpuTime is what the process has used of all processors: other work on the machine
// changes it less than the time.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
