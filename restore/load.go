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
	"golang.org/x/sync/semaphore"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// tableJob is one table on its way into the target.
type tableJob struct {
	job
	plan    TablePlan
	base    *history.Base    // nil: no copy is old enough
	target  *record.Relation // name and columns in the target
	project []int            // columns of our lines that the target has; nil: all

	hashing bool // the digest is not predicted: what is written is hashed
	emitted record.Digest
	rows    int64 // written
	loaded  bool  // a round has filled it before

	// The proof: ready says that it may be read back, pages its size before changes
	// were applied (0: it is read at once). The others are the prover's.
	ready  bool
	pages  int64
	read   record.Digest
	bytes  int64
	unread int // parts
}

// loader brings all tables' rows into the target, round by round.
type loader struct {
	plan     *Plan
	view     *history.View
	store    *chunkstore.Store
	db       *database
	columns  map[string][]string // of the target's tables
	workers  int
	ahead    int                 // pieces of a base that are opened before COPY wants them
	budget   *semaphore.Weighted // the bytes that they hold, at most maxAhead
	free     chan []byte         // buffers of chunks to use again
	progress Progress
	digest   []byte // K_digest
	jobs     []*tableJob
	rounds   int
	proofs   *prover
}

// prepare opens the bases' bodies and makes the jobs.
func (l *loader) prepare(ctx context.Context) error {
	mem, secret := &memory{limit: l.memory()}, newSecret()
	for _, t := range l.plan.Tables {
		if !t.HasBase {
			continue // stays empty; the plan says so
		}
		b, err := l.view.Base(ctx, t.Base)
		if err != nil {
			return fmt.Errorf("table %s: open its base: %w", t.Table, err)
		}
		j := &tableJob{plan: t, base: b}
		j.job = job{table: t.OID, digest: b.Digest, shape: &b.Relation, merge: &merge{
			name: t.Table, from: b.RecordsFrom, snapshot: b.Snapshot, lines: l.view.Line,
			hasher: l.hasher(b), keys: newKeyHasher(secret), index: index{mem: mem},
		}}
		l.jobs = append(l.jobs, j)
	}
	return nil
}

// hasher makes the hasher of a table's lines: under the name that it had when it
// was copied, because the base's digest is under that name.
func (l *loader) hasher(b *history.Base) *record.Hasher {
	return record.NewHasher(l.digest, b.Relation.Schema, b.Relation.Name)
}

func (l *loader) memory() int64 {
	if l.plan.options.Memory > 0 {
		return l.plan.options.Memory
	}
	return DefaultMemory
}

// nameOf gives the table's name at the point.
func (l *loader) nameOf(t TablePlan) (schema, name string) {
	for _, s := range l.plan.schema.Tables {
		if s.OID == t.OID {
			return s.Schema, s.Name
		}
	}
	return "", t.Table
}

// scan reads the records that the wanted tables' bases do not have.
func (l *loader) scan(ctx context.Context, want func(uint32) bool, f func(*record.Transaction, *record.Relation, *record.Record) error) error {
	from := l.plan.Point.LSN
	for _, j := range l.jobs {
		if want(j.table) {
			from = min(from, j.from)
		}
	}
	if from >= l.plan.Point.LSN {
		return nil
	}
	return l.view.Records(ctx, from, l.plan.Point.LSN, want, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
		l.progress.Add(int64(len(r.Old.Text) + len(r.New.Text)))
		return f(t, rel, r)
	})
}

// load runs the rounds.
func (l *loader) load(ctx context.Context) error {
	byTable := map[uint32]*tableJob{}
	pending := make([]*job, 0, len(l.jobs))
	for _, j := range l.jobs {
		byTable[j.table] = j
		pending = append(pending, &j.job)
	}
	for len(pending) > 0 {
		l.rounds++
		l.progress.Start(PhaseRecords, l.plan.RecordBytes)
		group, later, err := gather(ctx, l.scan, pending)
		if err != nil {
			return err
		}
		jobs := make([]*tableJob, 0, len(group))
		total := int64(0)
		for oid := range group {
			j := byTable[oid]
			if err := l.aim(j); err != nil {
				return err
			}
			total += j.base.Bytes
			jobs = append(jobs, j)
		}
		slices.SortFunc(jobs, func(a, b *tableJob) int { return cmp.Compare(b.base.Bytes, a.base.Bytes) })
		l.progress.Start(PhaseRows, total)
		if err := l.loadBases(ctx, jobs); err != nil {
			return err
		}
		l.progress.Start(PhaseChanges, l.plan.RecordBytes)
		if err := l.applyRecords(ctx, jobs); err != nil {
			return err
		}
		for _, j := range jobs {
			if err := j.finish(); err != nil {
				return err
			}
			j.loaded = true
			if j.next() {
				later = append(later, &j.job)
				continue
			}
			l.done(j)
		}
		pending = later
	}
	close(l.proofs.tasks)
	return nil
}

// done hands a table to the proof whose rows are all there.
func (l *loader) done(j *tableJob) {
	if !j.ready {
		l.progress.Table(PhaseRows, j.name, j.rows)
		l.proofs.ready(j)
	}
}

// unchanged reports that the table's base is all of it; before pass 2.
func (j *tableJob) unchanged() bool { return j.pos == 0 && j.bits == 0 }

// aim finds the table in the target, after pass 1 has settled the shape of its
// rows. Columns that are not there are dropped only where the table is accepted
// as incomplete.
func (l *loader) aim(j *tableJob) error {
	if j.mixed != "" && !l.plan.options.AcceptIncomplete {
		return fmt.Errorf("table %s: %w: %s; --accept-incomplete restores it as best known", j.name, ErrIncomplete, j.mixed)
	}
	schema, name := l.nameOf(j.plan)
	have, ok := l.columns[ident(schema, name)]
	if !ok {
		return fmt.Errorf("table %s: the schema did not make it", j.name)
	}
	target := &record.Relation{Schema: schema, Name: name}
	var project []int
	for i, c := range j.rel.Columns {
		if slices.Contains(have, c.Name) {
			target.Columns = append(target.Columns, c)
			project = append(project, i)
		} else if !l.plan.options.AcceptIncomplete {
			return fmt.Errorf("table %s: %w: the schema has no column %s; --accept-incomplete restores the others", j.name, ErrIncomplete, c.Name)
		}
	}
	j.target, j.project, j.hashing = target, nil, j.unknown
	if len(project) < len(j.rel.Columns) {
		j.project, j.unknown, j.hashing = project, true, false
		j.mixed = fmt.Sprintf("the schema has only %d of its %d columns", len(project), len(j.rel.Columns))
	}
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
func (l *loader) together(jobs []*tableJob) bool {
	total := int64(0)
	for _, j := range jobs {
		total += j.base.Bytes
	}
	from := int64(togetherFrom)
	if l.plan.options.togetherFrom > 0 {
		from = l.plan.options.togetherFrom
	}
	largest := jobs[0].base.Bytes
	return largest >= from && largest > total/int64(l.workers)*3/2
}

// loadBases copies the bases, the largest first: one that outweighs the others by
// all workers together, the others side by side.
func (l *loader) loadBases(ctx context.Context, jobs []*tableJob) error {
	conns, err := sessions(ctx, min(l.workers, max(len(jobs), 2)), l.db.open)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			closeConn(c)
		}
	}()
	for len(jobs) > 0 && l.together(jobs) {
		if err := l.loadBase(ctx, conns, jobs[0]); err != nil {
			return err
		}
		if jobs[0].unchanged() {
			l.done(jobs[0])
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
				if err := l.loadBase(ctx, []*pgconn.PgConn{conn}, j); err != nil {
					return err
				}
				if j.unchanged() {
					l.done(j)
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

// applyRecords is pass 2 over the records: the rows that result from them go out
// in batches, whichever table is full first.
func (l *loader) applyRecords(ctx context.Context, jobs []*tableJob) error {
	byTable := map[uint32]*tableJob{}
	for _, j := range jobs {
		if j.pos > 0 { // pass 1 met records of it
			byTable[j.table] = j
		}
		j.again()
	}
	if len(byTable) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	b := &batcher{loader: l, work: make(chan batch), open: map[*tableJob]*bytes.Buffer{}}
	for range l.workers {
		g.Go(func() error { return b.write(ctx) })
	}
	g.Go(func() error {
		defer close(b.work)
		var shaped []byte
		err := l.scan(ctx, func(t uint32) bool { return byTable[t] != nil }, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			j := byTable[rel.OID]
			if j == nil || !j.wants(t) {
				return nil
			}
			return j.apply(ctx, rel, r, func(line []byte) error {
				if j.hashing {
					j.emitted.Add(j.hasher.Line(line))
				}
				return b.add(ctx, j, j.shapeOut(line, &shaped))
			})
		})
		if err != nil {
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
	loader  *loader
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
			if conn, err = b.loader.db.open(ctx); err != nil {
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
