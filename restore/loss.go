package restore

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// Loss tells what a rollback to the plan's point undoes, from the records up to the
// newest commit, also of the branch on which the homeserver went on; nil in the other modes. It streams, so its memory does not
// grow with the log. Which rooms other servers hold is known here only as far as the
// records say; the report of the restore itself asks the rows.
func (p *Plan) Loss(ctx context.Context) (*synapse.Loss, error) {
	if p.Mode != synapse.Rollback {
		return nil, nil
	}
	name := ""
	for _, t := range p.Tables {
		if t.Table == synapse.UsersTable && t.HasBase {
			var err error
			if name, err = serverName(ctx, p.view, t.Base); err != nil {
				return nil, err
			}
		}
	}
	s, err := p.since(ctx, name, func(int64) {})
	if err != nil {
		return nil, err
	}
	return s.Loss(), nil
}

// stretch is a part of a log: the commits that ended in (after, until].
type stretch struct {
	view         *history.View
	after, until record.LSN
}

// undone lists what happened between the point and now. Where the homeserver was rolled
// back before, and went on as a branch, that is the way along the branch that was alive
// last: up to where it left this lineage, and then all of its own. A point of a branch
// that was given up undoes what the living one had since the two parted.
func (p *Plan) undone() []stretch {
	all := p.options.Family
	if byID(all, p.view.ID) < 0 {
		all = append(slices.Clone(all), p.view)
	}
	own := Ancestors(all, p.view)
	from := stretch{p.view, p.Point.LSN, p.view.Durable}
	var way []*history.View // from the branch that was alive last up to the child of from
	alive := p.view.DurableTime
	for _, v := range all {
		if v.DurableTime <= alive {
			continue
		}
		line := Ancestors(all, v)
		for k, common := range own { // the nearest
			i := byID(line, common.ID)
			if i < 0 {
				continue
			}
			if way, alive = line[:i], v.DurableTime; k == 0 {
				from = stretch{p.view, p.Point.LSN, p.view.Durable}
			} else {
				from = stretch{common, parentOf(own[k-1]).At, common.Durable}
			}
			break
		}
	}
	out := []stretch{from}
	for _, v := range slices.Backward(way) {
		out[len(out)-1].until = parentOf(v).At
		out = append(out, stretch{v, 0, v.Durable})
	}
	return out
}

// holes tells what of the stretch the log does not know, of the tables that are wanted.
func (w stretch) holes(wanted map[uint32]bool, tell func(string)) {
	for _, i := range w.view.Incompletes {
		if i.Table != 0 && !wanted[i.Table] || i.From > w.until || i.Until != 0 && i.Until <= w.after {
			continue
		}
		until := "now"
		if i.Until != 0 {
			until = "lsn:" + i.Until.String()
		}
		name := i.Name
		if i.Table == 0 {
			name = "all tables"
		}
		tell(fmt.Sprintf("%s from lsn:%s to %s: %s", name, i.From, until, i.Reason))
	}
}

// since reads the records after the point.
func (p *Plan) since(ctx context.Context, server string, add func(int64)) (*synapse.Since, error) {
	s := synapse.NewSince(server)
	for _, d := range p.options.Damaged {
		s.Hole(d.String())
	}
	for _, w := range p.undone() {
		if w.after >= w.until {
			continue
		}
		wanted := map[uint32]bool{}
		for _, info := range w.view.Schemas {
			schema, err := w.view.Schema(ctx, info)
			if err != nil {
				return nil, fmt.Errorf("read the schema of %s: %w", info.From, err)
			}
			for _, t := range schema.Tables {
				wanted[t.OID] = wanted[t.OID] || s.Wants(t.Schema, t.Name)
			}
		}
		err := w.view.Records(ctx, w.after, w.until, func(oid uint32) bool { return wanted[oid] },
			func(_ *record.Transaction, rel *record.Relation, r *record.Record) error {
				add(int64(len(r.Old.Text) + len(r.New.Text)))
				return s.Record(rel, r, func(e record.Extent) ([]byte, error) { return w.view.Bytes(ctx, []record.Extent{e}) })
			})
		w.holes(wanted, s.Hole)
		if err != nil {
			return nil, fmt.Errorf("read what came after %s in %s: %w", w.after, w.view.ID, err)
		}
	}
	return s, nil
}

// serverName is the part after the colon of the first local user's id, from a copy
// of the table of users; "" when it holds none.
func serverName(ctx context.Context, v *history.View, users history.BaseInfo) (string, error) {
	b, err := v.Base(ctx, users)
	if err == nil && (len(b.Pieces) == 0 || b.Pieces[0].Rows == nil) {
		return "", nil
	}
	var chunk []byte
	if err == nil {
		chunk, err = v.Store().Get(ctx, chunkstore.KindRows, *b.Pieces[0].Rows)
	}
	if err != nil {
		return "", fmt.Errorf("read the homeserver's name: %w", err)
	}
	return synapse.Domain(firstName(&b.Relation, chunk)), nil
}

// firstName gives the column name of the first line of a chunk that has one.
func firstName(rel *record.Relation, chunk []byte) (name string) {
	for line := range bytes.Lines(chunk) {
		_ = record.Fields(bytes.TrimSuffix(line, newline), len(rel.Columns), func(i int, f []byte) {
			if rel.Columns[i].Name == "name" && !record.IsNull(f) {
				name = string(record.AppendUnescaped(nil, f))
			}
		})
		if name != "" {
			return name
		}
	}
	return ""
}
