package history

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// counting counts what is read of chunks and of the log.
type counting struct {
	chunkstore.Backend
	chunks int
	bytes  map[string]int // by the first part of the key
}

func (c *counting) Get(ctx context.Context, key string) ([]byte, error) {
	b, err := c.Backend.Get(ctx, key)
	kind, _, _ := strings.Cut(key, "/")
	c.bytes[kind] += len(b)
	if kind == "chunk" {
		c.chunks++
	}
	return b, err
}

// TestQuietTableReadsLittle: the records of a quiet table are had from a history without
// reading those of a busy one, nor most transactions that touched nothing else.
func TestQuietTableReadsLittle(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	text := func(i int) string { return fmt.Sprintf("%d\t%x", i, sha256.Sum256(fmt.Append(nil, i))) }
	n := 0
	for i := range 40 {
		var txs [][]row
		for range 1000 {
			txs = append(txs, []row{ins(100, text(n)), ins(100, text(n+1))})
			n += 2
		}
		if i == 7 || i == 8 {
			txs[500] = append(txs[500], ins(101, text(n)))
		}
		w.segment(t, txs...)
	}
	must(t, w.w.Rotate(ctx, Opening{Durable: w.w.View().Durable}))
	must(t, w.w.Merge(ctx, w.w.View().Head.Epoch-1))
	c := &counting{Backend: w.mem, bytes: map[string]int{}}
	repo, err := Open(ctx, c)
	must(t, err)
	v, err := quick(repo.Log(w.secrets, w.id, nil)).Load(ctx)
	must(t, err)
	for _, table := range []uint32{101, 100} {
		c.chunks, c.bytes = 0, map[string]int{}
		got, err := readRows(ctx, v, 0, everything, func(oid uint32) bool { return oid == table })
		must(t, err)
		var want []row
		for _, r := range w.rows {
			if r.table == table {
				want = append(want, r)
			}
		}
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Fatalf("table %d: %d rows, want %d", table, len(got), len(want))
		}
		t.Logf("table %d: %d rows from %d chunks, %v bytes", table, len(got), c.chunks, c.bytes)
		switch h := v.Histories[len(v.Histories)-1]; {
		case table == 101 && (c.chunks > 5 || c.bytes["chunk"] > int(h.Bytes)/16 || c.bytes["log"] > 8<<10):
			t.Errorf("the quiet table's rows took %d chunks, %v bytes of a history of %d", c.chunks, c.bytes, h.Bytes)
		case table == 100 && c.bytes["chunk"] < 2<<20:
			t.Errorf("the busy table is not busy: %v bytes", c.bytes)
		}
	}
	// Any stretch gives the same rows as a reader of everything finds.
	for _, r := range [][2]record.LSN{{0, v.Durable / 2}, {v.Durable / 3, v.Durable - 1000}, {v.Durable - 90_000, v.Durable}} {
		some, err := readRows(ctx, v, r[0], r[1], func(oid uint32) bool { return oid == 101 })
		must(t, err)
		all, err := readRows(ctx, v, r[0], r[1], nil)
		must(t, err)
		if all = slices.DeleteFunc(all, func(x row) bool { return x.table != 101 }); !slices.Equal(some, all) {
			t.Errorf("(%s, %s]: %d rows, want %d", r[0], r[1], len(some), len(all))
		}
	}
}
