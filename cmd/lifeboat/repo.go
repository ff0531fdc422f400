package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/chunkstore"
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

func (a *app) repoStats(ctx context.Context) error {
	c, repo, err := a.open(ctx)
	if err != nil {
		return err
	}
	kinds := []objects{{Kind: "chunk"}, {Kind: "log"}, {Kind: "keys"}, {Kind: "other"}}
	total := objects{Kind: "total"}
	err = repo.Backend().List(ctx, "", func(i chunkstore.Info) error {
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
	if err != nil {
		return fmt.Errorf("list repository %s: %w", c.Repository, err)
	}
	kinds = append(kinds, total)
	if done, err := a.printJSON(kinds); done {
		return err
	}
	rows := [][]string{{"KIND", "OBJECTS", "SIZE"}}
	for _, k := range kinds {
		rows = append(rows, []string{k.Kind, fmt.Sprint(k.Count), mib(k.Bytes)})
	}
	a.table(rows)
	return nil
}
