package restore

import (
	"bytes"
	"context"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// Loss tells what a rollback to the plan's point undoes, from the records up to the
// lineage's newest commit; nil in the other modes. It streams, so its memory does not
// grow with the log. Which rooms other servers hold is known here only as far as the
// records say; the report of the restore itself asks the rows.
func (p *Plan) Loss(ctx context.Context) (*synapse.Loss, error) {
	if p.Mode != synapse.Rollback {
		return nil, nil
	}
	name, err := p.serverName(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the homeserver's name: %w", err)
	}
	s, err := p.since(ctx, name, func(int64) {})
	if err != nil {
		return nil, err
	}
	return s.Loss(), nil
}

// since reads the records after the point.
func (p *Plan) since(ctx context.Context, server string, add func(int64)) (*synapse.Since, error) {
	s := synapse.NewSince(server)
	if p.Point.LSN >= p.view.Durable {
		return s, nil
	}
	wanted := map[uint32]bool{}
	for _, info := range p.view.Schemas {
		schema, err := p.view.Schema(ctx, info)
		if err != nil {
			return nil, fmt.Errorf("read the schema of %s: %w", info.From, err)
		}
		for _, t := range schema.Tables {
			wanted[t.OID] = wanted[t.OID] || s.Wants(t.Schema, t.Name)
		}
	}
	err := p.view.Records(ctx, p.Point.LSN, p.view.Durable, func(oid uint32) bool { return wanted[oid] },
		func(_ *record.Transaction, rel *record.Relation, r *record.Record) error {
			add(int64(len(r.Old.Text) + len(r.New.Text)))
			return s.Record(rel, r)
		})
	if err != nil {
		return nil, fmt.Errorf("read what came after %s: %w", p.Point.LSN, err)
	}
	return s, nil
}

// serverName takes it from the first row of the copy of table users; "" when the copy
// is empty.
func (p *Plan) serverName(ctx context.Context) (string, error) {
	for _, t := range p.Tables {
		if t.Table != synapse.UsersTable || !t.HasBase {
			continue
		}
		b, err := p.view.Base(ctx, t.Base)
		if err != nil || len(b.Pieces) == 0 || b.Pieces[0].Rows == nil {
			return "", err
		}
		chunk, err := p.view.Store().GetInto(ctx, chunkstore.KindRows, *b.Pieces[0].Rows, nil)
		if err != nil {
			return "", err
		}
		return synapse.Domain(firstName(&b.Relation, chunk)), nil
	}
	return "", nil
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
