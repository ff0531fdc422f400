package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
)

const probeHelp = `Try whether the store keeps what the log is built on.

Eight writers race for one new object, four times: exactly one must win. Then
nothing may be overwritten, and what was stored must be read (ranges too), described
and listed at once. It stores a dozen small objects under probe/, and removes them where it may.
init does the same, and lifeboat run once a week. Ends with 4 when a check fails.`

func repoCommand(a *app) *cobra.Command {
	stats := &cobra.Command{
		Use: "stats", Short: "Print how many objects the repository holds and what they weigh",
		Example: "  lifeboat repo stats --json", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.repoStats(cmd.Context()) },
	}
	probe := &cobra.Command{
		Use: "probe", Short: "Try whether the store keeps what the log is built on", Long: probeHelp,
		Example: "  lifeboat repo probe", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.repoProbe(cmd.Context()) },
	}
	return group("repo", "Look at the repository as a store", "  lifeboat repo stats", stats, probe)
}

// objects counts the objects below one folder of the repository.
type objects struct {
	Kind  string `json:"kind"`
	Count int64  `json:"count"`
	Bytes int64  `json:"bytes"`
}

// stats is what repo stats prints.
type stats struct {
	Objects []objects `json:"objects"`
	// Copied are the bytes of all rows in all copies of tables that the logs keep,
	// as COPY text; 0 without the agent's secrets or an identity.
	Copied int64 `json:"copied_bytes,omitempty"`
	// Cost is of object storage only.
	Cost *cost `json:"cost_a_month,omitempty"`
	// Ratio is Copied by the bytes of the whole repository, the log of changes included.
	Ratio float64 `json:"ratio,omitempty"`
}

func (a *app) repoStats(ctx context.Context) error {
	c, repo, err := a.open(ctx)
	if err != nil {
		return err
	}
	var st stats
	if st.Objects, err = countObjects(ctx, repo.Backend()); err != nil {
		return fmt.Errorf("list repository %s: %w", c.Repository, err)
	}
	total := st.Objects[len(st.Objects)-1]
	if s, err := a.readerSecrets(ctx, c, repo); err == nil {
		if st.Copied, err = copiedBytes(ctx, repo, s); err != nil {
			return err
		}
		st.Ratio = float64(st.Copied) / float64(max(total.Bytes, 1))
	}
	if s3.IsURL(c.Repository) {
		st.Cost = costOf(total.Bytes, c.Tuning.RPO)
	}
	if done, err := a.printJSON(st); done {
		return err
	}
	rows := [][]string{{"KIND", "OBJECTS", "SIZE"}}
	for _, k := range st.Objects {
		rows = append(rows, []string{k.Kind, fmt.Sprint(k.Count), mib(k.Bytes)})
	}
	a.table(rows)
	if st.Copied > 0 {
		a.fact("The copies of tables in it are %s of rows; with every change since, %.1f to 1.", mib(st.Copied), st.Ratio)
	}
	if k := st.Cost; k != nil {
		a.fact("At %s it costs about $%.2f a month to keep, and at most $%.2f for requests, when something changes in every %s (rpo).",
			priceList, k.Storage, k.Requests, formatDuration(c.Tuning.RPO))
	}
	return nil
}

// Prices of Amazon S3 Standard in us-east-1, in dollars; others are near or below. Their
// price list is the source, read in 2026.
const (
	priceList    = "Amazon's list price (S3 Standard, us-east-1)"
	priceGBMonth = 0.023
	pricePut     = 0.005 / 1000
	priceGet     = 0.0004 / 1000
	monthHours   = 730
)

// cost is what a month costs, in dollars.
type cost struct {
	Prices string `json:"prices"`
	// Storage of what is there now.
	Storage float64 `json:"storage_usd"`
	// Requests when there is something to flush all the time: one PUT for each flush,
	// which a merge reads once, and a look at the tail each second.
	Requests float64 `json:"requests_usd_at_most"`
}

func costOf(stored int64, rpo time.Duration) *cost {
	month := float64(monthHours * time.Hour)
	puts := month / float64(max(rpo, time.Millisecond))
	gets := puts + month/float64(min(max(rpo, time.Millisecond), time.Second))
	return &cost{Prices: priceList, Storage: float64(stored) / 1e9 * priceGBMonth, Requests: puts*pricePut + gets*priceGet}
}

func (a *app) repoProbe(ctx context.Context) error {
	c, repo, err := a.open(ctx)
	if err != nil {
		return err
	}
	checks, err := chunkstore.Probe(ctx, repo.Backend())
	if err != nil {
		return fmt.Errorf("repository %s: %w", redactDSN(c.Repository), err)
	}
	unsafe := chunkstore.Unsafe(checks)
	done, err := a.printJSON(checks)
	if err != nil {
		return err
	}
	if !done {
		for _, k := range checks {
			a.fact("%-5s %s", map[bool]string{true: "ok", false: "FAILS"}[k.Failure == ""], strings.TrimSuffix(k.Name+": "+k.Failure, ": "))
		}
	}
	if unsafe == nil {
		a.say("The store keeps what the log is built on.")
		return nil
	}
	if repo.Config().SingleWriter {
		a.say("This repository was made with --single-writer: that is known, and one agent only may write to it.")
		return nil
	}
	return verdict{exitRefused, unsafe.Error()}
}

func countObjects(ctx context.Context, b chunkstore.Backend) ([]objects, error) {
	kinds := []objects{{Kind: "chunk"}, {Kind: "log"}, {Kind: "keys"}, {Kind: "other"}}
	total := objects{Kind: "total"}
	err := b.List(ctx, "", func(i chunkstore.Info) error {
		k := len(kinds) - 1
		for n := range kinds[:k] {
			if strings.HasPrefix(i.Key, kinds[n].Kind+"/") {
				k = n
			}
		}
		kinds[k].Count, kinds[k].Bytes = kinds[k].Count+1, kinds[k].Bytes+i.Size
		total.Count, total.Bytes = total.Count+1, total.Bytes+i.Size
		return nil
	})
	return append(kinds, total), err
}

func copiedBytes(ctx context.Context, repo *history.Repository, s *history.Secrets) (int64, error) {
	ids, err := repo.Lineages(ctx)
	if err != nil {
		return 0, fmt.Errorf("list logs: %w", err)
	}
	var n int64
	for _, id := range ids {
		v, err := repo.Log(s, id, nil).Load(ctx)
		if errors.Is(err, history.ErrNoLineage) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read log %s: %w", id, err)
		}
		for _, b := range v.Bases {
			n += b.Bytes
		}
	}
	return n, nil
}
