package cdc

import (
	"context"
	"fmt"
)

// Ask puts one question of the caller's to the database, in a read-only
// transaction, and gives the rows as text, NULL as "". Names in it must be
// qualified. It waits no longer for a lock than any session of ours.
func (s *Source) Ask(ctx context.Context, sql string) ([][]string, error) {
	var out [][]string
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		rows, err := c.simple(ctx, "BEGIN TRANSACTION READ ONLY; "+sql+"; COMMIT")
		for _, r := range rows {
			line := make([]string, len(r))
			for i, f := range r {
				line[i] = string(f)
			}
			out = append(out, line)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask the database: %w", err)
	}
	return out, nil
}
