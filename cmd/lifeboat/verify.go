package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
)

const verifyHelp = `Check the repository: every log's chain and numbers, and the keyed trailer of every
chunk that it reaches. With the operator's identity also what is inside: every entry
is opened, and the contents of all chunks (--data 5% for a sample of them).

--live compares with the database as it is now: each table is read under one
snapshot, and its rows must have the digest that the backup predicts.

Of an archive (FILE): that nothing of it is missing or altered; that every event has
the id, the content and the signatures that it says; and that every event which
another one names is there, or declared as a gap.`

func verifyCommand(a *app) *cobra.Command {
	var data string
	var live bool
	var archive archiveFlags
	cmd := &cobra.Command{
		Use: "verify [REPO|FILE]", Short: "Check that the repository, or an archive, is whole", Long: verifyHelp,
		Example: "  lifeboat verify --key lifeboat.key --data 5%\n  lifeboat verify --live --key lifeboat.key\n  lifeboat verify server.tar.zst.age --key lifeboat.key",
		Args:    args(0, 1, "at most the place of a repository, or the file of an archive"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && isArchive(args[0]) {
				if live || cmd.Flags().Changed("data") {
					return usagef("%s is an archive: --live and --data are for repositories", args[0])
				}
				return a.verifyArchive(cmd.Context(), args[0], archive)
			}
			if len(args) == 1 {
				a.flags.repo = args[0]
			}
			if live {
				return a.verifyLive(cmd.Context())
			}
			percent, err := parsePercent(data)
			if err != nil {
				return err
			}
			return a.verify(cmd.Context(), percent)
		},
	}
	cmd.Flags().StringVar(&data, "data", "100%", "share of the chunks to read and open")
	cmd.Flags().BoolVar(&live, "live", false, "compare every table with the database")
	archive.on(cmd)
	return cmd
}

func parsePercent(s string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(p >= 0 && p <= 100) || !strings.HasSuffix(s, "%") {
		return 0, usagef("--data %q: want a share such as 5%%, from 0%% to 100%%", s)
	}
	return p, nil
}

func (a *app) verify(ctx context.Context, percent float64) error {
	_, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	o := history.VerifyOptions{Data: percent, Structure: percent == 0}
	if a.keyFile() != "" && !repo.Config().Plaintext {
		ids, err := a.identities(ctx, "verify")
		if err != nil {
			return err
		}
		o.Operators = ids
	}
	r, err := history.Verify(ctx, repo, s, o)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if err := a.printVerify(r, s.CanRead()); err != nil {
		return err
	}
	if n := int64(len(r.Damage)); n > 0 {
		return verdict{exitDamaged, count(n, "object is damaged or missing", "objects are damaged or missing") +
			": copy back what is in a mirror of the repository; `lifeboat run --new-base` makes whole what comes after it"}
	}
	return nil
}

func (a *app) printVerify(r *history.VerifyReport, content bool) error {
	if done, err := a.printJSON(r); done {
		return err
	}
	for _, d := range r.Damage {
		a.fact("damaged  %s", d)
	}
	for _, k := range r.Strange {
		a.fact("strange  %s (not made by Lifeboat; harmless)", k)
	}
	if content {
		a.fact("%s, %s opened, %s, %s read.", count(int64(r.Lineages), "log", "logs"), count(int64(r.Bodies), "entry", "entries"),
			count(int64(r.Chunks), "chunk", "chunks"), mib(r.Bytes))
	} else {
		a.fact("%s, %s, %s, %s read. Contents were not opened: that takes the operator's identity (--key).",
			count(int64(r.Lineages), "log", "logs"), count(int64(r.Entries), "entry", "entries"), count(int64(r.Chunks), "chunk", "chunks"), mib(r.Bytes))
	}
	if r.Orphans > 0 {
		a.say("%s that nothing refers to: left by an interrupted write, harmless.", count(int64(r.Orphans), "chunk", "chunks"))
	}
	if len(r.Damage) == 0 {
		a.fact("Whole.")
	}
	return nil
}

func (a *app) verifyLive(ctx context.Context) error {
	c, repo, s, err := a.openAsOperator(ctx, "verify --live")
	if err != nil {
		return err
	}
	if err := needSource(c); err != nil {
		return err
	}
	o, err := a.agentOptions(c)
	if err != nil {
		return err
	}
	results, err := agent.VerifyLive(ctx, repo, s, o)
	if err != nil {
		return fmt.Errorf("verify --live: %w", err)
	}
	var bad, equal int64
	for _, r := range results {
		state := "equal"
		switch {
		case r.Left:
			state = "left out"
		case !r.OK:
			state = "DIFFERS"
			bad++
		default:
			equal++
		}
		a.fact("%-8s %s: %s%s", state, r.Table, count(r.Rows, "row", "rows"), prefixed(": ", r.Why))
	}
	a.fact("%s equal to the backup.", count(equal, "table is", "tables are"))
	if _, err := a.printJSON(results); err != nil {
		return err
	}
	if bad > 0 {
		return verdict{exitDamaged, count(bad, "table differs", "tables differ") + " from the backup: `lifeboat status` names what is known, and the agent copies such a table anew"}
	}
	return nil
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}
