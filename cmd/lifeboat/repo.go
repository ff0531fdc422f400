package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
)

func repoCommand(a *app) *cobra.Command {
	stats := &cobra.Command{
		Use: "stats", Short: "Print how many objects the repository holds and what they weigh",
		Example: "  lifeboat repo stats --json", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.repoStats(cmd.Context()) },
	}
	return group("repo", "Look at the repository as a store", "  lifeboat repo stats", stats)
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
	return nil
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
