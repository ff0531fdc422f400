package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/restore"
)

const alarmHelp = `Print the alarms that nobody has acknowledged, each with the restore command that
goes back to just before it.

An alarm is noted in the log when one commit, or the commits of one minute, deletes
or rewrites a large share of a table's rows (alarm: in the configuration). While one
is open, prune removes nothing: what the change took is still in the repository.
` + "`lifeboat alarm ack ID`" + ` says that you have looked, whatever you found.`

func alarmCommand(a *app) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "Print the alarms that nobody has acknowledged", Long: alarmHelp,
		Example: "  lifeboat alarm list", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.alarms(cmd.Context()) },
	}
	var lineage string
	ack := &cobra.Command{
		Use: "ack ID", Short: "Acknowledge an alarm: the repository may be pruned again",
		Example: "  lifeboat alarm ack 12-345", Args: args(1, 1, "the id of an alarm"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.acknowledge(cmd.Context(), args[0], lineage) },
	}
	ack.Flags().StringVar(&lineage, "lineage", "", "`branch` whose alarm it is, where two have one of this id")
	return group("alarm", "Alarms of mass changes: what is open, and that it was seen", "  lifeboat alarm list\n  lifeboat alarm ack 12-345", list, ack)
}

// alarm is one as it is printed.
type alarm struct {
	ID        string    `json:"id"`
	Lineage   string    `json:"lineage"`
	Table     string    `json:"table"`
	Time      time.Time `json:"time"`
	From      string    `json:"from_lsn"`
	Until     string    `json:"until_lsn"`
	Before    int64     `json:"rows_before"`
	Changed   int64     `json:"rows_changed"`
	After     int64     `json:"rows_after"`
	RestoreAt string    `json:"restore_at"`
	Command   string    `json:"restore"`
	text      string
}

// openAlarms describes the alarms of one branch among others.
func (a *app) openAlarms(v *history.View, b *restore.Branches) []alarm {
	out := []alarm{}
	for i := range v.Alarms {
		k := &v.Alarms[i]
		out = append(out, alarm{
			ID: k.ID(), Lineage: v.ID.String(), Table: k.Name, Time: k.Time.Time(), From: k.From.String(), Until: k.Until.String(),
			Before: k.Change.Before, Changed: k.Change.Changed, After: k.Change.After,
			RestoreAt: k.Before(), Command: a.restoreLine(k.Before(), v.ID.String(), b), text: k.String(),
		})
	}
	return out
}

func (a *app) alarms(ctx context.Context) error {
	_, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	all, damaged, err := restore.AllBranches(ctx, repo, s)
	if err != nil {
		return err
	}
	list := []alarm{}
	for _, v := range all {
		list = append(list, a.openAlarms(v, &restore.Branches{All: all})...)
	}
	done, err := a.printJSON(list)
	if err != nil {
		return err
	}
	if !done {
		for _, k := range list {
			a.printAlarm("", k)
		}
		if len(list) == 0 {
			a.fact("No alarm is open.")
		}
	}
	if len(damaged) > 0 {
		return fmt.Errorf("read log %s: %w", damaged[0].ID, damaged[0].Err)
	}
	return nil
}

// printAlarm prints an alarm, what undoes it and what ends it.
func (a *app) printAlarm(indent string, k alarm) {
	a.fact("%sALARM %s  %s", indent, k.ID, k.text)
	a.fact("%s  just before it: %s", indent, k.Command)
	a.fact("%s  nothing is pruned until: lifeboat alarm ack %s", indent, k.ID)
}

func (a *app) acknowledge(ctx context.Context, id, lineage string) error {
	at, err := history.ParseAlarmID(id)
	if err != nil {
		return usagef("%v; `lifeboat alarm list` prints them", err)
	}
	repo, s, o, err := a.openForAgent(ctx)
	if err != nil {
		return err
	}
	all, damaged, err := restore.AllBranches(ctx, repo, s)
	if err != nil {
		return err
	}
	var of *history.View
	for _, v := range all {
		for _, k := range v.Alarms {
			if k.At != at || lineage != "" && v.ID.String() != lineage {
				continue
			}
			if of != nil {
				return usagef("%s and %s both have an alarm %s: name the branch with --lineage", of.ID, v.ID, id)
			}
			of = v
		}
	}
	if of == nil && len(damaged) > 0 {
		return fmt.Errorf("read log %s: %w", damaged[0].ID, damaged[0].Err)
	}
	if of == nil {
		return fmt.Errorf("acknowledge %s: %w; `lifeboat alarm list` prints them", id, agent.ErrNoAlarm)
	}
	if err := agent.Acknowledge(ctx, repo, s, o, of, at); err != nil {
		return err
	}
	a.say("Acknowledged %s.", id)
	return nil
}
