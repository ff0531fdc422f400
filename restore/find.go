package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// ErrNoTable: no table of that name was ever captured. A matter of usage.
var ErrNoTable = errors.New("no such table in the backup")

// ErrNoElements: rooms, users and events are known of a homeserver only, and this
// history was not captured as one.
var ErrNoElements = errors.New("not the history of a homeserver")

// FindOptions say which commits to look for: those that touched a table, or a row
// that names one element of a homeserver. Exactly one of the first two is set.
type FindOptions struct {
	// Table is "schema.name", or a name alone: that of any schema.
	Table string
	// Element and ID are a room, a user or an event. A user is meant by the full id;
	// tables that hold only the localpart of local users are looked at by that.
	Element synapse.Element
	ID      string
	// Deletes keeps the commits that deleted rows or truncated; of an element those
	// that left fewer rows than before in a table whose rows somebody would miss.
	Deletes bool
	// Since keeps commits of this time and later; zero: all.
	Since time.Time
	// Limit keeps the newest; 0: all.
	Limit int
}

// Found is a commit that touched what is looked for.
type Found struct {
	Commit record.Transaction `json:"commit"`
	// Tables are those touched, the most changed first.
	Tables []TableChange `json:"tables"`
	// Before is the restore target of the state just before the commit.
	Before string `json:"before"`
	// Run is the accident that the commit is part of; nil when it neither lost anything
	// nor gave the order.
	Run *Run `json:"run,omitempty"`

	loss uint64
	// ordered: it holds the order to delete (synapse.Orders), which begins a Run.
	ordered bool
}

// TableChange is what a commit did to one table's rows that are looked for.
type TableChange struct {
	Table     string `json:"table"`
	Inserts   uint64 `json:"inserts"`
	Updates   uint64 `json:"updates"`
	Deletes   uint64 `json:"deletes"`
	Truncates uint64 `json:"truncates"`

	rel *record.Relation
}

// changed is how many rows were changed.
func (c *TableChange) changed() uint64 { return c.Inserts + c.Updates + c.Deletes + c.Truncates }

// Run is a row of commits that lost rows or gave the order to, each within [RunGap] of the next: what one
// accident does is often several transactions, and only before the first of them is
// nothing missing.
type Run struct {
	First, Last record.Transaction
	Commits     int
	// Rows is how many rows were deleted beyond those inserted; a TRUNCATE counts as one.
	Rows uint64
	// Before is the restore target of the state just before the first of them.
	Before string
}

// RunGap is how far apart two commits of one [Run] may be.
const RunGap = 10 * time.Minute

// Find lists the commits that touched what is looked for, newest first. It reads the
// records, so it needs the repository's identity; memory is bounded by Limit.
func Find(ctx context.Context, v *history.View, o FindOptions) ([]Found, error) {
	f := &finder{o: o, v: v, since: record.Time(-1 << 62), matchers: map[*record.Relation]*matcher{}}
	if !o.Since.IsZero() {
		f.since = record.FromTime(o.Since)
	}
	if err := f.aim(ctx); err != nil {
		return nil, fmt.Errorf("find %s: %w", f.what(), err)
	}
	var out []Found
	var runs []Run // the newest first
	all := spans(v)
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i]
		full := o.Limit > 0 && len(out) >= o.Limit
		// The run that the oldest listed commit is part of may have begun before it.
		open := len(runs) > 0 && len(out) > 0 && runs[len(runs)-1].Last.End >= out[len(out)-1].Commit.End && near(runs[len(runs)-1].First, s.last)
		if (full || s.last < f.since) && !open {
			if full {
				break
			}
			continue
		}
		f.here, f.runs = f.here[:0], f.runs[:0]
		if err := v.Records(ctx, s.start, s.end, f.want, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			return f.record(ctx, t, rel, r)
		}); err != nil {
			return nil, fmt.Errorf("find %s: %w", f.what(), err)
		}
		f.commit()
		for j := len(f.runs) - 1; j >= 0; j-- {
			runs = join(runs, f.runs[j])
		}
		slices.Reverse(f.here)
		if out = append(out, f.here...); o.Limit > 0 && len(out) > o.Limit {
			out = out[:o.Limit]
		}
	}
	for i := range out {
		for j := range runs {
			if c := out[i].Commit.End; (out[i].loss > 0 || out[i].ordered) && runs[j].First.End <= c && c <= runs[j].Last.End {
				out[i].Run = &runs[j]
			}
		}
	}
	return out, nil
}

func near(c record.Transaction, at record.Time) bool { return c.Time.Time().Sub(at.Time()) <= RunGap }

// join adds a run that is older than all others.
func join(runs []Run, r Run) []Run {
	if n := len(runs); n > 0 && near(runs[n-1].First, r.Last.Time) {
		k := &runs[n-1]
		k.First, k.Before, k.Commits, k.Rows = r.First, r.Before, k.Commits+r.Commits, k.Rows+r.Rows
		return runs
	}
	return append(runs, r)
}

// finder goes through one span of the log at a time, in commit order.
type finder struct {
	o        FindOptions
	v        *history.View
	since    record.Time
	want     func(table uint32) bool
	needles  [][]byte
	matchers map[*record.Relation]*matcher

	cur  Found
	here []Found
	runs []Run
}

func (f *finder) what() string {
	switch f.o.Element {
	case synapse.Room:
		return "commits of room " + f.o.ID
	case synapse.User:
		return "commits of user " + f.o.ID
	case synapse.Event:
		return "commits of event " + f.o.ID
	}
	return "commits of table " + f.o.Table
}

// record takes one record; those of a transaction come together.
func (f *finder) record(ctx context.Context, t *record.Transaction, rel *record.Relation, r *record.Record) error {
	if f.cur.Commit.End != t.End {
		f.commit()
	}
	m := f.matcher(rel)
	if m == nil {
		return nil
	}
	if m.columns != nil && r.Op != record.Truncate {
		hit, err := m.line(ctx, f.v, r.Old)
		if err == nil && !hit {
			hit, err = m.line(ctx, f.v, r.New)
		}
		if err != nil || !hit {
			return err
		}
	}
	f.cur.Commit = *t
	i := slices.IndexFunc(f.cur.Tables, func(c TableChange) bool { return c.rel == rel })
	if i < 0 {
		i = len(f.cur.Tables)
		f.cur.Tables = append(f.cur.Tables, TableChange{Table: rel.String(), rel: rel})
	}
	c := &f.cur.Tables[i]
	switch r.Op {
	case record.Insert:
		c.Inserts++
	case record.Update:
		c.Updates++
	case record.Delete:
		c.Deletes++
	case record.Truncate:
		c.Truncates++
	}
	return nil
}

// commit ends the transaction that is open, if it touched anything.
func (f *finder) commit() {
	c := f.cur
	f.cur = Found{}
	if len(c.Tables) == 0 {
		return
	}
	deletes := false
	for i := range c.Tables {
		t := &c.Tables[i]
		deletes = deletes || t.Deletes+t.Truncates > 0
		c.ordered = c.ordered || f.o.Element == synapse.Room && synapse.Orders(t.rel.Name) && t.Inserts > 0
		if f.o.Element != 0 && !synapse.Lasting(t.rel.Name) {
			continue
		}
		if t.Deletes > t.Inserts {
			c.loss += t.Deletes - t.Inserts
		}
		c.loss += t.Truncates
	}
	c.Before = "before:lsn:" + c.Commit.End.String()
	if c.loss > 0 || c.ordered {
		f.lose(Run{First: c.Commit, Last: c.Commit, Commits: 1, Rows: c.loss, Before: c.Before})
	}
	if f.o.Element != 0 {
		deletes = c.loss > 0 || c.ordered
	}
	if f.o.Deletes && !deletes || c.Commit.Time < f.since {
		return
	}
	slices.SortStableFunc(c.Tables, func(a, b TableChange) int { return int(b.changed()) - int(a.changed()) })
	f.here = append(f.here, c)
	if n := f.o.Limit; n > 0 && len(f.here) >= 2*n+64 { // only the newest are listed
		f.here = append(f.here[:0], f.here[len(f.here)-n:]...)
	}
}

// lose adds a commit to the newest run, or begins one.
func (f *finder) lose(r Run) {
	if n := len(f.runs); n > 0 && near(r.First, f.runs[n-1].Last.Time) {
		k := &f.runs[n-1]
		k.Last, k.Commits, k.Rows = r.Last, k.Commits+1, k.Rows+r.Rows
		return
	}
	f.runs = append(f.runs, r)
}
