package restore

import (
	"bytes"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// verify reads every table back and holds it against the digest of its commit
// (P5), or, where nothing predicts that, against what was written.
func (l *loader) verify(ctx context.Context, report *Report) error {
	total := int64(0)
	work := make(chan *tableJob, len(l.jobs))
	for _, j := range l.jobs {
		total += j.base.Bytes
		work <- j
	}
	close(work)
	l.progress.Start(PhaseVerify, total)
	g, gctx := errgroup.WithContext(ctx)
	for range min(l.workers, len(l.jobs)) {
		g.Go(func() error {
			conn, err := l.db.open(gctx)
			if err != nil {
				return err
			}
			defer closeConn(conn)
			for j := range work {
				if err := l.readBack(gctx, conn, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	for _, j := range l.jobs {
		report.add(j)
	}
	return err
}

func (l *loader) readBack(ctx context.Context, conn *pgconn.PgConn, j *tableJob) error {
	sum := &lineSummer{hasher: j.hasher, add: l.progress.Add}
	if _, err := conn.CopyTo(ctx, sum, copySQL(j.target, " TO STDOUT")); err != nil {
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
