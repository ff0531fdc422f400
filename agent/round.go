package agent

import (
	"context"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// roundSpan is how old a table's copy may be when a round begins and still count.
const roundSpan = 6 * time.Hour

// rounds makes the sparse points: once in a week or month of the lineage's own clock
// all tables are copied one after the other, and a note names the point at which
// those copies and few records give the whole database. Chunks that did not change
// are not stored again.
type rounds struct {
	a *agent
	// began: a round is under way, and copies that were finished before do not count.
	began time.Time
}

// dueRound says which round is missing at a commit time, "" when none is.
func dueRound(have []history.Round, now record.Time, weekly, monthly bool) string {
	for _, r := range have {
		weekly = weekly && history.Week(r.Time) != history.Week(now)
		monthly = monthly && (r.Kind != history.Monthly || history.Month(r.Time) != history.Month(now))
	}
	switch {
	case now == 0:
		return ""
	case monthly:
		return history.Monthly
	case weekly:
		return history.Weekly
	}
	return ""
}

// step begins a round that is due, asks for its copies, and notes it when all are
// there. A crash before the note loses nothing: copies of the last hours count for the
// next agent's round too.
func (r *rounds) step(ctx context.Context) error {
	v, t := r.a.writer.View(), &r.a.o.Tuning
	kind := dueRound(v.Rounds, v.DurableTime, t.Weekly, t.Monthly)
	if kind == "" || !v.Ready {
		r.began = time.Time{}
		return nil
	}
	if r.began.IsZero() {
		r.began = r.a.now().Add(-roundSpan)
		r.a.log.Info("a round begins: every table is copied for a sparse point", "kind", kind)
	}
	if r.ask() > 0 {
		return nil
	}
	n, ok := roundNote(v, record.FromTime(r.began))
	if !ok {
		return nil
	}
	n.Name = kind
	if err := r.a.writer.Note(ctx, n); err != nil {
		return fmt.Errorf("note the round at %s: %w", n.Point, err)
	}
	r.a.log.Info("round done", "kind", kind, "point", n.Point.String(), "from", n.From.String())
	r.began = time.Time{}
	return nil
}

// ask asks for the copies that are missing, and counts them.
func (r *rounds) ask() (missing int) {
	c := r.a.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tables {
		if t.exactFrom != 0 && !t.open && !t.proving && !t.copied.Before(r.began) {
			continue
		}
		missing++
		if t.wanted == "" && t.due == "" && !t.proving && t.exactFrom != 0 {
			t.due = "a round"
		}
	}
	return missing
}

// roundNote looks whether the log has all that a restore to its newest position
// needs from copies that were finished since began: one of each table that there was,
// complete, and a schema that is certain there.
func roundNote(v *history.View, began record.Time) (n history.Note, ok bool) {
	if len(v.Schemas) == 0 {
		return n, false
	}
	s := v.Schemas[len(v.Schemas)-1]
	point := min(v.Durable, max(s.From, s.Until))
	for _, i := range v.Incompletes {
		if i.Covers(point) {
			return n, false
		}
	}
	for _, g := range v.SchemaGaps() {
		if point > g.From && point < g.Until {
			return n, false
		}
	}
	n = history.Note{Kind: history.NoteRound, From: point, Point: point, Time: v.DurableTime}
	for _, b := range v.BasesAt(point) {
		if b.Time < began {
			return n, false
		}
		n.From, n.Until = min(n.From, b.RecordsFrom), max(n.Until, b.ExactFrom)
	}
	return n, n.Until > 0
}
