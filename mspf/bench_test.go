package mspf

import (
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkEvents writes and verifies events of an ordinary size into a plain tar.
func BenchmarkEvents(b *testing.B) {
	w := newWorld(b, "10")
	e := w.events[2]
	c := w.contents()
	c.Archive.EventOrder = ""
	c.Events = func(yield func(Event, error) bool) {
		for range b.N {
			if !yield(e, nil) {
				return
			}
		}
	}
	path := filepath.Join(b.TempDir(), "a.tar")
	b.ReportAllocs()
	start := time.Now()
	_, err := Write(b.Context(), path, c, plain())
	must(b, err)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "written/s")
	start = time.Now()
	_, err = Read(b.Context(), path, ReadOptions{}, func(Element) error { return nil })
	must(b, err)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "read/s")
	start = time.Now()
	_, err = Verify(b.Context(), path, ReadOptions{})
	must(b, err)
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "verified/s")
}
