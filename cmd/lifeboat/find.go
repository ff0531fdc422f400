package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/restore"
)

const findHelp = `Print the commits that touched a table, newest first, each with the restore target
just before it. --deletes keeps those that deleted rows or truncated the table.`

type findFlags struct {
	table, since, lineage string
	deletes               bool
	limit                 int
}

func findCommand(a *app) *cobra.Command {
	var f findFlags
	cmd := &cobra.Command{
		Use: "find --table TABLE", Short: "Find the commits that touched a table", Long: findHelp,
		Example: "  lifeboat find --table public.accounts --deletes --key lifeboat.key\n" +
			"  lifeboat find --table accounts --since \"3 hours ago\" --key lifeboat.key",
		Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.find(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.table, "table", "", "schema.name, or the name in any schema")
	cmd.Flags().BoolVar(&f.deletes, "deletes", false, "only commits that deleted rows or truncated")
	cmd.Flags().StringVar(&f.since, "since", "", "only commits of this time and later (RFC 3339, or \"3 hours ago\")")
	cmd.Flags().IntVar(&f.limit, "limit", 20, "print at most so many; 0: all")
	lineageFlag(cmd, &f.lineage)
	return cmd
}

// foundCommit is one commit as find prints it.
type foundCommit struct {
	LSN       string    `json:"lsn"`
	XID       uint64    `json:"xid"`
	Time      time.Time `json:"time"`
	Table     string    `json:"table"`
	Inserts   uint64    `json:"inserts"`
	Updates   uint64    `json:"updates"`
	Deletes   uint64    `json:"deletes"`
	Truncates uint64    `json:"truncates"`
	RestoreAt string    `json:"restore_at"`
}

func (a *app) find(ctx context.Context, f findFlags) error {
	if f.table == "" {
		return usagef("find needs --table TABLE; `lifeboat status` prints the tables")
	}
	since, err := a.parseSince(f.since)
	if err != nil {
		return err
	}
	c, repo, s, err := a.openAsOperator(ctx, "find")
	if err != nil {
		return err
	}
	v, err := a.openView(ctx, c, repo, s, f.lineage)
	if err != nil {
		return err
	}
	found, err := restore.Find(ctx, v, restore.FindOptions{Table: f.table, Deletes: f.deletes, Since: since, Limit: f.limit})
	if err != nil {
		return err
	}
	out := []foundCommit{}
	for _, t := range found {
		out = append(out, foundCommit{
			LSN: t.Commit.End.String(), XID: uint64(t.Commit.XID), Time: t.Commit.Time.Time(), Table: t.Table,
			Inserts: t.Inserts, Updates: t.Updates, Deletes: t.Deletes, Truncates: t.Truncates, RestoreAt: t.Before,
		})
	}
	if done, err := a.printJSON(out); done {
		return err
	}
	for _, t := range out {
		a.fact("%s  transaction %d  %s: %s", moment(t.Time), t.XID, t.Table, t.changes())
		a.fact("    just before it: lifeboat restore --at %s --key %s --to DSN", t.RestoreAt, orDefault(a.keyFile(), "FILE"))
	}
	switch {
	case len(out) == 0:
		a.fact("No such commit among those up to lsn:%s%s.", v.Durable, atMoment(commitTime(v.DurableTime)))
	case f.limit > 0 && len(out) == f.limit:
		a.say("There may be older ones: --limit 0 prints all.")
	}
	return nil
}

func (t foundCommit) changes() string {
	var parts []string
	for _, p := range []struct {
		n    uint64
		verb string
	}{{t.Inserts, "inserted"}, {t.Updates, "updated"}, {t.Deletes, "deleted"}} {
		if p.n > 0 {
			parts = append(parts, count(int64(p.n), "row", "rows")+" "+p.verb)
		}
	}
	if t.Truncates > 0 {
		parts = append(parts, "TRUNCATED")
	}
	return strings.Join(parts, ", ")
}
