package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
)

// Materialise executes the plan in an empty database: schema without indexes,
// rows in parallel, sequences, indexes and constraints, statistics, every table
// read back and held against its digest, beside the other steps as soon as it is
// loaded, and then the aftercare. A failure at any moment leaves the
// target visibly unfinished (P3); the report says how far it got.
func (p *Plan) Materialise(ctx context.Context, dsn string, s *history.Secrets, pr Progress) (*Report, error) {
	if pr == nil {
		pr = NoProgress{}
	}
	report := &Report{Point: p.Point, Mode: p.Mode, Took: map[Phase]time.Duration{}}
	db, err := connect(ctx, dsn)
	if err != nil {
		return report, err
	}
	if err := db.empty(ctx, p); err != nil {
		return report, err
	}
	schema, err := openDump(ctx, p, db)
	if err != nil {
		return report, err
	}
	defer schema.close()
	db.encoding = schema.encoding
	conn, err := db.open(ctx)
	if err != nil {
		return report, err
	}
	defer closeConn(conn)
	r := &run{plan: p, db: db, conn: conn, schema: schema, report: report, progress: pr}
	r.loader = newLoader(p, s, pr)
	r.target = &copier{loader: r.loader, db: db}
	r.loader.sink = r.target
	report.Notes = append(report.Notes, p.Notes...)
	err = r.all(ctx)
	for _, j := range r.loader.jobs {
		report.add(j)
	}
	report.Notes = append(report.Notes, schema.notes...)
	report.Rounds = r.loader.rounds
	for _, i := range p.Incomplete {
		report.Notes = append(report.Notes, fmt.Sprintf("table %s is not exact: %s", i.Table, i.Reason))
	}
	return report, err
}

func (p *Plan) workers() int {
	if p.options.Workers > 0 {
		return p.options.Workers
	}
	return max(2, min(8, runtime.NumCPU()))
}

// run is one execution of a plan.
type run struct {
	plan     *Plan
	db       *database
	conn     *pgconn.PgConn
	schema   *dump
	loader   *loader
	target   *copier
	report   *Report
	progress Progress
	cancel   context.CancelCauseFunc // ends the run
}

func (r *run) all(ctx context.Context) (err error) {
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer func() { // a proof that fails ends what runs beside it, and is the reason
		r.cancel(nil)
		if r.target.proofs != nil {
			if e := r.target.proofs.wait(); e != nil {
				err = e
			}
		}
	}()
	notes, err := r.db.claim(ctx, r.conn, r.plan)
	r.report.Notes = append(r.report.Notes, notes...)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		phase Phase
		do    func(context.Context) error
	}{
		{PhaseSchema, r.preData},
		{PhaseRows, r.rows},
		{PhaseIndexes, r.postData},
		{PhaseVerify, r.prove},
	} {
		began := r.plan.now()
		if err := r.db.phase(ctx, r.conn, step.phase); err != nil {
			return fmt.Errorf("note the phase in the target: %w", err)
		}
		if step.phase == PhaseSchema || step.phase == PhaseIndexes {
			r.progress.Start(step.phase, 0)
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		r.report.Took[step.phase] = r.plan.now().Sub(began)
	}
	for _, f := range r.report.Failed {
		if strings.Contains(f.Statement, " PRIMARY KEY") && strings.Contains(f.Error, "could not create unique index") {
			return fmt.Errorf("restore into database %s: two rows have one key, so the records have a hole: %s: %s: %w",
				r.db.name, f.Error, strings.Join(strings.Fields(f.Statement), " "), chunkstore.ErrDamaged)
		}
	}
	if n := len(r.report.Failed); n > 0 {
		return fmt.Errorf("restore into database %s: %w: the target refused %d statements of the schema, the first: %s: %s; the rows are proven, nothing more was done to them, the target stays marked as unfinished",
			r.db.name, ErrLosses, n, r.report.Failed[0].Error, firstLine(r.report.Failed[0].Statement))
	}
	if err := r.after(ctx); err != nil {
		return err
	}
	if err := r.db.finish(ctx, r.conn, history.Parent{ID: r.plan.view.ID, At: r.plan.Point.LSN}); err != nil {
		return err
	}
	r.report.Verified = true
	r.progress.Start(PhaseFinished, 0)
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// preData makes the schema without indexes, constraints and triggers.
func (r *run) preData(ctx context.Context) error {
	if err := r.schema.checkOwners(ctx, r.conn); err != nil {
		return fmt.Errorf("look for the owners' roles: %w", err)
	}
	failed, err := r.schema.apply(ctx, "pre-data", 1)
	if err != nil {
		return fmt.Errorf("make the schema: %w", err)
	}
	r.report.Failed = append(r.report.Failed, failed...)
	rows, err := query(ctx, r.conn, `SELECT n.nspname, c.relname, a.attname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`)
	if err != nil {
		return fmt.Errorf("read the target's tables: %w", err)
	}
	r.target.have = map[string][]string{}
	for _, row := range rows {
		t := ident(row[0], row[1])
		r.target.have[t] = append(r.target.have[t], row[2])
	}
	for _, t := range r.plan.Tables {
		schema, name := r.loader.nameOf(t)
		if _, ok := r.target.have[ident(schema, name)]; !ok {
			err := fmt.Errorf("make the schema: table %s is not there", t.Table)
			for _, f := range failed {
				err = errors.Join(err, fmt.Errorf("%s: %s", f.Error, firstLine(f.Statement)))
			}
			return err
		}
	}
	return nil
}

func (r *run) rows(ctx context.Context) error {
	if err := r.loader.prepare(ctx); err != nil {
		return err
	}
	writes, err := r.loadsWrite(ctx)
	if err != nil {
		return err
	}
	r.target.startProofs(ctx, r.cancel, writes || r.schema.writes)
	if err := r.loader.load(ctx); err != nil {
		return err
	}
	close(r.target.proofs.tasks)
	n, err := r.plan.setSequences(ctx, r.conn)
	r.report.Sequences = n
	return err
}

// loadsWrite reports whether something is in the target, now that it has the schema,
// that may write rows of other tables while one is loaded or indexed: a check that calls
// a volatile function, or an event trigger that an extension brought.
func (r *run) loadsWrite(ctx context.Context) (bool, error) {
	rows, err := query(ctx, r.conn, `SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger) OR EXISTS (
SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid
WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.provolatile = 'v')`)
	if err != nil {
		return false, fmt.Errorf("look for checks that write: %w", err)
	}
	return rows[0][0] == "t", nil
}

// postData makes indexes, constraints and triggers, then undoes what we had
// changed at the source, then fills the materialised views.
func (r *run) postData(ctx context.Context) error {
	if err := r.sortMemory(ctx); err != nil {
		return err
	}
	failed, err := r.schema.apply(ctx, "post-data", r.loader.workers)
	if err != nil {
		return fmt.Errorf("make indexes and constraints: %w", err)
	}
	r.report.Failed = append(r.report.Failed, failed...)
	if err := r.identities(ctx); err != nil {
		return err
	}
	return r.refresh(ctx)
}

// sortBudget is what all sorts of index builds together may take of the target's
// memory, in MiB: most keys then fit, and are not written out and read again.
const sortBudget = 512

// sortMemory raises what an index build may take, never below the target's own.
func (r *run) sortMemory(ctx context.Context) error {
	rows, err := query(ctx, r.conn, "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) >> 20")
	if err != nil {
		return fmt.Errorf("read the target's maintenance_work_mem: %w", err)
	}
	own, err := strconv.Atoi(rows[0][0])
	if each := sortBudget / r.loader.workers; err == nil && each > own {
		r.schema.sortMemory = each
	}
	return err
}

// identities puts the replica identities back to what they were before attach.
func (r *run) identities(ctx context.Context) error {
	rows, err := query(ctx, r.conn, `SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relreplident = 'f' AND n.nspname !~ '^pg_'`)
	if err != nil {
		return fmt.Errorf("read the target's replica identities: %w", err)
	}
	full := map[string]bool{}
	for _, row := range rows {
		full[ident(row[0], row[1])] = true
	}
	for name, c := range r.plan.identitiesBefore() {
		if full[name] {
			if err := r.putBack(ctx, name, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// identitiesBefore gives, by the tables' names at the point, the replica identities that
// we changed.
func (p *Plan) identitiesBefore() map[string]history.IdentityChange {
	before := map[uint32]history.IdentityChange{}
	for _, c := range p.view.Identities {
		if _, ok := before[c.Table]; !ok || !c.Undone {
			before[c.Table] = c
		}
	}
	named := map[string]history.IdentityChange{}
	for _, t := range p.schema.Tables {
		if c, ok := before[t.OID]; ok {
			named[ident(t.Schema, t.Name)] = c
		}
	}
	return named
}

func (r *run) putBack(ctx context.Context, table string, c history.IdentityChange) error {
	sql := putBackSQL(table, c)
	if sql == "" {
		return nil
	}
	err := runSQL(ctx, r.conn, sql)
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		r.report.Notes = append(r.report.Notes, fmt.Sprintf("the replica identity of %s stays full: %s", table, pe.Message))
		return nil
	}
	return err
}

// putBackSQL is the statement that undoes our change of a replica identity; "" when it
// was full before us.
func putBackSQL(table string, c history.IdentityChange) string {
	to := ""
	switch c.Old {
	case 'd':
		to = "DEFAULT"
	case 'n':
		to = "NOTHING"
	case 'i':
		to = "USING INDEX " + ident(c.Index)
	default:
		return ""
	}
	return "ALTER TABLE ONLY " + table + " REPLICA IDENTITY " + to
}

// refresh fills the materialised views, each after those it reads.
func (r *run) refresh(ctx context.Context) error {
	last := map[string]string{}
	for {
		rows, err := query(ctx, r.conn, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY c.oid`)
		if err != nil {
			return fmt.Errorf("read the target's materialised views: %w", err)
		}
		done := 0
		for _, row := range rows {
			err := runSQL(ctx, r.conn, "REFRESH MATERIALIZED VIEW "+row[0])
			var pe *pgconn.PgError
			switch {
			case err == nil:
				done++
			case errors.As(err, &pe):
				last[row[0]] = pe.Message
			default:
				return err
			}
		}
		if done == len(rows) || done == 0 {
			for _, row := range rows[done:] {
				r.report.Notes = append(r.report.Notes, fmt.Sprintf("materialised view %s is empty: %s", row[0], last[row[0]]))
			}
			return nil
		}
	}
}

// prove makes the statistics, and waits until every table was read back.
func (r *run) prove(ctx context.Context) error {
	total := int64(0)
	for _, j := range r.loader.jobs {
		total += j.base.Bytes
	}
	r.target.proofs.show(total)
	if err := r.analyze(ctx); err != nil {
		return err
	}
	if err := r.target.proofs.wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// analyze makes the planner's statistics, of large tables first.
func (r *run) analyze(ctx context.Context) error {
	jobs := slices.Clone(r.loader.jobs)
	slices.SortFunc(jobs, func(a, b *tableJob) int { return cmp.Compare(b.base.Bytes, a.base.Bytes) })
	work := make(chan *tableJob, len(jobs))
	for _, j := range jobs {
		work <- j
	}
	close(work)
	g, ctx := errgroup.WithContext(ctx)
	for range r.loader.workers {
		g.Go(func() error {
			conn, err := r.db.open(ctx)
			if err != nil {
				return err
			}
			defer closeConn(conn)
			for j := range work {
				if err := runSQL(ctx, conn, "ANALYZE "+ident(j.target.Schema, j.target.Name)); err != nil {
					return fmt.Errorf("analyze table %s: %w", j.name, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}
