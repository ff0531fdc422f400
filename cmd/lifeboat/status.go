package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Print the last recoverable commit, the lag, tables and sizes",
		Example: "  lifeboat status\n  lifeboat status --json | jq .durable_time", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context()) },
	}
}

func (a *app) status(ctx context.Context) error {
	repo, s, o, err := a.openForAgent(ctx)
	if err != nil {
		return err
	}
	r, err := agent.Status(ctx, repo, s, o)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	alarms := a.openAlarms(r.View, &restore.Branches{})
	if done, err := a.printJSON(struct {
		*agent.StatusReport
		Alarms []alarm `json:"alarms"`
	}{r, alarms}); done {
		return err
	}
	a.fact("Source             %s, lineage %s, epoch %d", r.Source, r.Lineage, r.Epoch)
	if r.Parent != "" {
		a.fact("Branch of          %s, left it at lsn:%s", r.Parent, r.ParentAt)
	}
	if r.DurableTime.After(record.Time(0).Time()) {
		a.fact("Last recoverable   lsn:%s, committed %s (%s ago)", r.DurableText, moment(r.DurableTime), took(a.now().Sub(r.DurableTime)))
	} else {
		a.fact("Last recoverable   lsn:%s; no commit since the first copy", r.DurableText)
	}
	a.printSource(r)
	a.fact("Repository         %s in %s", mib(r.Bytes), count(r.Objects, "object", "objects"))
	for _, t := range r.Incomplete {
		a.fact("Incomplete         %s", t)
	}
	for _, m := range r.Mismatches {
		a.fact("Mismatch           %s", m)
	}
	for _, k := range alarms {
		a.printAlarm("", k)
	}
	for _, n := range r.Notes {
		a.fact("Note               %s", n)
	}
	rows := [][]string{{"TABLE", "ROWS AT ITS COPY", "SIZE", "EXACT FROM", "COPIED", "PROVED"}}
	for _, t := range r.Tables {
		exact := "lsn:" + t.ExactText
		if t.Incomplete {
			exact += " (incomplete)"
		}
		rows = append(rows, []string{t.Name, fmt.Sprint(t.Rows), mib(t.Bytes), exact, minute(t.Copied, "not said"), minute(t.Proved, "not yet")})
	}
	if len(r.Tables) > 0 {
		a.table(rows)
	}
	return nil
}

func (a *app) printSource(r *agent.StatusReport) {
	if r.Lag == nil {
		a.fact("Lag                the database could not be asked")
		return
	}
	line := mib(*r.Lag) + " of WAL"
	if r.SlotActive != nil && !*r.SlotActive {
		line += "; no agent holds the slot: is `lifeboat run` running?"
	}
	a.fact("Lag                %s", line)
	if r.SlotRetained != nil {
		a.fact("WAL kept for us    %s", mib(*r.SlotRetained))
	}
}
