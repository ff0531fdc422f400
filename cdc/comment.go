package cdc

import (
	"context"
	"fmt"
)

// Comment reads the database's comment; "" when it has none.
func (s *Source) Comment(ctx context.Context) (string, error) {
	var comment string
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, `SELECT coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '')
			FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`)
		if err != nil {
			return err
		}
		comment = r.text()
		return r.err
	})
	if err != nil {
		return "", fmt.Errorf("read the database's comment: %w", err)
	}
	return comment, nil
}

// SetComment replaces the database's comment; "" removes it. It needs the ownership
// of the database, and waits for no lock longer than any session of ours does.
func (s *Source) SetComment(ctx context.Context, comment string) error {
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, "SELECT pg_catalog.current_database()")
		if err != nil {
			return err
		}
		name := r.text()
		if r.err != nil {
			return r.err
		}
		to := "NULL"
		if comment != "" {
			to = literal(comment)
		}
		_, err = c.simple(ctx, "COMMENT ON DATABASE "+ident(name)+" IS "+to)
		return err
	})
	if err != nil {
		return fmt.Errorf("set the database's comment: %w", classify(err))
	}
	return nil
}
