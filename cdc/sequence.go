package cdc

import (
	"context"
	"fmt"

	"lifeboat.im/lifeboat/record"
)

// Sequences reads every sequence, one statement each, so that no lock outlives its
// statement (protocol §6). At of all is an insert LSN read before the first: each
// value was true at some moment at or after every commit that ended by then. A
// sequence that is locked or gone meanwhile is left out; the caller has an older
// sample of it.
func (s *Source) Sequences(ctx context.Context) ([]record.Sequence, error) {
	var out []record.Sequence
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		at, err := insertLSN(ctx, c)
		if err != nil {
			return err
		}
		list, err := readSequences(ctx, c)
		if err != nil {
			return err
		}
		out, err = sample(ctx, c, list)
		for i := range out {
			out[i].At = at
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read sequences: %w", err)
	}
	return out, nil
}

// sample reads each sequence in a transaction of its own.
func sample(ctx context.Context, c *session, list []record.Sequence) ([]record.Sequence, error) {
	out := list[:0]
	for _, q := range list {
		r, err := c.one(ctx, "SELECT last_value, is_called FROM "+qualified(q.Schema, q.Name))
		switch code(err) {
		case undefinedTable, lockNotAvailable, insufficientPrivilege:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("sequence %s.%s: %w", q.Schema, q.Name, err)
		}
		q.Last, q.Called = r.int64(), r.bool()
		if r.err != nil {
			return nil, fmt.Errorf("sequence %s.%s: %w", q.Schema, q.Name, r.err)
		}
		out = append(out, q)
	}
	return out, nil
}
