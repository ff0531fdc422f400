package cdc

import (
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestSinkStandsStill: a store that takes nothing for longer than the server waits
// for a reader (tcp_user_timeout, 5 s) does not cost the copy, at its beginning, where
// much is still to be read, nor at its end, where the transaction would be idle.
func TestSinkStandsStill(t *testing.T) {
	if testing.Short() {
		t.Skip("stands still for 16 s")
	}
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
		if n == 1 || n == rows-10 {
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
