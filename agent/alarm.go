package agent

import (
	"slices"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// alarmSpan is how many seconds of commit time count together.
const alarmSpan = 60

// watch counts, for one table, how many of the rows that it had a minute ago were
// deleted or rewritten since. A row that was written within the minute does not
// count when it changes again, so neither a row that is updated all the time nor a
// queue whose rows come and go adds up. capture.mu guards it.
type watch struct {
	second  int64 // of commit time, the newest
	buckets [alarmSpan]bucket
	written [2]lines // of this minute and the one before
	minute  int64    // of written[0]
	alarm   history.Note
}

// bucket is one second of commits.
type bucket struct {
	touched int64      // rows of before that were deleted or rewritten
	net     int64      // rows added, less rows taken
	first   record.LSN // end of its first commit that touched any
}

// advance moves on to a second; what is older than the span is forgotten.
func (w *watch) advance(second int64) {
	for w.second < second {
		if second-w.second >= alarmSpan {
			w.buckets, w.second = [alarmSpan]bucket{}, second
			break
		}
		w.second++
		w.buckets[w.second%alarmSpan] = bucket{}
	}
	switch m := w.second / alarmSpan; {
	case m == w.minute:
		return
	case m == w.minute+1:
		w.written[1], w.written[0] = w.written[0], lines{}
	default:
		w.written = [2]lines{}
	}
	w.minute = w.second / alarmSpan
}

// sum gives what the span holds.
func (w *watch) sum() (all bucket) {
	for i := int64(1); i <= alarmSpan; i++ {
		b := &w.buckets[(w.second+i)%alarmSpan] // the oldest first
		all.touched += b.touched
		all.net += b.net
		if all.first == 0 {
			all.first = b.first
		}
	}
	return all
}

// old counts a row that is gone, by the hash of its line; fresh one that is there now.
func (w *watch) old(hash uint64, d *delta) {
	if !w.written[0].has(hash) && !w.written[1].has(hash) {
		d.touched++
	}
}

func (w *watch) fresh(hash uint64) { w.written[0].add(hash) }

// mind takes a commit's change of a table into account and notes an alarm when it is
// a large one; c.mu is held.
func (c *capture) mind(t *table, d *delta, commit record.LSN, at record.Time) {
	before := t.live
	t.live = d.rows.apply(before)
	if c.alarm.Off || t.exactFrom == 0 {
		return
	}
	w := &t.watch
	w.advance(max(w.second, int64(at)/1_000_000))
	seen := w.sum()
	if d.reset { // all that is left of the rows of a minute ago
		d.touched = max(d.touched, before-seen.net-max(seen.touched, 0))
	}
	b := &w.buckets[w.second%alarmSpan]
	b.touched += d.touched
	b.net += t.live - before
	if d.touched > 0 && b.first == 0 {
		b.first = commit
	}
	all := w.sum()
	rows := t.live - all.net
	changed := min(all.touched, rows)
	if !c.alarm.large(changed, rows) || c.alarm.calm(t.rel.Schema, t.rel.Name) {
		return
	}
	n := history.Note{
		Kind: history.NoteAlarm, Table: t.oid, Name: t.name(), Time: at, From: commit, Until: commit,
		Change: &history.MassChange{Before: rows, Changed: changed, After: t.live},
	}
	if !c.alarm.large(min(d.touched, before), before) { // no one commit did it
		n.From = all.first
	}
	w.buckets = [alarmSpan]bucket{}
	c.raise(t, n)
}

// large reports whether so many changed rows of so many are an alarm.
func (a *Alarm) large(changed, of int64) bool {
	return changed >= a.Rows && of > 0 && float64(changed) >= a.Share*float64(of)
}

// calm reports whether a table is one whose rows go away in the ordinary run of things.
func (a *Alarm) calm(schema, table string) bool {
	return slices.Contains(a.Except, schema+"."+table) || a.Empties != nil && a.Empties(schema, table)
}

// alarmGrows is how long after its newest commit, in microseconds of commit time, an
// alarm still grows; a later change is another.
const alarmGrows = 10 * alarmSpan * 1_000_000

// raise notes an alarm, or lets the one of the same table grow that is still going
// on; c.mu is held.
func (c *capture) raise(t *table, n history.Note) {
	last := &t.watch.alarm
	if n.Until <= last.Until {
		return // sent again after a crash
	}
	if last.Kind != 0 && n.Time-last.Time <= alarmGrows {
		n.From = last.From
		n.Change.Before = last.Change.Before
		n.Change.Changed = min(n.Change.Changed+last.Change.Changed, n.Change.Before)
	}
	*last = n
	c.notes = append(c.notes, n)
	c.log.Error("many rows of a table were deleted or rewritten at once; nothing is pruned until this is acknowledged (`lifeboat alarm list`)",
		"table", n.Name, "rows_before", n.Change.Before, "changed", n.Change.Changed, "rows_after", n.Change.After, "commit", n.From.String(),
		"undo", "lifeboat restore --at before:lsn:"+n.From.String()+" --to DSN --key KEY")
}

// resumeAlarms lets the tables know the alarms that are open.
func (c *capture) resumeAlarms(open []history.Alarm) {
	for i := range open {
		a := &open[i]
		if t := c.tables[a.Table]; t != nil {
			t.watch.alarm = history.Note{Kind: history.NoteAlarm, From: a.From, Until: a.Until, Time: a.Time, Change: &a.Change}
		}
	}
}

// tally is what a transaction does to a table's number of rows.
type tally struct {
	reset bool // from 0 on
	n     int64
}

func (d tally) apply(to int64) int64 {
	if d.reset {
		return d.n
	}
	return max(to+d.n, 0)
}

// count takes one row into account. Without old rows (full is false) only the numbers
// say how many were lost.
func (d *delta) count(op record.Op, full bool) {
	var n int64
	switch op {
	case record.Insert:
		n = 1
	case record.Delete:
		n = -1
	}
	d.rows.n += n
	if !full {
		d.touched -= n
	}
}

// lines remembers hashes of lines, and now and then takes one for remembered that is
// not (a Bloom filter that grows): 2 bytes for each line, up to maxLines. Beyond
// that it remembers no more, so that what is written and changed again counts twice.
type lines struct {
	layers []layer
	n      int
}

type layer struct {
	bits []uint64
	n    int
}

const (
	firstLines = 1 << 9
	maxLines   = 1 << 21
	lineBits   = 16 // per line
	lineProbes = 5
)

func (l *lines) add(hash uint64) {
	if l.n >= maxLines {
		return
	}
	k := len(l.layers) - 1
	if k < 0 || l.layers[k].n*lineBits >= len(l.layers[k].bits)*64 {
		size := firstLines << min(2*len(l.layers), 10)
		l.layers = append(l.layers, layer{bits: make([]uint64, size*lineBits/64)})
		k++
	}
	l.layers[k].n++
	l.n++
	l.layers[k].probe(hash, func(word *uint64, bit uint64) bool {
		*word |= bit
		return true
	})
}

func (l *lines) has(hash uint64) bool {
	return slices.ContainsFunc(l.layers, func(y layer) bool {
		return y.probe(hash, func(word *uint64, bit uint64) bool { return *word&bit != 0 })
	})
}

// probe visits the bits of a hash until f says no.
func (y *layer) probe(hash uint64, f func(word *uint64, bit uint64) bool) bool {
	step := hash>>33 | 1
	for range lineProbes {
		i := hash % uint64(len(y.bits)*64)
		if !f(&y.bits[i/64], 1<<(i%64)) {
			return false
		}
		hash += step
	}
	return true
}
