package restore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// FindOptions say which commits to look for.
type FindOptions struct {
	// Table is "schema.name", or a name alone: that of any schema.
	Table string
	// Deletes keeps the commits that deleted rows or truncated.
	Deletes bool
	// Since keeps commits of this time and later; zero: all.
	Since time.Time
	// Limit keeps the newest; 0: all.
	Limit int
}

// Found is a commit that touched the table.
type Found struct {
	Commit    record.Transaction `json:"commit"`
	Table     string             `json:"table"`
	Inserts   uint64             `json:"inserts"`
	Updates   uint64             `json:"updates"`
	Deletes   uint64             `json:"deletes"`
	Truncates uint64             `json:"truncates"`
	// Before is the restore target of the state just before the commit.
	Before string `json:"before"`
}

// Find lists the commits that touched a table, newest first. It reads the
// records, so it needs the repository's identity.
func Find(ctx context.Context, v *history.View, o FindOptions) ([]Found, error) {
	var out []Found
	since := record.Time(-1 << 62)
	if !o.Since.IsZero() {
		since = record.FromTime(o.Since)
	}
	all := spans(v)
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].last < since {
			continue
		}
		var here []Found
		err := v.Commits(ctx, all[i].start, all[i].end, true, func(c record.Transaction, touched []history.Touch) error {
			if c.Time < since {
				return nil
			}
			for _, t := range touched {
				if t.Relation.String() != o.Table && t.Relation.Name != o.Table {
					continue
				}
				if o.Deletes && t.Deletes == 0 && t.Truncates == 0 {
					continue
				}
				here = append(here, Found{
					Commit: c, Table: t.Relation.String(), Inserts: t.Inserts, Updates: t.Updates, Deletes: t.Deletes,
					Truncates: t.Truncates, Before: "before:lsn:" + c.End.String(),
				})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("find commits of table %s: %w", o.Table, err)
		}
		slices.Reverse(here)
		if out = append(out, here...); o.Limit > 0 && len(out) >= o.Limit {
			return out[:o.Limit], nil
		}
	}
	return out, nil
}
