package mspf

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// live is the heap that is in use, in bytes.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// 240 MiB of rows go through a writer and a reader that never hold more than a file
// and its encoding.
func TestM4_MemoryIsThatOfOneFile(t *testing.T) {
	const rows, line, bound = 60_000, 4 << 10, 3 * fileBytes
	text := strings.Repeat("x", line)
	start, peak := live(), uint64(0)
	look := func(i int) {
		if i%4_000 == 0 {
			peak = max(peak, live()-min(start, live()))
		}
	}
	c := Contents{
		Core: Core{ServerName: testServer}, Archive: Archive{Redaction: "none", Media: "none"},
		Database: &Database{Software: "synapse"},
		Rows: func(yield func(Row, error) bool) {
			for i := range rows {
				look(i)
				if !yield(Row{"big", []byte(text)}, nil) {
					return
				}
			}
		},
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	sum, err := Write(t.Context(), path, c, plain())
	must(t, err)
	if n := sum.Integrity.Items[itemDatabase]; n.Files < 8 || n.Elements != rows+1 {
		t.Errorf("%+v", n)
	}
	n := 0
	_, err = Read(t.Context(), path, ReadOptions{}, func(e Element) error {
		n++
		look(n)
		return nil
	})
	must(t, err)
	if peak > bound {
		t.Errorf("%d MiB were held of %d", peak>>20, rows*line>>20)
	}
	t.Logf("peak %d MiB", peak>>20)
}
