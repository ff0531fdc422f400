package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// A merge of many transactions and tables gives the same rows as its segments, in
// every range and for every choice of tables; pieces, shared chunks and pieces of
// the transaction table all occur, and memory stays within the budget.
func TestMergeGivesTheSameRows(t *testing.T) {
	ctx, b := t.Context(), newBench(t)
	keys := newMemKeys()
	w, err := b.agentLog(keys).Begin(ctx, nil, keys, Opening{})
	must(t, err)
	wide := strings.Repeat("x", 900)
	at := record.LSN(0)
	for range 9 {
		var txs [][]row
		for i := range 4000 {
			tx := []row{ins(100, fmt.Sprint(at, i))}
			if i%2 == 0 {
				tx = append(tx, ins(102, fmt.Sprint(i, wide[:i%400])), ins(100, wide[:i%900]))
			}
			if i%1000 == 7 {
				tx = []row{ins(101, "rare")}
			}
			txs = append(txs, tx)
		}
		s, _ := segmentOf(at, txs...)
		must(t, w.Segment(ctx, s, SegmentMeta{}))
		at = s.End
	}
	must(t, w.Note(ctx, Note{Kind: NotePosition, Durable: at + 50}))
	must(t, w.Rotate(ctx, Opening{}))
	before, err := b.operatorLog().Load(ctx)
	must(t, err)
	must(t, w.Merge(ctx, 0))
	after, err := b.operatorLog().Load(ctx)
	must(t, err)
	if len(after.Segments) != 0 || len(after.Histories) != 1 || after.Durable != at+50 {
		t.Fatalf("after the merge: %d segments, %d histories, durable %s", len(after.Segments), len(after.Histories), after.Durable)
	}
	h, err := after.history(ctx, after.Histories[0])
	must(t, err)
	pieces := 0
	for _, tab := range h.Tables {
		pieces += len(tab.Pieces)
	}
	if len(h.Transactions) < 2 || pieces < 8 {
		t.Errorf("%d pieces of the transaction table, %d of records: the test is too small", len(h.Transactions), pieces)
	}
	only := func(oid uint32) func(uint32) bool { return func(t uint32) bool { return t == oid } }
	for _, want := range []func(uint32) bool{nil, only(100), only(101), only(102)} {
		for _, r := range [][2]record.LSN{{0, everything}, {0, at / 3}, {at / 3, at / 2}, {at - 500, everything}, {at / 2, at / 2}} {
			x, err := readRows(ctx, before, r[0], r[1], want)
			must(t, err)
			y, err := readRows(ctx, after, r[0], r[1], want)
			must(t, err)
			if !slices.Equal(x, y) {
				t.Fatalf("(%s, %s]: %d rows of segments, %d of the history", r[0], r[1], len(x), len(y))
			}
		}
	}
	for _, r := range [][2]record.LSN{{0, everything}, {at / 3, at / 2}} {
		for _, touched := range []bool{false, true} {
			if x, y := commits(t, before, r, touched), commits(t, after, r, touched); !slices.Equal(x, y) || len(x) == 0 {
				t.Fatalf("(%s, %s]: %d commits of segments, %d of the history", r[0], r[1], len(x), len(y))
			}
		}
	}
}

func commits(t *testing.T, v *View, r [2]record.LSN, touched bool) []string {
	t.Helper()
	var out []string
	must(t, v.Commits(t.Context(), r[0], r[1], touched, func(c record.Transaction, list []Touch) error {
		s := fmt.Sprint(c.XID, c.End, c.Records)
		for _, x := range list {
			s += fmt.Sprint(" ", x.Relation.Name, x.Inserts, x.Updates, x.Deletes, x.Truncates)
		}
		out = append(out, s)
		return nil
	}))
	return out
}

// Buffers never hold more than the budget and one record, whatever the tables are.
func TestMergeMemoryIsBounded(t *testing.T) {
	b := newBench(t)
	m := &merger{log: b.agentLog(newMemKeys()), tables: map[tableKey]*tableBuffer{}, relations: map[uint32][]uint32{}}
	text := []byte(strings.Repeat("y", 2000))
	for i := range uint64(40_000) {
		rel := &record.Relation{OID: uint32(1 + i%4000), Secret: i%4000 == 3}
		r := &record.Record{Ordinal: i, Op: record.Insert, New: record.Line{Text: text}}
		must(t, m.record(t.Context(), i, 0, rel, r))
		if m.buffered > mergeBudget {
			t.Fatalf("%d bytes are buffered", m.buffered)
		}
	}
	must(t, m.writeAll(t.Context()))
	if m.buffered != 0 {
		t.Errorf("%d bytes are left", m.buffered)
	}
	total := uint64(0)
	for _, tab := range m.tables {
		for _, p := range tab.pieces {
			total += p.Records
		}
	}
	if total != 40_000 {
		t.Errorf("%d records are in pieces", total)
	}
}

// A crash before any step of a merge, and after it, is mended by the next one.
func TestMergeIsMendedAfterACrash(t *testing.T) {
	for _, upTo := range []string{"nothing", "history", "checkpoint"} {
		ctx, w := t.Context(), newWritten(t)
		if upTo != "nothing" {
			must(t, w.w.mergeSegments(ctx, w.w.View(), 1))
		}
		if upTo == "checkpoint" {
			must(t, w.w.Checkpoint(ctx))
		}
		l := w.agentLog(w.keys)
		v, err := l.Load(ctx)
		must(t, err)
		next, err := l.Begin(ctx, v, w.keys, Opening{Durable: v.Durable})
		must(t, err)
		if u := next.Unmerged(); !slices.Equal(u, []uint64{1, 2}) {
			t.Fatalf("after %s: unmerged %v, want 1 and 2", upTo, u)
		}
		for _, e := range next.Unmerged() {
			must(t, next.Merge(ctx, e))
		}
		if u, k := next.Unmerged(), w.keys.held(); len(u) > 0 || !slices.Equal(k, []uint64{3}) {
			t.Errorf("after %s: unmerged %v, keys %v", upTo, u, k)
		}
		got, err := readRows(ctx, w.view(t), 0, everything, nil)
		must(t, err)
		if !slices.Equal(got, w.rows) {
			t.Errorf("after %s: rows %v, want %v", upTo, got, w.rows)
		}
		if r := w.verify(t); len(r.Damage) > 0 {
			t.Errorf("after %s: %v", upTo, r.Damage)
		}
	}
}

// After a merge the host opens nothing older: neither bases, nor segments, nor the
// history; what is in the open epoch it reads.
func TestHostOpensNothingOlderThanTheMerge(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	older := w.w.View().Segments[0]
	for _, e := range w.w.Unmerged() {
		must(t, w.w.Merge(ctx, e))
	}
	v, err := w.agentLog(w.keys).Load(ctx)
	must(t, err)
	_, err = v.Base(ctx, v.Bases[0])
	mustBe(t, err, ErrNoKey)
	_, err = v.history(ctx, v.Histories[0])
	mustBe(t, err, ErrNoKey)
	_, err = v.Schema(ctx, v.Schemas[0])
	mustBe(t, err, ErrNoKey)
	_, err = v.Tables(ctx, v.Epochs[0])
	mustBe(t, err, ErrNoKey)
	_, err = v.Segment(ctx, older)
	mustBe(t, err, ErrNoKey)
	_, err = v.Segment(ctx, v.Segments[0])
	must(t, err)
}

// Long name lists lie in index chunks, and condemned names in them are refused.
func TestLongReach(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	names := make([]chunkstore.Name, 2*maxReach+5)
	for i := range names {
		names[i] = chunkstore.Name{byte(i), byte(i >> 8), byte(i >> 16), 9}
	}
	must(t, w.w.Base(ctx, &Base{Relation: testRelations()[1]}, names))
	l := w.agentLog(w.keys)
	e, err := l.get(ctx, w.w.View().Head)
	must(t, err)
	got, err := l.reached(ctx, &e.sum)
	must(t, err)
	if len(e.sum.ReachIndex) != 3 || !slices.Equal(got[3:], names) {
		t.Errorf("%d index chunks, %d names", len(e.sum.ReachIndex), len(got))
	}
}
