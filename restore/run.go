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
	"lifeboat.im/lifeboat/synapse"
)

// run makes a database: of a plan ([Plan.Materialise]), or of an archive ([Import.Into]).
type run struct {
	origin   origin
	db       *database
	conn     *pgconn.PgConn
	target   *copier
	report   *Report
	progress Progress
	now      func() time.Time
	cancel   context.CancelCauseFunc // ends the run
}

// origin is what a database is made of. Its methods are called in this order, once each.
type origin interface {
	// claim says what the target is marked with before the first write.
	claim() claim
	// preData makes the schema without indexes, constraints and triggers.
	preData(ctx context.Context, r *run) error
	// rows loads every table, hands each to the proof and closes that, and sets the
	// sequences.
	rows(ctx context.Context, r *run) error
	// postData makes indexes, constraints and triggers.
	postData(ctx context.Context, r *run) error
	// known completes what the aftercare of a rollback has to know: what was handed out
	// after the moment that the rows are of.
	known(ctx context.Context, r *run, restored *synapse.Restored) error
	// parent is where in a log the rows are from; nil when that is not known.
	parent() *history.Parent
}

// workers is how many sessions load at once, when so many are asked for.
func workers(asked int) int {
	if asked > 0 {
		return asked
	}
	return max(2, min(8, runtime.NumCPU()))
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
		for _, j := range r.target.jobs {
			r.report.add(j)
		}
	}()
	notes, err := r.db.claim(ctx, r.conn, r.origin.claim())
	r.report.Notes = append(r.report.Notes, notes...)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		phase Phase
		do    func(context.Context, *run) error
	}{
		{PhaseSchema, r.origin.preData},
		{PhaseRows, r.origin.rows},
		{PhaseIndexes, r.origin.postData},
		{PhaseVerify, prove},
	} {
		began := r.now()
		if err := r.db.phase(ctx, r.conn, step.phase); err != nil {
			return fmt.Errorf("note the phase in the target: %w", err)
		}
		if step.phase == PhaseSchema || step.phase == PhaseIndexes {
			r.progress.Start(step.phase, 0)
		}
		if err := step.do(ctx, r); err != nil {
			return err
		}
		r.report.Took[step.phase] = r.now().Sub(began)
	}
	if err := r.failures(); err != nil {
		return err
	}
	if err := r.after(ctx); err != nil {
		return err
	}
	if err := r.db.finish(ctx, r.conn, r.origin.parent()); err != nil {
		return err
	}
	r.report.Verified = true
	r.progress.Start(PhaseFinished, 0)
	return nil
}

// failures weighs the statements that the target refused.
func (r *run) failures() error {
	for _, f := range r.report.Failed {
		if strings.Contains(f.Statement, " PRIMARY KEY") && strings.Contains(f.Error, "could not create unique index") {
			return fmt.Errorf("restore into database %s: two rows have one key, so what they come from has a hole: %s: %s: %w",
				r.db.name, f.Error, strings.Join(strings.Fields(f.Statement), " "), chunkstore.ErrDamaged)
		}
	}
	if n := len(r.report.Failed); n > 0 {
		return fmt.Errorf("restore into database %s: %w: the target refused %d statements of the schema, the first: %s: %s; the rows are proven, nothing more was done to them, the target stays marked as unfinished",
			r.db.name, ErrLosses, n, r.report.Failed[0].Error, firstLine(r.report.Failed[0].Statement))
	}
	return nil
}

func (r *run) note(text string) { r.report.Notes = append(r.report.Notes, text) }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// tables reads which tables the schema made, with the columns that COPY takes.
func (r *run) tables(ctx context.Context) error {
	rows, err := query(ctx, r.conn, `SELECT n.nspname, c.relname, a.attname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`)
	if err != nil {
		return fmt.Errorf("read the target's tables: %w", err)
	}
	r.target.have = map[[2]string][]string{}
	for _, row := range rows {
		t := [2]string{row[0], row[1]}
		r.target.have[t] = append(r.target.have[t], row[2])
	}
	return nil
}

// absent says of a table that the schema did not make it, and why that may be.
func (r *run) absent(table string) error {
	err := fmt.Errorf("make the schema: table %s is not there", table)
	for _, f := range r.report.Failed {
		err = errors.Join(err, fmt.Errorf("%s: %s", f.Error, firstLine(f.Statement)))
	}
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

// sortBudget is what all sorts of index builds together may take of the target's
// memory, in MiB: most keys then fit, and are not written out and read again.
const sortBudget = 512

// sortMemory gives what an index build may take, in MiB; 0: the target's own is more.
func (r *run) sortMemory(ctx context.Context) (int, error) {
	rows, err := query(ctx, r.conn, "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) >> 20")
	if err != nil {
		return 0, fmt.Errorf("read the target's maintenance_work_mem: %w", err)
	}
	own, err := strconv.Atoi(rows[0][0])
	if each := sortBudget / r.target.workers; err == nil && each > own {
		return each, nil
	}
	return 0, err
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
func prove(ctx context.Context, r *run) error {
	total := int64(0)
	for _, j := range r.target.jobs {
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
	jobs := slices.Clone(r.target.jobs)
	slices.SortFunc(jobs, func(a, b *tableJob) int { return cmp.Compare(b.base.Bytes, a.base.Bytes) })
	work := make(chan *tableJob, len(jobs))
	for _, j := range jobs {
		work <- j
	}
	close(work)
	g, ctx := errgroup.WithContext(ctx)
	for range r.target.workers {
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
