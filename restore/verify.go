package restore

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// verify reads every table back and holds it against the digest of its commit
// (P5), or, where nothing predicts that, against what was written. Large tables
// are read by all workers at once, in ranges of their pages.
func (l *loader) verify(ctx context.Context, report *Report) error {
	total := int64(0)
	for _, j := range l.jobs {
		total += j.base.Bytes
	}
	defer func() {
		for _, j := range l.jobs {
			report.add(j)
		}
	}()
	l.progress.Start(PhaseVerify, total)
	conns, err := sessions(ctx, l.workers, l.db.openCalm)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			closeConn(c)
		}
	}()
	work := make(chan *tableJob, len(l.jobs))
	for _, j := range l.jobs {
		if j.base.Bytes >= largeBase && l.db.version >= 140000 { // the first with range scans by ctid
			if err := l.readBack(ctx, conns, j); err != nil {
				return err
			}
			continue
		}
		work <- j
	}
	close(work)
	g, gctx := errgroup.WithContext(ctx)
	for _, conn := range conns {
		g.Go(func() error {
			for j := range work {
				if err := l.readBack(gctx, []*pgconn.PgConn{conn}, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// sum reads a table's lines by several sessions.
func (l *loader) sum(ctx context.Context, conns []*pgconn.PgConn, j *tableJob) (*lineSummer, error) {
	queries := []string{copySQL(j.target, " TO STDOUT")}
	if len(conns) > 1 {
		table := ident(j.target.Schema, j.target.Name)
		rows, err := query(ctx, conns[0], "SELECT pg_catalog.pg_relation_size("+literal(table)+"::pg_catalog.regclass) / pg_catalog.current_setting('block_size')::bigint")
		if err != nil {
			return nil, err
		}
		pages, err := strconv.ParseInt(rows[0][0], 10, 64)
		if err != nil {
			return nil, err
		}
		queries = pageRanges(j.target, pages, len(conns))
	}
	sums := make([]*lineSummer, len(queries))
	g, gctx := errgroup.WithContext(ctx)
	for i, q := range queries {
		sums[i] = &lineSummer{hasher: j.hasher, add: l.progress.Add}
		if i > 0 {
			sums[i].hasher = l.hasher(j.base)
		}
		g.Go(func() error {
			_, err := conns[i].CopyTo(gctx, sums[i], q)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, s := range sums[1:] {
		sums[0].digest.Add(s.digest)
		sums[0].bytes += s.bytes
	}
	return sums[0], nil
}

// pageRanges are n queries that give every line of a table once.
func pageRanges(rel *record.Relation, pages int64, n int) []string {
	columns := strings.Trim(columnList(rel), " ()")
	out := make([]string, n)
	for i := range out {
		where := fmt.Sprintf("ctid >= '(%d,0)'", pages*int64(i)/int64(n))
		if i < n-1 {
			where += fmt.Sprintf(" AND ctid < '(%d,0)'", pages*int64(i+1)/int64(n))
		}
		out[i] = "COPY (SELECT " + columns + " FROM ONLY " + ident(rel.Schema, rel.Name) + " WHERE " + where + ") TO STDOUT"
	}
	return out
}

func (l *loader) readBack(ctx context.Context, conns []*pgconn.PgConn, j *tableJob) error {
	sum, err := l.sum(ctx, conns, j)
	if err != nil {
		return fmt.Errorf("read back table %s: %w", j.name, err)
	}
	j.rows, j.bytes = sum.digest.Count, sum.bytes
	l.progress.Table(PhaseVerify, j.name, j.rows)
	want, of := j.merge.digest, "the commit"
	switch {
	case j.project != nil:
		return nil // columns are missing; the report says so
	case j.unknown:
		want, of = j.emitted, "what was written"
	}
	if sum.digest != want {
		return fmt.Errorf("verify table %s: read back %d rows with digest %s, but that of %s is %s (%d rows): %w",
			j.name, sum.digest.Count, sum.digest, of, want, want.Count, chunkstore.ErrDamaged)
	}
	return nil
}

// lineSummer sums the digests of the lines that COPY TO STDOUT sends, one write
// each, with its newline.
type lineSummer struct {
	hasher *record.Hasher
	digest record.Digest
	bytes  int64
	told   int64
	add    func(int64)
}

// Write implements io.Writer.
func (s *lineSummer) Write(p []byte) (int, error) {
	s.digest.Add(s.hasher.Line(bytes.TrimSuffix(p, newline)))
	s.bytes += int64(len(p))
	if s.bytes-s.told > 1<<20 {
		s.add(s.bytes - s.told)
		s.told = s.bytes
	}
	return len(p), nil
}

func (r *Report) add(j *tableJob) {
	t := TableReport{
		Table: j.name, OID: j.table, Rows: j.rows, Bytes: j.bytes, From: j.plan.Base.ExactFrom,
		Proof: ProofCommit, Hash: j.merge.digest, Incomplete: j.plan.Incomplete,
	}
	if j.unknown {
		t.Proof, t.Hash = ProofEmitted, j.emitted
	}
	if j.mixed != "" {
		t.Incomplete = j.mixed
	}
	r.Tables = append(r.Tables, t)
	r.Rows += t.Rows
	r.Bytes += t.Bytes
}
