package restore

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// prover reads every table back and holds it against the digest of its commit
// (P5), or, where nothing predicts that, against what was written. Nothing changes
// a row after its table is loaded, so it begins with the first table that is, on
// what the loading leaves of the processors, and goes on beside the index builds.
// Only where the schema has something that may write rows when it is made, or when
// others are loaded, all is read at the end.
type prover struct {
	copier *copier
	tasks  chan proofTask  // room for all; closed when every table is loaded
	gates  []chan struct{} // one for each session, which begins when it is closed
	late   bool            // gates are opened by openAll alone
	cancel context.CancelCauseFunc
	group  errgroup.Group

	mu     sync.Mutex
	loads  int   // tables that are not loaded yet
	opened int   // gates
	done   int64 // bytes
	shown  bool  // done goes to the progress from here on
	err    error
}

// proofTask is a table, or a range of its pages.
type proofTask struct {
	job   *tableJob
	query string
}

// proofPart is how many bytes of a table one session reads at a time.
const proofPart = largeBase

// parts is how many tasks a table is at most.
func (j *tableJob) parts() int { return int(j.base.Bytes/proofPart) + 1 }

// startProofs starts the sessions that read back; they end with ctx, which the first
// proof that fails cancels, or when all is proven.
func (c *copier) startProofs(ctx context.Context, cancel context.CancelCauseFunc, late bool) {
	p := &prover{copier: c, late: late, cancel: cancel, loads: len(c.jobs)}
	n := 0
	for _, j := range c.jobs {
		n += j.parts()
	}
	p.tasks = make(chan proofTask, n)
	for range c.workers {
		gate := make(chan struct{})
		p.gates = append(p.gates, gate)
		p.group.Go(func() error {
			if err := p.session(ctx, gate); err != nil && ctx.Err() == nil {
				p.fail(err)
			}
			return nil
		})
	}
	c.proofs = p
}

func (p *prover) fail(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.mu.Unlock()
	p.cancel(err)
}

// wait gives the first error of a proof, once the sessions have ended; nil also
// when they were cancelled.
func (p *prover) wait() error {
	_ = p.group.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// take begins to read a table back.
func (p *prover) take(j *tableJob) {
	queries := []string{copySQL(j.target, " TO STDOUT")}
	if n := j.parts(); n > 1 && j.pages > 0 && p.copier.db.version >= 140000 { // the first with range scans by ctid
		queries = pageRanges(j.target, j.pages, n)
	}
	j.unread = len(queries)
	for _, q := range queries {
		p.tasks <- proofTask{j, q}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loads--
	if !p.late { // a table that is being loaded keeps a processor busy
		p.open(len(p.gates) - p.loads)
	}
}

// open opens the first n gates; p.mu is held.
func (p *prover) open(n int) {
	for ; p.opened < min(n, len(p.gates)); p.opened++ {
		close(p.gates[p.opened])
	}
}

// show tells the progress from here on, and lets all begin.
func (p *prover) show(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.copier.progress.Start(PhaseVerify, total)
	p.copier.progress.Add(p.done)
	p.shown = true
	p.open(len(p.gates))
}

func (p *prover) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.shown {
		p.copier.progress.Add(n)
	}
}

// session reads back in one session until there is no more.
func (p *prover) session(ctx context.Context, gate <-chan struct{}) error {
	select {
	case <-gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	var conn *pgconn.PgConn
	for {
		var t proofTask
		var ok bool
		select {
		case t, ok = <-p.tasks:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !ok {
			return nil
		}
		if conn == nil {
			var err error
			if conn, err = p.copier.db.openCalm(ctx); err != nil {
				return err
			}
			defer closeConn(conn)
		}
		if err := p.read(ctx, conn, t); err != nil {
			return err
		}
	}
}

// read sums a task's lines; who brings a table's last part judges it.
func (p *prover) read(ctx context.Context, conn *pgconn.PgConn, t proofTask) error {
	j := t.job
	s := &lineSummer{hasher: p.copier.hasher(j.base), add: p.add}
	if _, err := conn.CopyTo(ctx, s, t.query); err != nil {
		return fmt.Errorf("read back table %s: %w", j.name, err)
	}
	p.add(s.bytes - s.told)
	p.mu.Lock()
	j.read.Add(s.digest)
	j.bytes += s.bytes
	j.unread--
	last := j.unread == 0
	p.mu.Unlock()
	if !last {
		return nil
	}
	p.copier.progress.Table(PhaseVerify, j.name, j.read.Count)
	return j.judge()
}

// countPages notes how large a table is that is read back in parts.
func (j *tableJob) countPages(ctx context.Context, conn *pgconn.PgConn) error {
	if j.parts() == 1 {
		return nil
	}
	rows, err := query(ctx, conn, "SELECT pg_catalog.pg_relation_size("+literal(ident(j.target.Schema, j.target.Name))+"::pg_catalog.regclass) / pg_catalog.current_setting('block_size')::bigint")
	if err != nil {
		return fmt.Errorf("look how large table %s is: %w", j.name, err)
	}
	j.pages, err = strconv.ParseInt(rows[0][0], 10, 64)
	return err
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

// judge holds what was read back against what it must be.
func (j *tableJob) judge() error {
	want, of := j.merge.digest, "the commit"
	if j.proof == ProofArchive {
		of = "the archive"
	}
	switch {
	case j.project != nil:
		return nil // columns are missing; the report says so
	case j.unknown:
		want, of = j.emitted, "what was written"
	}
	if j.read != want {
		return fmt.Errorf("verify table %s: read back %d rows with digest %s, but that of %s is %s (%d rows): %w",
			j.name, j.read.Count, j.read, of, want, want.Count, chunkstore.ErrDamaged)
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
		Table: j.name, OID: j.table, Rows: j.read.Count, Bytes: j.bytes, From: j.plan.Base.ExactFrom,
		Proof: cmp.Or(j.proof, ProofCommit), Hash: j.merge.digest, Incomplete: j.plan.Incomplete,
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
