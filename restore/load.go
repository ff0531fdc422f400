package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

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
	ready   bool  // all rows are there
	proof   Proof // what the digest is of, when it is known: the commit's, if not said otherwise

	// The proof: pages is the size before changes were applied (0: it is read at once).
	// The others are the prover's.
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
	sink     sink
	workers  int
	ahead    int                 // pieces of a base that are opened before COPY wants them
	budget   *semaphore.Weighted // the bytes that they hold, at most maxAhead
	free     chan []byte         // buffers of chunks to use again
	progress Progress
	digest   []byte // K_digest
	jobs     []*tableJob
	rounds   int
}

// sink is where the rows of a restore go: a database, or a spool.
type sink interface {
	// columns gives those that a table has there; nil stands for all that its rows have.
	columns(schema, table string) (names []string, ok bool)
	// bases takes, once in a round, what stays of these tables' bases ([tableJob.stays]),
	// and says done of each that has changed no more ([tableJob.unchanged]).
	bases(ctx context.Context, jobs []*tableJob) error
	// changes runs feed and takes the rows that it hands over, one at a time. A line is
	// valid during the call.
	changes(ctx context.Context, feed func(ctx context.Context, row func(j *tableJob, line []byte) error) error) error
	// done is told once of each table whose rows are all there.
	done(j *tableJob) error
}

func newLoader(p *Plan, s *history.Secrets, pr Progress) *loader {
	return &loader{
		plan: p, view: p.view, store: p.view.Store(), workers: workers(p.options.Workers), ahead: 3, progress: pr,
		budget: semaphore.NewWeighted(maxAhead), free: make(chan []byte, 8), digest: s.Digest[:],
	}
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
		if err := l.sink.bases(ctx, jobs); err != nil {
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
			if err := l.done(j); err != nil {
				return err
			}
		}
		pending = later
	}
	return nil
}

// done hands on a table whose rows are all there, the first time that it is called.
func (l *loader) done(j *tableJob) error {
	if j.ready {
		return nil
	}
	j.ready = true
	l.progress.Table(PhaseRows, j.name, j.rows)
	return l.sink.done(j)
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
	have, ok := l.sink.columns(schema, name)
	if !ok {
		return fmt.Errorf("table %s: the schema did not make it", j.name)
	}
	target := &record.Relation{Schema: schema, Name: name}
	var project []int
	for i, c := range j.rel.Columns {
		if have == nil || slices.Contains(have, c.Name) {
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

// applyRecords is pass 2 over the records: the rows that result from them.
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
	return l.sink.changes(ctx, func(ctx context.Context, row func(*tableJob, []byte) error) error {
		var shaped []byte
		return l.scan(ctx, func(t uint32) bool { return byTable[t] != nil }, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			j := byTable[rel.OID]
			if j == nil || !j.wants(t) {
				return nil
			}
			return j.apply(ctx, rel, r, func(line []byte) error {
				if j.hashing {
					j.emitted.Add(j.hasher.Line(line))
				}
				return row(j, j.shapeOut(line, &shaped))
			})
		})
	})
}
