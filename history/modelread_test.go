package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lifeboat.im/lifeboat/record"
)

// read holds a reader's picture of a lineage against the source.
func (ln *lineage) read(ctx context.Context) error {
	v, err := ln.reader().Load(ctx)
	if errors.Is(err, ErrNoLineage) && len(ln.ackedBy) == 0 {
		return nil
	}
	if err != nil {
		return broken("load %s: %w", ln.id, err)
	}
	if v.Durable < ln.acked {
		return broken("%s was acknowledged, a reader finds %s", ln.acked, v.Durable)
	}
	if ln.letGo {
		return nil
	}
	for _, h := range slices.Sorted(maps.Keys(ln.held)) {
		if v.Pruned > ln.held[h] {
			return broken("%s was pruned under the hold %s", v.Pruned, h)
		}
	}
	if !slices.ContainsFunc(v.Runs, func(r PruneRun) bool { return r.Deleting != noPosition }) {
		if err := ln.all(ctx, v); err != nil {
			return err
		}
	}
	for _, at := range ln.promised(v) {
		if err := ln.readable(ctx, v, at.At); err != nil {
			return broken("%s %s at %s of %s, of %s (ready %s, pruned %s): %w", at.Why, at.Name, at.At, ln.id, at.Time, ln.ready, v.Pruned, err)
		}
	}
	return ln.keysHeld(v)
}

// all holds everything against the source, as long as nothing was pruned.
func (ln *lineage) all(ctx context.Context, v *View) error {
	got, err := readRows(ctx, v, 0, everything, nil)
	if err != nil {
		return broken("records: %w", err)
	}
	if want := ln.rows(0, v.Durable, nil); !slices.Equal(plain(got), plain(want)) {
		return broken("a reader finds %d rows up to %s, the source has %d", len(got), v.Durable, len(want))
	}
	for at, f := range ln.bases {
		if !slices.ContainsFunc(v.Bases, func(b BaseInfo) bool { return b.Position == at && b.Table == f.table }) {
			return broken("the base %s is lost", at)
		}
	}
	for name := range ln.kept {
		named := func(m Mark) bool { return m.Name == name }
		if !slices.ContainsFunc(v.Marks, named) && !slices.ContainsFunc(v.Pins, named) {
			return broken("%s is lost", name)
		}
	}
	return nil
}

// rows are the source's in (after, until].
func (ln *lineage) rows(after, until record.LSN, want func(uint32) bool) (out []row) {
	for at := walStart; at < until; {
		t := ln.tx(at)
		if t.end > until {
			break
		}
		for _, r := range t.rows {
			if t.end > after && (want == nil || want(r.table)) {
				out = append(out, r)
			}
		}
		at = t.end
	}
	return out
}

// promised are the positions that retention must have left, by what the model knows:
// each commit of the window, marks, pins, and a round of each of the last weeks and
// months.
func (ln *lineage) promised(v *View) (out []KeptPoint) {
	if ln.ready == 0 {
		return nil
	}
	newest := record.Time(0)
	var ends []walTx
	for at := walStart; at+100 <= v.Durable; at += 100 {
		t := ln.tx(at)
		newest, ends = max(newest, t.time), append(ends, t)
	}
	for _, t := range ends {
		if t.end >= ln.ready && t.time >= newest-record.Time(modelKeep.EveryCommit/time.Microsecond) {
			out = append(out, KeptPoint{Why: "window", At: t.end, Time: t.time})
		}
	}
	for name, at := range ln.kept {
		if at >= ln.ready {
			out = append(out, KeptPoint{Why: "kept", Name: name, At: at})
		}
	}
	// A round that the writer was not told of may stand for a later one of its week.
	has := func(same func(Round) bool) {
		var first *Round
		for i := range ln.rounds {
			if r := &ln.rounds[i]; same(*r) {
				if !v.PrunedAt(r.Point) {
					out = append(out, KeptPoint{Why: "round", At: r.Point, Time: r.Time})
					return
				}
				first = cmp.Or(first, r)
			}
		}
		if first != nil && !slices.ContainsFunc(v.Rounds, same) {
			out = append(out, KeptPoint{Why: "round", Name: "of its week or month", At: first.Point, Time: first.Time})
		}
	}
	for i := range int64(modelKeep.Weekly) {
		has(func(r Round) bool { return Week(r.Time) == Week(newest)-i })
	}
	for i := range int64(modelKeep.Monthly) {
		has(func(r Round) bool { return r.Kind == Monthly && Month(r.Time) == Month(newest)-i })
	}
	slices.SortFunc(out, func(a, b KeptPoint) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Name, b.Name)) })
	return slices.CompactFunc(out, func(a, b KeptPoint) bool { return a.At == b.At })
}

// readable restores a position: a base of each table with what it holds, all records
// after it, and a schema.
func (ln *lineage) readable(ctx context.Context, v *View, at record.LSN) error {
	if v.PrunedAt(at) {
		return ErrPruned
	}
	bases := v.BasesAt(at)
	if len(bases) != 3 {
		return fmt.Errorf("%d bases", len(bases))
	}
	for _, info := range bases {
		text, got, err := tableAt(ctx, v, info, at)
		if err != nil {
			return err
		}
		if f, ok := ln.bases[info.Position]; ok && (f.text != string(text) || f.table != info.Table || f.exact > at) {
			return fmt.Errorf("base %s holds %q, want %q", info.Position, text, f.text)
		}
		own := func(t uint32) bool { return t == info.Table }
		if want := ln.rows(info.RecordsFrom, at, own); !slices.Equal(plain(got), plain(want)) {
			return fmt.Errorf("table %d has %d rows after its base, want %d", info.Table, len(got), len(want))
		}
	}
	for i := len(v.Schemas) - 1; i >= 0; i-- {
		if v.Schemas[i].From <= at {
			_, err := v.Schema(ctx, v.Schemas[i])
			return err
		}
	}
	return errors.New("no schema")
}
