package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// branch is one lineage as points prints it.
type branch struct {
	Lineage    string      `json:"lineage"`
	Current    bool        `json:"current"` // this host follows it
	Parent     string      `json:"parent,omitempty"`
	ParentAt   string      `json:"parent_lsn,omitempty"`
	From       string      `json:"from_lsn"`
	Until      string      `json:"until_lsn"`
	UntilTime  time.Time   `json:"until_time,omitzero"` // of the newest commit; zero: none yet
	Restorable bool        `json:"restorable"`
	Commits    uint64      `json:"commits"`
	Marks      []markPoint `json:"marks"`
	Holes      []hole      `json:"holes"`
	Tables     []proved    `json:"tables"`
	Rounds     []round     `json:"rounds"`
	Alarms     []alarm     `json:"alarms"`
	Pins       []markPoint `json:"pins"`
	Holds      []markPoint `json:"holds"`             // legal holds
	Pruned     bool        `json:"pruned"`            // older points were pruned; marks, pins and rounds before from_lsn are left
	Damaged    string      `json:"damaged,omitempty"` // why nothing more is known of it
}

type markPoint struct {
	Name string    `json:"name"`
	LSN  string    `json:"lsn"`
	Time time.Time `json:"time"`
}

// proved is when a table was copied last, and when a copy of it last had the digest
// that the records predict; zero: not yet.
type proved struct {
	Table  string    `json:"table"`
	Copied time.Time `json:"copied,omitzero"`
	Proved time.Time `json:"proved,omitzero"`
}

// round is a sparse point: what stays of a week or month when the rest is thinned out.
type round struct {
	Kind string    `json:"kind"`
	LSN  string    `json:"lsn"`
	Time time.Time `json:"time"`
}

// hole is an interval in which a table is not exact.
type hole struct {
	Table  string `json:"table"`
	Reason string `json:"reason"`
	From   string `json:"from_lsn"`            // exact up to and including it
	Until  string `json:"until_lsn,omitempty"` // exact again from it; empty: still open
}

func pointsCommand(a *app) *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use: "points", Short: "Print what can be restored: ranges, marks, branches and holes",
		Example: "  lifeboat points\n  lifeboat points --since \"2 days ago\" --json", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.points(cmd.Context(), since) },
	}
	cmd.Flags().StringVar(&since, "since", "", "leave out marks before this time (RFC 3339, or \"2 days ago\")")
	return cmd
}

func (a *app) points(ctx context.Context, since string) error {
	from, err := a.parseSince(since)
	if err != nil {
		return err
	}
	c, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	host, err := agent.Lineage(c.State)
	if err != nil && !errors.Is(err, agent.ErrNotAttached) {
		return err
	}
	all, damaged, err := restore.AllBranches(ctx, repo, s)
	if err != nil {
		return err
	}
	branches := []branch{}
	for _, v := range all {
		b := describe(v, from)
		b.Current, b.Alarms = v.ID == host, a.openAlarms(v, &restore.Branches{All: all})
		branches = append(branches, b)
	}
	for _, d := range damaged {
		branches = append(branches, branch{Lineage: d.ID.String(), Current: d.ID == host, Marks: []markPoint{}, Holes: []hole{}, Tables: []proved{}, Rounds: []round{}, Alarms: []alarm{}, Damaged: d.Err.Error()})
	}
	done, err := a.printJSON(branches)
	if err != nil {
		return err
	}
	if len(branches) == 0 {
		a.fact("Nothing yet: `lifeboat attach`, then `lifeboat run`.")
	}
	for i := range branches {
		if !done {
			a.printBranch(&branches[i])
		}
	}
	if len(damaged) > 0 {
		return fmt.Errorf("read log %s: %w", damaged[0].ID, damaged[0].Err)
	}
	return nil
}

// parseSince reads a time; the zero time when there is none.
func (a *app) parseSince(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := restore.ParseTarget(s, a.now())
	if err != nil || t.Kind != restore.ByTime || t.Before {
		return time.Time{}, usagef("--since %q: want a time such as 2026-01-02T15:04:05+01:00 or \"2 days ago\"", s)
	}
	return t.Time, nil
}

func describe(v *history.View, since time.Time) branch {
	b := branch{
		Lineage: v.ID.String(), From: v.First.String(), Until: v.Durable.String(), UntilTime: commitTime(v.DurableTime),
		Restorable: v.Ready && v.First != 0 && v.First <= v.Durable, Marks: []markPoint{}, Holes: []hole{}, Tables: []proved{}, Rounds: []round{},
		Pins: []markPoint{}, Holds: []markPoint{}, Pruned: v.Pruned != 0,
	}
	for _, m := range v.Pins {
		b.Pins = append(b.Pins, markPoint{m.Name, m.At.String(), m.Time.Time()})
	}
	for _, m := range v.Holds {
		b.Holds = append(b.Holds, markPoint{Name: m.Name, Time: m.Time.Time()})
	}
	if p := v.Epochs[0].Parent; p != nil {
		b.Parent, b.ParentAt = p.ID.String(), p.At.String()
	}
	for _, h := range v.Histories {
		b.Commits += h.Transactions
	}
	for _, s := range v.Segments {
		b.Commits += s.Transactions
	}
	for _, m := range v.Marks {
		if t := m.Time.Time(); !t.Before(since) {
			b.Marks = append(b.Marks, markPoint{m.Name, m.At.String(), t})
		}
	}
	for _, i := range v.Incompletes {
		name := i.Name
		if i.Table == 0 {
			name = "(all tables)"
		}
		b.Holes = append(b.Holes, hole{name, i.Reason, i.From.String(), openEnd(i.Until)})
	}
	for _, g := range v.SchemaGaps() {
		b.Holes = append(b.Holes, hole{"(tables whose definition changed)", "the schema changed", g.From.String(), openEnd(g.Until)})
	}
	for _, r := range v.Rounds {
		if t := r.Time.Time(); !t.Before(since) {
			b.Rounds = append(b.Rounds, round{r.Kind, r.Point.String(), t})
		}
	}
	for _, p := range v.Proofs() {
		b.Tables = append(b.Tables, proved{p.Name, commitTime(p.Time), commitTime(p.ProvedTime)})
	}
	return b
}

// commitTime gives the zero time where the log has no commit yet.
func commitTime(t record.Time) time.Time {
	if t == 0 {
		return time.Time{}
	}
	return t.Time()
}

func openEnd(l record.LSN) string {
	if l == 0 {
		return ""
	}
	return l.String()
}

func (a *app) printBranch(b *branch) {
	if b.Current {
		a.fact("%s  (this host follows it)", b.Lineage)
	} else {
		a.fact("%s", b.Lineage)
	}
	if b.Damaged != "" {
		a.fact("  DAMAGED     it cannot be read: %s", oneLine(b.Damaged))
		return
	}
	if b.Parent != "" {
		a.fact("  branch of   %s, left it at lsn:%s", b.Parent, b.ParentAt)
	}
	if !b.Restorable {
		a.fact("  restorable  not yet: the first copy of every table is not done; followed up to lsn:%s", b.Until)
	} else {
		a.fact("  restorable  every commit from lsn:%s to lsn:%s%s", b.From, b.Until, atMoment(b.UntilTime))
		a.fact("  commits     %d", b.Commits)
	}
	if b.Pruned {
		a.fact("  pruned      what is older, but for the marks, pins and rounds below")
	}
	a.printProved(b.Tables)
	for _, m := range b.Marks {
		a.fact("  mark        %s  lsn:%s  %s", m.Name, m.LSN, moment(m.Time))
	}
	for _, m := range b.Pins {
		a.fact("  pin         %s  lsn:%s  %s", m.Name, m.LSN, moment(m.Time))
	}
	for _, m := range b.Holds {
		a.fact("  legal hold  %s  %s", m.Name, moment(m.Time))
	}
	for _, r := range b.Rounds {
		a.fact("  %-11s lsn:%s  %s", r.Kind, r.LSN, moment(r.Time))
	}
	for _, k := range b.Alarms {
		a.printAlarm("  ", k)
	}
	for _, h := range b.Holes {
		until := "still open"
		if h.Until != "" {
			until = "exact again from lsn:" + h.Until
		}
		a.fact("  hole        %s: %s; exact up to lsn:%s, %s", h.Table, h.Reason, h.From, until)
	}
}

// printProved says how old the proofs of the tables are, and which have none.
func (a *app) printProved(tables []proved) {
	var oldest proved
	var none []string
	for _, t := range tables {
		switch {
		case t.Proved.IsZero():
			none = append(none, t.Table)
		case oldest.Table == "" || t.Proved.Before(oldest.Proved):
			oldest = t
		}
	}
	if n := len(tables) - len(none); n > 0 {
		a.fact("  proved      %d of %s by a copy that met the records; longest ago %s, %s", n,
			count(int64(len(tables)), "table", "tables"), oldest.Table, minute(oldest.Proved, ""))
	}
	if len(none) > 0 {
		list := strings.Join(none[:min(len(none), 5)], ", ")
		if len(none) > 5 {
			list += fmt.Sprintf(" and %d more", len(none)-5)
		}
		a.fact("  not proved  %s: a later copy will be held against the records", list)
	}
}
