package restore

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// copier is the sink that is a database: rows go into it by COPY, and each table is read
// back once it is loaded.
type copier struct {
	*loader
	db     *database
	have   map[[2]string][]string // the columns of its tables, by schema and name
	proofs *prover
}

func (c *copier) columns(schema, table string) ([]string, bool) {
	have, ok := c.have[[2]string{schema, table}]
	return have, ok
}

// done hands a table to the proof.
func (c *copier) done(j *tableJob) error {
	c.proofs.take(j)
	return nil
}

// largeBase is from which size on a table is read back by several sessions.
const largeBase = 32 << 20

// togetherFrom is from which size on a table may be loaded by all workers at once.
// Sessions that load together mix their pages, and the copy which adopts the restored
// database then meets none of the chunks that exist: worth it where it saves minutes,
// not for seconds.
const togetherFrom = 512 << 20

// together reports whether the largest table is loaded by all workers at once: by
// one alone it would still be under way when the others are long done. Otherwise
// each worker takes a table for itself, which writes its rows frozen.
func (c *copier) together(jobs []*tableJob) bool {
	total := int64(0)
	for _, j := range jobs {
		total += j.base.Bytes
	}
	from := int64(togetherFrom)
	if c.plan.options.togetherFrom > 0 {
		from = c.plan.options.togetherFrom
	}
	largest := jobs[0].base.Bytes
	return largest >= from && largest > total/int64(c.workers)*3/2
}

// bases copies the bases, the largest first: one that outweighs the others by all
// workers together, the others side by side.
func (c *copier) bases(ctx context.Context, jobs []*tableJob) error {
	conns, err := sessions(ctx, min(c.workers, max(len(jobs), 2)), c.db.open)
	if err != nil {
		return err
	}
	defer func() {
		for _, conn := range conns {
			closeConn(conn)
		}
	}()
	for len(jobs) > 0 && c.together(jobs) {
		if err := c.loadBase(ctx, conns, jobs[0]); err != nil {
			return err
		}
		if jobs[0].unchanged() {
			if err := c.loader.done(jobs[0]); err != nil {
				return err
			}
		}
		jobs = jobs[1:]
	}
	work := make(chan *tableJob, len(jobs))
	for _, j := range jobs {
		work <- j
	}
	close(work)
	g, ctx := errgroup.WithContext(ctx)
	for _, conn := range conns {
		g.Go(func() error {
			for j := range work {
				if err := c.loadBase(ctx, []*pgconn.PgConn{conn}, j); err != nil {
					return err
				}
				if j.unchanged() {
					if err := c.loader.done(j); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// sessions opens n sessions, or none.
func sessions(ctx context.Context, n int, open func(context.Context) (*pgconn.PgConn, error)) (conns []*pgconn.PgConn, err error) {
	for range n {
		conn, err := open(ctx)
		if err != nil {
			for _, c := range conns {
				closeConn(c)
			}
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

// changes copies the rows in batches, whichever table is full first.
func (c *copier) changes(ctx context.Context, feed func(context.Context, func(*tableJob, []byte) error) error) error {
	g, ctx := errgroup.WithContext(ctx)
	b := &batcher{copier: c, work: make(chan batch), open: map[*tableJob]*bytes.Buffer{}}
	for range c.workers {
		g.Go(func() error { return b.write(ctx) })
	}
	g.Go(func() error {
		defer close(b.work)
		if err := feed(ctx, func(j *tableJob, line []byte) error { return b.add(ctx, j, line) }); err != nil {
			return err
		}
		return b.flush(ctx, 0)
	})
	return g.Wait()
}

// The rows that wait to be copied: one batch at most maxBatch, all together at
// most maxWaiting.
const (
	maxBatch   = 1 << 20
	maxWaiting = 16 << 20
)

type batch struct {
	job  *tableJob
	rows *bytes.Buffer
}

// batcher gathers resulting rows by table and hands them to the writers.
type batcher struct {
	copier  *copier
	work    chan batch
	open    map[*tableJob]*bytes.Buffer
	waiting int
	mu      sync.Mutex // rows of jobs
}

func (b *batcher) add(ctx context.Context, j *tableJob, line []byte) error {
	if len(line) > maxBatch { // alone, without a larger buffer's slack
		select {
		case b.work <- batch{j, bytes.NewBuffer(append(append(make([]byte, 0, len(line)+1), line...), '\n'))}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	buf := b.open[j]
	if buf == nil {
		buf = &bytes.Buffer{}
		b.open[j] = buf
	}
	buf.Write(line)
	buf.WriteByte('\n')
	b.waiting += len(line) + 1
	if buf.Len() >= maxBatch {
		return b.send(ctx, j)
	}
	if b.waiting > maxWaiting {
		return b.flush(ctx, maxWaiting/2)
	}
	return nil
}

// flush sends the largest batches until no more than down bytes wait.
func (b *batcher) flush(ctx context.Context, down int) error {
	jobs := make([]*tableJob, 0, len(b.open))
	for j := range b.open {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(x, y *tableJob) int { return cmp.Compare(b.open[y].Len(), b.open[x].Len()) })
	for _, j := range jobs {
		if b.waiting <= down {
			break
		}
		if err := b.send(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

func (b *batcher) send(ctx context.Context, j *tableJob) error {
	buf := b.open[j]
	delete(b.open, j)
	b.waiting -= buf.Len()
	select {
	case b.work <- batch{j, buf}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write copies batches until there are no more.
func (b *batcher) write(ctx context.Context) error {
	var conn *pgconn.PgConn
	for w := range b.work {
		if conn == nil {
			var err error
			if conn, err = b.copier.db.open(ctx); err != nil {
				return err
			}
			defer closeConn(conn)
		}
		tag, err := conn.CopyFrom(ctx, w.rows, copySQL(w.job.target, " FROM STDIN"))
		if err != nil {
			return fmt.Errorf("load changed rows of table %s: %w", w.job.name, err)
		}
		b.mu.Lock()
		w.job.rows += tag.RowsAffected()
		b.mu.Unlock()
	}
	return nil
}
