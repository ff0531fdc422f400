package restore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/record"
)

// SpoolMemory is what a spool takes beside the merge's budget ([Options].Memory): that
// of its sorter, and the pieces of bases that are open ahead.
const SpoolMemory = spoolSorter + maxAhead

const spoolSorter = 32 << 20

// Spool executes the plan into temporary files instead of a database: the rows of all
// tables at the point, each table held against the digest of its commit (P5), sorted,
// to be gone through any number of times. It writes nothing else. The folder stays the
// caller's, and must not be closed before the last row was read. What it reads of the
// schema it reads with pg_restore, as a restore does.
func (p *Plan) Spool(ctx context.Context, s *history.Secrets, d *spill.Dir, pr Progress) (*Spool, error) {
	if pr == nil {
		pr = NoProgress{}
	}
	began := p.now()
	ddl, notes, err := openDDL(ctx, p)
	if err != nil {
		return nil, err
	}
	l := newLoader(p, s, pr)
	sink := &spooler{loader: l, tables: ddl.tables(), sorter: d.Sorter(spoolSorter)}
	l.sink = sink
	if err := l.prepare(ctx); err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	out := &Spool{
		Report: &Report{Point: p.Point, Mode: p.Mode, Rounds: l.rounds, Notes: slices.Concat(p.Notes, notes), Took: map[Phase]time.Duration{}},
		schema: *ddl, tables: map[[2]string]*tableJob{}, timeline: p.timeline(), incomplete: p.Incomplete, absent: p.notBackedUp(),
	}
	if out.rows, err = sink.sorter.Sorted(); err != nil {
		return nil, err
	}
	for _, j := range l.jobs {
		out.Report.add(j)
		out.tables[[2]string{j.target.Schema, j.target.Name}] = j
	}
	if out.sequences, err = p.spoolSequences(ctx, ddl); err != nil {
		return nil, err
	}
	out.Report.Sequences, out.Report.Verified = len(out.sequences), true
	out.Report.Took[PhaseRows] = p.now().Sub(began)
	return out, nil
}

// timeline is the one that the point's commit was made on.
func (p *Plan) timeline() int64 {
	at, out := p.Point.LSN, int64(0)
	if p.Point.Commit.End != 0 {
		at = p.Point.Commit.End
	}
	for _, e := range p.view.Epochs {
		if out == 0 || e.Durable < at {
			out = int64(e.Timeline)
		}
	}
	return out
}

// notBackedUp names the ordinary tables of the point that the plan has no part for.
func (p *Plan) notBackedUp() []string {
	var out []string
	for _, t := range p.schema.Tables {
		if t.Kind == 'r' && !slices.ContainsFunc(p.Tables, func(o TablePlan) bool { return o.OID == t.OID }) {
			out = append(out, t.Schema+"."+t.Name)
		}
	}
	slices.Sort(out)
	return out
}

// spoolSequences gives the sequences of the point values that stay the same however
// often and however late it is spooled, and that cover every value that was handed out
// before it. Without a database that knows the limits the schema's statements do.
func (p *Plan) spoolSequences(ctx context.Context, ddl *DDL) ([]record.Sequence, error) {
	var oids []uint32
	for _, q := range p.schema.Sequences {
		oids = append(oids, q.OID)
	}
	by, err := p.view.SequencesBy(ctx, p.Point.LSN, oids)
	if err != nil {
		return nil, fmt.Errorf("read the sequences: %w", err)
	}
	have := ddl.sequences()
	out := make([]record.Sequence, 0, len(p.schema.Sequences))
	for _, q := range p.schema.Sequences {
		l, ok := have[ident(q.Schema, q.Name)]
		if !ok {
			continue
		}
		if s, ok := by[q.OID]; ok {
			q.Last, q.Called = s.Last, s.Called
		}
		q.Last = l.clamp(q.Last)
		out = append(out, q)
	}
	slices.SortFunc(out, func(a, b record.Sequence) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// spooler is the sink that is a sorter: a pair's key is the table's OID and a line.
type spooler struct {
	*loader
	tables map[string][]string // columns by the name of the table
	sorter *spill.Sorter
	key    []byte
}

func (s *spooler) columns(schema, table string) ([]string, bool) {
	have, ok := s.tables[ident(schema, table)]
	return have, ok
}

func (s *spooler) bases(ctx context.Context, jobs []*tableJob) error {
	for _, j := range jobs {
		j.hashing = j.project == nil // there is no reading back: what goes in is proven
		if err := s.base(ctx, j); err != nil {
			return err
		}
		if j.unchanged() {
			if err := s.loader.done(j); err != nil {
				return err
			}
		}
	}
	return nil
}

// base takes what stays of a base. Its pieces are opened ahead, by others.
func (s *spooler) base(ctx context.Context, j *tableJob) error {
	if j.empty() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for p := range s.fetch(ctx, j.base.Pieces, false) {
		<-p.opened
		if p.err != nil {
			return fmt.Errorf("table %s: read its base: %w", j.name, p.err)
		}
		s.progress.Add(int64(len(p.data)))
		if err := s.piece(j, p); err != nil {
			return err
		}
		s.release(p)
	}
	return ctx.Err()
}

func (s *spooler) piece(j *tableJob, p *piece) error {
	if p.rows == nil {
		return s.line(j, p.data)
	}
	for rest := p.data; len(rest) > 0; {
		line, next, ok := bytes.Cut(rest, newline)
		if !ok {
			return fmt.Errorf("table %s: a chunk of its base ends within a line: %w", j.name, record.ErrCorrupt)
		}
		if err := s.line(j, line); err != nil {
			return err
		}
		rest = next
	}
	return nil
}

func (s *spooler) line(j *tableJob, line []byte) error {
	if ok, err := j.stays(line); err != nil || !ok {
		return err
	}
	var shaped []byte
	return s.add(j, j.shapeOut(line, &shaped))
}

func (s *spooler) changes(ctx context.Context, feed func(context.Context, func(*tableJob, []byte) error) error) error {
	return feed(ctx, s.add)
}

func (s *spooler) add(j *tableJob, line []byte) error {
	s.key = append(binary.BigEndian.AppendUint32(s.key[:0], j.table), line...)
	j.rows++
	j.bytes += int64(len(line)) + 1
	if err := s.sorter.Add(s.key, nil); err != nil {
		return fmt.Errorf("table %s: %w", j.name, err)
	}
	return nil
}

// done holds what went in against the digest of the commit.
func (s *spooler) done(j *tableJob) error {
	j.read = j.emitted
	if j.project != nil {
		j.read.Count = j.rows
	}
	return j.judge()
}

// Spool is the state of a database at a point.
type Spool struct {
	// Report says of each table how many rows there are, how they were proven, and
	// whether it is only the best known.
	Report *Report

	schema     DDL
	sequences  []record.Sequence
	tables     map[[2]string]*tableJob
	rows       *spill.Sorted
	timeline   int64
	incomplete []Interval // tables that are only the best known
	absent     []string   // tables that were never part of the backup
}

// Columns gives the names of a table's stored columns in the order of its rows; nil
// when there is no such table, or it was never part of the backup.
func (s *Spool) Columns(schema, table string) []string {
	j := s.tables[[2]string{schema, table}]
	if j == nil {
		return nil
	}
	names := make([]string, len(j.target.Columns))
	for i, c := range j.target.Columns {
		names[i] = c.Name
	}
	return names
}

// Rows gives a table's rows as lines of COPY's text format without their newlines,
// ascending by their bytes. A line is valid until the next step. It may be gone through
// any number of times, several at once; of a table that does not exist it gives none.
func (s *Spool) Rows(schema, table string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		j := s.tables[[2]string{schema, table}]
		if j == nil {
			return
		}
		prefix := binary.BigEndian.AppendUint32(nil, j.table)
		for p, err := range s.rows.Prefix(prefix) {
			if err != nil {
				yield(nil, fmt.Errorf("table %s: %w", j.name, err))
				return
			}
			if !yield(p.Key[len(prefix):], nil) {
				return
			}
		}
	}
}

// Tables gives the tables that have columns here, ascending by schema and name; those
// that are empty because they were never part of the backup are not among them.
func (s *Spool) Tables() []*record.Relation {
	out := make([]*record.Relation, 0, len(s.tables))
	for _, j := range s.tables {
		out = append(out, j.target)
	}
	slices.SortFunc(out, func(a, b *record.Relation) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Sequences gives the sequences that were there at the point, by schema and name, with
// what to set them to: the newest sample that the flush of the point's commit took, or one
// before it, which covers every value handed out until the commit.
func (s *Spool) Sequences() []record.Sequence { return s.sequences }

// Schema gives the statements that make the database, from the dump that was certain
// at the point.
func (s *Spool) Schema() DDL { return s.schema }
