package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// archived is an archive that becomes a database.
type archived struct {
	*Import
	byKey map[string]*tableJob
}

func (a *archived) claim() claim {
	return claim{what: "import of " + a.File, point: "the state in archive " + a.File, plan: a.String(), startOver: a.options.StartOver}
}

// parent: an archive does not say which log it is from, so who backs up the imported
// database begins a new one.
func (a *archived) parent() *history.Parent { return nil }

// preData runs the archive's statements up to the tables, and finds these in the target.
func (a *archived) preData(ctx context.Context, r *run) error {
	if err := a.apply(ctx, r, a.database.DDL, 1, 0); err != nil {
		return fmt.Errorf("make the schema: %w", err)
	}
	if err := r.tables(ctx); err != nil {
		return err
	}
	found := map[string][2]string{}
	for t := range r.target.have {
		name := filedAs(t[0], t[1])
		if _, twice := found[name]; twice {
			return fmt.Errorf("make the schema: %w: two tables are named %q", ErrArchive, name)
		}
		found[name] = t
	}
	a.byKey = map[string]*tableJob{}
	for _, t := range a.Tables {
		at, ok := found[t.Table]
		if !ok {
			return r.absent(t.Table)
		}
		j, err := a.job(t, at, r.target.have[at])
		if err != nil {
			return err
		}
		a.byKey[t.Table] = j
		r.target.jobs = append(r.target.jobs, j)
	}
	return nil
}

// job is a table whose rows come from the archive, to be held against the digest of those
// that were verified.
func (a *archived) job(t ImportTable, at [2]string, have []string) (*tableJob, error) {
	target := &record.Relation{Schema: at[0], Name: at[1]}
	for _, c := range t.columns {
		if !slices.Contains(have, c) {
			return nil, fmt.Errorf("make the schema: %w: table %q has no column %q", ErrArchive, t.Table, c)
		}
		target.Columns = append(target.Columns, record.Column{Name: c})
	}
	gap := ""
	if a.Archive != nil {
		gap = a.Archive.Point.Gaps[at[0]+"."+at[1]]
	}
	return &tableJob{
		plan: TablePlan{Incomplete: gap},
		job:  job{merge: &merge{name: t.Table, digest: t.digest}},
		base: &history.Base{Relation: record.Relation{Name: t.Table}, Bytes: t.Bytes}, target: target, proof: ProofArchive,
	}, nil
}

// rows reads the archive once more, and loads what was verified.
func (a *archived) rows(ctx context.Context, r *run) error {
	writes, err := r.loadsWrite(ctx)
	if err != nil {
		return err
	}
	r.target.startProofs(ctx, r.cancel, writes || a.writes())
	r.progress.Start(PhaseRows, a.Bytes)
	err = r.target.changes(ctx, func(ctx context.Context, row func(*tableJob, []byte) error) error {
		out, err := mspf.Read(ctx, a.File, a.options.Read, func(e mspf.Element) error {
			if e.Item != databaseItem || strings.HasSuffix(e.File, ".json") {
				return nil
			}
			_, line, err := a.row(e)
			if err != nil {
				return err
			}
			r.progress.Add(int64(len(line)) + 1)
			return row(a.byKey[e.Key], line)
		})
		if err == nil && out.SHA256 != a.SHA256 {
			err = fmt.Errorf("%w: it is another one than the archive that was verified", mspf.ErrIntegrity)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, j := range r.target.jobs {
		if err := j.countPages(ctx, r.conn); err != nil {
			return err
		}
		if err := r.target.loader.done(j); err != nil {
			return err
		}
	}
	close(r.target.proofs.tasks)
	return a.setSequences(ctx, r)
}

func (a *archived) setSequences(ctx context.Context, r *run) error {
	rows, err := query(ctx, r.conn, `SELECT n.nspname, c.relname FROM pg_catalog.pg_sequence s
JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`)
	if err != nil {
		return fmt.Errorf("read the target's sequences: %w", err)
	}
	var samples []sample
	for _, row := range rows {
		if s, ok := a.database.Sequences[filedAs(row[0], row[1])]; ok {
			samples = append(samples, sample{record.Sequence{Schema: row[0], Name: row[1], Last: s.Last, Called: s.Called}, true})
		}
	}
	if len(samples) != len(a.database.Sequences) {
		return fmt.Errorf("set the sequences: %w: %d are listed, and its schema made %d of them", ErrArchive, len(a.database.Sequences), len(samples))
	}
	r.report.Sequences, err = setSequences(ctx, r.conn, samples)
	return err
}

func (a *archived) postData(ctx context.Context, r *run) error {
	memory, err := r.sortMemory(ctx)
	if err != nil {
		return err
	}
	if err := a.apply(ctx, r, a.database.DDLAfter, r.target.workers, memory); err != nil {
		return fmt.Errorf("make indexes and constraints: %w", err)
	}
	return r.refresh(ctx)
}

// known: the positions that the archive has, by stream.
func (a *archived) known(_ context.Context, _ *run, restored *synapse.Restored) error {
	restored.Newest = map[string]int64{}
	for _, s := range synapse.Sequences() {
		if v, ok := a.floors[s.Stream]; ok && s.Stream != "" {
			restored.Newest[s.Name] = v
		}
	}
	return nil
}

// writes tells whether a statement may make what writes rows of other tables.
func (a *archived) writes() bool {
	return slices.ContainsFunc(slices.Concat(a.database.DDL, a.database.DDLAfter), func(s string) bool {
		return strings.Contains(s, "MATERIALIZED VIEW ") || strings.Contains(s, "EVENT TRIGGER ")
	})
}

// apply runs statements in order, and keeps those that the target refuses. Builds of
// indexes that follow each other run side by side, on so many sessions.
func (a *archived) apply(ctx context.Context, r *run, statements []string, sessionCount, memory int) error {
	conns, err := sessions(ctx, sessionCount, func(ctx context.Context) (*pgconn.PgConn, error) {
		conn, err := r.db.open(ctx)
		if err == nil {
			err = runSQL(ctx, conn, ofRestore(memory))
		}
		return conn, err
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range conns {
			closeConn(c)
		}
	}()
	statements = slices.DeleteFunc(slices.Clone(statements), func(s string) bool {
		subscription := strings.HasPrefix(s, "CREATE SUBSCRIPTION ") || strings.HasPrefix(s, "ALTER SUBSCRIPTION ") || strings.HasPrefix(s, "COMMENT ON SUBSCRIPTION ")
		if subscription {
			r.note("left out: " + firstLine(s) + ": a restored subscription would begin to copy from its publisher")
		}
		return subscription
	})
	failed := make([]*FailedStatement, len(statements))
	for at := 0; at < len(statements); {
		end := at + 1
		for build(statements[at]) && end < len(statements) && build(statements[end]) {
			end++
		}
		if err := executeAll(ctx, conns, statements[at:end], failed[at:end]); err != nil {
			return err
		}
		at = end
	}
	var refused []FailedStatement
	for _, f := range failed {
		if f != nil {
			refused = append(refused, *f)
		}
	}
	r.report.Failed = append(r.report.Failed, weigh(refused, r.note)...)
	return nil
}

// ofRestore are the settings that pg_restore makes for its statements, beside ours.
func ofRestore(memory int) string {
	sql := "SET check_function_bodies = off"
	if memory > 0 {
		sql += fmt.Sprintf("; SET maintenance_work_mem = '%dMB'", memory)
	}
	return sql
}

// build tells a statement that builds an index and needs nothing but the table.
func build(statement string) bool {
	if strings.HasPrefix(statement, "CREATE INDEX ") || strings.HasPrefix(statement, "CREATE UNIQUE INDEX ") {
		return true
	}
	return strings.HasPrefix(statement, "ALTER TABLE ONLY ") && strings.Contains(statement, " ADD CONSTRAINT ") &&
		(strings.Contains(statement, " PRIMARY KEY (") || strings.Contains(statement, " UNIQUE (")) && !strings.Contains(statement, " FOREIGN KEY ")
}

// executeAll runs statements on all sessions.
func executeAll(ctx context.Context, conns []*pgconn.PgConn, statements []string, failed []*FailedStatement) error {
	work := make(chan int, len(statements))
	for k := range statements {
		work <- k
	}
	close(work)
	g, ctx := errgroup.WithContext(ctx)
	for _, conn := range conns[:min(len(conns), len(statements))] {
		g.Go(func() error {
			for k := range work {
				refused, err := execute(ctx, conn, statements[k])
				if err != nil {
					return err
				}
				failed[k] = refused
			}
			return nil
		})
	}
	return g.Wait()
}

// execute runs one command, in a message that takes no second one, and nothing that
// leaves a transaction open.
func execute(ctx context.Context, conn *pgconn.PgConn, statement string) (*FailedStatement, error) {
	err := conn.ExecParams(ctx, statement, nil, nil, nil, nil).Read().Err
	var pe *pgconn.PgError
	if errors.As(err, &pe) && !conn.IsClosed() {
		text := pe.Message
		if pe.Detail != "" {
			text += "; " + pe.Detail
		}
		return &FailedStatement{Error: text, Statement: statement}, nil
	}
	if err == nil && conn.TxStatus() != 'I' { // what follows would be undone with it
		err = fmt.Errorf("%w: a statement leaves a transaction open", ErrArchive)
	}
	return nil, err
}
