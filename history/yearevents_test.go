package history

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// alter changes the schema: a column of some table, and now and then a table that comes
// and goes.
func (y *life) alter() {
	y.t.Helper()
	y.lsn += 64
	y.version++
	var now []*yearTable
	switch n := y.rng.IntN(8); {
	case n < 6:
		t := y.tables[n]
		t.shape++
		t.columns()
		t.count()
		now = append(now, t)
	case n == 6 || len(y.tables) == yearTables:
		t := newYearTable(y.nextOID, fmt.Sprintf("extra%d", y.nextOID), false)
		t.fill(300)
		y.nextOID++
		y.tables = append(y.tables, t)
		now = append(now, t)
	default:
		t := y.tables[yearTables]
		y.tables = slices.Delete(y.tables, yearTables, yearTables+1)
		n := Note{Kind: NoteDropped, Table: t.rel.OID, Name: t.rel.String(), From: y.lsn}
		y.do("drop", func() error { return y.w.Note(y.t.Context(), n) })
	}
	y.do("schema", y.schemaNote)
	for _, t := range now {
		y.copy(t)
	}
	y.moved()
}

// moved makes the source's position durable without a transaction.
func (y *life) moved() {
	y.t.Helper()
	n := Note{Kind: NotePosition, Durable: y.lsn, SchemaCertain: y.lsn}
	y.do("position", func() error { return y.w.Note(y.t.Context(), n) })
	y.pend = newYearSegment(y.lsn)
	y.branch.moments = append(y.branch.moments, y.yearLoad.moment(y.lsn, y.time()))
}

// empty truncates a table. Each second time nobody has told the agent that this is as it
// should be: it notes an alarm, and nothing is pruned until somebody has looked.
func (y *life) empty() {
	y.t.Helper()
	t := y.tables[yearLogin]
	rows := t.sum.n
	y.truncate(y.pend, t)
	y.commit(y.pend, y.time())
	y.branch.moments = append(y.branch.moments, y.yearLoad.moment(y.lsn, y.time()))
	at := y.lsn
	y.flush()
	if y.now.Month() != time.March {
		return
	}
	n := Note{Kind: NoteAlarm, Table: t.rel.OID, Name: t.rel.String(), From: at, Until: at, Time: y.time(), Change: &MassChange{Before: rows, Changed: rows}}
	y.do("alarm", func() error { return y.w.Note(y.t.Context(), n) })
	y.alarm = &y.w.View().Alarms[0]
}

// lose is a slot that was lost: changes that nobody saw.
func (y *life) lose() {
	y.t.Helper()
	unseen := newYearSegment(y.lsn)
	for range 20 {
		y.transaction(unseen, 25, y.time())
	}
	y.m.SetFault(nil)
	at := unseen.txs[len(unseen.txs)/2].End
	must(y.t, y.start(y.lsn))
	y.pend = newYearSegment(y.lsn)
	y.everything("after the slot was lost")
	y.branch.moments = append(y.branch.moments, y.yearLoad.moment(y.lsn, y.time()))
	if err := y.readable(y.branch, at); !errors.Is(err, errIncomplete) {
		y.t.Fatalf("day %d: a commit that nobody saw: %v", y.day, err)
	}
}

// adopt restores the database at a past commit, and a new lineage follows it from there.
func (y *life) adopt() {
	y.t.Helper()
	at := y.randomMoment()
	tables, err := y.materialise(y.branch, at)
	must(y.t, err)
	for i, t := range tables {
		t.copied = y.now
		if t.sum != at.sums[t.rel.OID] {
			y.t.Fatalf("day %d: table %s was restored wrongly", y.day, t.rel.Name)
		}
		if i < yearTables && t.rel.OID != uint32(100+i) {
			y.t.Fatalf("table %d is %s", i, t.rel.Name)
		}
	}
	y.tables = tables
	y.version++
	y.newLineage(&Parent{ID: y.branch.id, At: at.at})
}

// crashSoon lets the store die at one of the next creates.
func (y *life) crashSoon() {
	n, left := y.rng.IntN(40), true
	fault := []storetest.Fault{storetest.Crash, storetest.CrashAfter}[y.rng.IntN(2)]
	y.m.SetFault(func(op storetest.Op, _ string) storetest.Fault {
		if op != storetest.OpCreate || !left {
			return storetest.None
		}
		if n--; n >= 0 {
			return storetest.None
		}
		left = false
		return fault
	})
}

// oneDay plays a day.
func (y *life) oneDay() {
	y.t.Helper()
	y.day++
	part := 24 * time.Hour / time.Duration(y.plan.perDay)
	for range y.plan.perDay {
		y.now = y.now.Add(part)
		y.m.Advance(part)
		left := int64(y.plan.days-y.day)*int64(y.plan.perDay) + 1
		y.step(max((y.plan.changes-y.changes)/max(left, 1), 50))
	}
	y.m.ClearLog()
	if y.now.Day() == 1 {
		y.empty()
	}
	switch {
	case slices.Contains(y.plan.adopt, y.day):
		y.adopt()
	case y.day%151 == 100:
		y.lose()
	case y.day%23 == 0:
		y.alter()
	case y.day%5 == 0:
		y.do("restart", func() error { return y.start(0) })
	}
	if y.day%11 == 0 {
		y.crashSoon()
	}
	y.rotate()
	y.remember()
}

// remember adds a mark or a pin now and then, and takes old ones away.
func (y *life) remember() {
	y.t.Helper()
	ctx := y.t.Context()
	note := func(k NoteKind, name string) {
		m := y.randomMoment()
		n := Note{Kind: k, Name: name, From: m.at, Time: y.time()}
		y.branch.asked = append(y.branch.asked, asked{why: k.String(), name: name, m: m})
		y.do(name, func() error { return y.repo.Log(y.secrets, y.branch.id, nil).AppendNote(ctx, n) })
	}
	forget := func(list *[]string) {
		if len(*list) <= 3 {
			return
		}
		n := Note{Kind: NoteUnpin, Name: (*list)[0], Time: y.time()}
		*list = (*list)[1:]
		y.branch.asked = slices.DeleteFunc(y.branch.asked, func(a asked) bool { return a.name == n.Name })
		y.do("forget "+n.Name, func() error {
			_, err := NoteEverywhere(ctx, y.repo, y.secrets.Maintenance(), n)
			return err
		})
	}
	switch y.day % 60 {
	case 20:
		y.marked = append(y.marked, fmt.Sprintf("mark-%d", y.day))
		note(NoteMark, y.marked[len(y.marked)-1])
		forget(&y.marked)
	case 50:
		y.pinned = append(y.pinned, fmt.Sprintf("pin-%d", y.day))
		note(NotePin, y.pinned[len(y.pinned)-1])
		forget(&y.pinned)
	}
}

// prune is the weekly one, elsewhere and with the maintenance secrets alone.
func (y *life) prune() *PruneReport {
	y.t.Helper()
	o := PruneOptions{Keep: y.plan.keep}
	for _, b := range y.past {
		if y.now.Sub(b.ended) > 365*day && !b.forgotten {
			o.Forget = append(o.Forget, b.id)
		}
	}
	var r *PruneReport
	y.do("prune", func() (err error) {
		r, err = Prune(y.t.Context(), y.repo, y.secrets.Maintenance(), o)
		if y.alarm != nil && errors.Is(err, ErrPruneRefused) {
			y.refused++
			return nil
		}
		if y.alarm != nil && err == nil {
			err = errors.New("it does not heed the alarm")
		}
		return err
	})
	if len(r.Warnings) > 0 && len(o.Forget) == 0 || len(r.Left) > 0 {
		y.t.Fatalf("day %d: prune: %v, left %v", y.day, r.Warnings, r.Left)
	}
	if y.alarm != nil {
		n := Note{Kind: NoteAcknowledge, Alarm: &y.alarm.At, Time: y.time()}
		y.do("acknowledge", func() error { return y.w.Note(y.t.Context(), n) })
		y.alarm = nil
	}
	if r.Phase == PruneDeleted {
		y.pruned++
		y.trim()
	}
	return r
}

// trim lets the oracle forget what is pruned, but for a few moments.
func (y *life) trim() {
	for _, b := range append(slices.Clone(y.past), y.branch) {
		v, err := y.repo.Log(y.secrets, b.id, nil).Load(y.t.Context())
		must(y.t, err)
		b.forgotten = v.Pruned == v.Durable && len(v.Points) == 0
		keep := map[record.LSN]bool{}
		for _, p := range v.Points {
			if m, ok := b.newest(p.At); ok {
				keep[m.at] = true
			}
		}
		n := 0
		b.moments = slices.DeleteFunc(b.moments, func(m moment) bool {
			if m.at >= v.First || keep[m.at] {
				return false
			}
			n++
			return n%100 != 0
		})
	}
}

// randomMoment is one of the window.
func (y *life) randomMoment() moment {
	first := y.w.View().First
	i, _ := slices.BinarySearchFunc(y.branch.moments, first, func(m moment, at record.LSN) int { return int(int64(m.at) - int64(at)) })
	since := record.FromTime(y.now.Add(-y.plan.keep.EveryCommit))
	for i < len(y.branch.moments)-1 && y.branch.moments[i].time < since {
		i++
	}
	return y.branch.moments[i+y.rng.IntN(len(y.branch.moments)-i)]
}

// live is what the source holds.
func (y *life) live() (n int64) {
	for _, t := range y.tables {
		n += t.bytes
	}
	return n
}

// materialise restores the tables of a moment, in the order of their oids.
func (y *life) materialise(b *branch, m moment) ([]*yearTable, error) {
	var out []*yearTable
	rows := map[uint32]map[uint64]uint32{}
	err := y.rows(b, m.at, func(rel *record.Relation) {
		t := newYearTable(rel.OID, rel.Name, rel.Secret)
		t.rel = *rel
		t.shape = shapeOf(rel)
		out = append(out, t)
		rows[rel.OID] = map[uint64]uint32{}
	}, func(oid uint32, old, now []byte) {
		if old == nil && now == nil {
			clear(rows[oid])
		}
		if old != nil {
			key, _ := parseYearLine(string(old))
			delete(rows[oid], key)
		}
		if now != nil {
			key, val := parseYearLine(string(now))
			rows[oid][key] = val
		}
	})
	slices.SortFunc(out, func(a, b *yearTable) int { return int(a.rel.OID) - int(b.rel.OID) })
	for _, t := range out {
		keys := slices.Sorted(maps.Keys(rows[t.rel.OID]))
		if len(keys) > 0 {
			t.first = keys[0]
			t.vals = make([]uint32, keys[len(keys)-1]-t.first+1)
		}
		for _, k := range keys {
			t.vals[k-t.first] = rows[t.rel.OID][k]
		}
		t.count()
	}
	return out, err
}

// shapeOf finds how often a table was altered, from its columns.
func shapeOf(rel *record.Relation) int {
	n := len(rel.Columns) - 3
	if n == 0 {
		return 0
	}
	var first int
	_, _ = fmt.Sscanf(rel.Columns[3].Name, "c%d", &first)
	return first + n
}
