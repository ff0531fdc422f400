package restore

import (
	"context"
	"fmt"

	"lifeboat.im/lifeboat/history"
)

// Branches loads the other lineages of the repository that have an ancestor in common
// with v: databases that were restored from one of them and went on, or from which it
// was restored itself. What they handed out, clients and other servers know too.
func Branches(ctx context.Context, repo *history.Repository, s *history.Secrets, v *history.View) ([]*history.View, error) {
	ids, err := repo.Lineages(ctx)
	if err != nil {
		return nil, err
	}
	parents := map[history.LineageID]history.LineageID{}
	views := map[history.LineageID]*history.View{}
	for _, id := range ids {
		o := v
		if id != v.ID {
			if o, err = repo.Log(s, id, nil).Load(ctx); err != nil {
				return nil, fmt.Errorf("read branch %s: %w", id, err)
			}
		}
		views[id] = o
		if len(o.Epochs) > 0 && o.Epochs[0].Parent != nil {
			parents[id] = o.Epochs[0].Parent.ID
		}
	}
	root := func(id history.LineageID) history.LineageID {
		for range len(ids) + 1 { // a cycle would be damage; it ends all the same
			p, ok := parents[id]
			if !ok {
				break
			}
			id = p
		}
		return id
	}
	var out []*history.View
	for _, id := range ids {
		if id != v.ID && root(id) == root(v.ID) {
			out = append(out, views[id])
		}
	}
	return out, nil
}
