package restore

import (
	"context"
	"errors"
	"iter"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/record"
)

// Spool executes the plan into temporary files instead of a database: the rows of all
// tables at the point, each table held against the digest of its commit (P5), sorted,
// to be gone through any number of times. It writes nothing else. The folder stays the
// caller's, and must not be closed before the last row was read.
func (p *Plan) Spool(ctx context.Context, s *history.Secrets, d *spill.Dir, pr Progress) (*Spool, error) {
	return nil, errors.ErrUnsupported
}

// Spool is the state of a database at a point.
type Spool struct {
	// Report says of each table how many rows there are and how they were proven.
	Report *Report
}

// Columns gives the names of a table's stored columns in the order of its rows; nil
// when there is no such table.
func (s *Spool) Columns(schema, table string) []string { return nil }

// Rows gives a table's rows as lines of COPY's text format without their newlines,
// ascending by their bytes. A line is valid until the next step. It may be gone through
// any number of times, several at once; of a table that does not exist it gives none.
func (s *Spool) Rows(schema, table string) iter.Seq2[[]byte, error] { return nil }

// Tables gives the ordinary tables of the point, by schema and name; the one that is
// empty because it was never part of the backup has no columns.
func (s *Spool) Tables() []record.Relation { return nil }

// Sequences gives every sequence with the value to set it to: exact at the newest
// commit, else beyond every value that was handed out before the point. The limits of
// the sequence are not known here: who sets it keeps within them.
func (s *Spool) Sequences() []record.Sequence { return nil }

// Schema gives the statements that make the database, from the dump that was certain
// at the point.
func (s *Spool) Schema() DDL { return DDL{} }

// DDL are the statements of a schema, in order, one SQL command each and without what
// only psql or a dump's own session needs (SET, \restrict).
type DDL struct {
	Before []string // what the rows go into: schemas, types, functions, tables, sequences
	After  []string // what is made when the rows are there: indexes, constraints, triggers
}
