package cdc

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestSinkStandsStill: a store that takes nothing for longer than the server waits
// for a reader (tcp_user_timeout, 5 s) does not cost the copy, at its beginning, where
// much is still to be read, nor in its midst, where the kernel's buffers have grown,
// nor at its end, where the transaction would be idle.
func TestSinkStandsStill(t *testing.T) {
	t.Parallel()
	const rows = 300000
	d := testpg.Shared(t, 18).Database(t)
	d.Exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 300000) i")
	s := connect(t, d.DSN, "s_"+d.Name)
	cat, err := s.Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := &bag{each: func(n int) error {
		if n == 1 || n == rows/3 || n == rows-10 {
			still := time.NewTimer(8 * time.Second) // the fault itself
			<-still.C
		}
		return nil
	}}
	if _, err := s.Copy(t.Context(), *cat.Lookup("public", "t"), CopyOptions{}, b.sink); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if len(b.lines) != rows || b.ends != 1 {
		t.Errorf("%d lines and %d ends, want %d and 1", len(b.lines), b.ends, rows)
	}
}

// TestAheadIsBounded: however large the rows are, what is read ahead of a sink that
// stands still is bounded in bytes, and the server has waited for half a minute.
func TestAheadIsBounded(t *testing.T) {
	for _, size := range []int{100, 100 << 10, 300 << 10, 900 << 10} {
		synctest.Test(t, func(t *testing.T) {
			goOn, began := make(chan struct{}), time.Now()
			b := &bag{each: func(int) error { <-goOn; return nil }}
			a := readAhead(&lines{sink: b.sink(0), pace: newPacer(0, time.Now)})
			row := append(bytes.Repeat([]byte{'x'}, size), '\n')
			written, last := 0, time.Time{}
			go func() {
				for range 30 << 20 / size {
					if _, err := a.Write(row); err != nil {
						t.Error(err)
					}
					if written++; a.held.Load() > aheadMost {
						t.Errorf("rows of %d bytes: %d bytes wait", size, a.held.Load())
					}
					last = time.Now()
				}
				if err := a.finish(nil); err != nil {
					t.Error(err)
				}
			}()
			<-time.After(5 * time.Minute) // the bubble's own time
			if stood := last.Sub(began); a.held.Load() < aheadMost*3/4 || stood < 22*time.Second {
				t.Errorf("rows of %d bytes: %d bytes wait, the last was taken after %s", size, a.held.Load(), stood)
			}
			close(goOn)
			synctest.Wait()
			if n := 30 << 20 / size; written != n || len(b.lines) != n {
				t.Errorf("rows of %d bytes: %d written, %d came, want %d", size, written, len(b.lines), n)
			}
		})
	}
}
