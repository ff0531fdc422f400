package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/synapse"
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
	if err := db.admit(ctx, admission{startOver: p.options.StartOver, anyLocale: p.options.AnyLocale, homeserver: p.Mode != synapse.Raw && p.homeserver()}); err != nil {
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
	m := &planned{Plan: p, schema: schema, loader: newLoader(p, s, pr)}
	target := &copier{loader: m.loader, db: db}
	m.loader.sink = target
	report.Notes = append(report.Notes, p.Notes...)
	r := &run{origin: m, db: db, conn: conn, target: target, report: report, progress: pr, now: p.now}
	err = r.all(ctx)
	report.Notes = append(report.Notes, schema.notes...)
	report.Rounds = m.loader.rounds
	for _, i := range p.Incomplete {
		report.Notes = append(report.Notes, fmt.Sprintf("table %s is not exact: %s", i.Table, i.Reason))
	}
	return report, err
}

// planned is a plan that becomes a database.
type planned struct {
	*Plan
	schema *dump
	loader *loader
}

func (m *planned) claim() claim {
	return claim{lineage: m.Lineage, what: "restore to " + m.Point.String(), point: m.Point.String(), plan: m.String(), startOver: m.options.StartOver}
}

func (m *planned) parent() *history.Parent { return &history.Parent{ID: m.view.ID, At: m.Point.LSN} }

func (m *planned) preData(ctx context.Context, r *run) error {
	if err := m.schema.checkOwners(ctx, r.conn); err != nil {
		return fmt.Errorf("look for the owners' roles: %w", err)
	}
	failed, err := m.schema.apply(ctx, "pre-data", 1)
	if err != nil {
		return fmt.Errorf("make the schema: %w", err)
	}
	r.report.Failed = append(r.report.Failed, failed...)
	if err := r.tables(ctx); err != nil {
		return err
	}
	for _, t := range m.Tables {
		schema, name := m.loader.nameOf(t)
		if _, ok := r.target.columns(schema, name); !ok {
			return r.absent(t.Table)
		}
	}
	return nil
}

func (m *planned) rows(ctx context.Context, r *run) error {
	if err := m.loader.prepare(ctx); err != nil {
		return err
	}
	writes, err := r.loadsWrite(ctx)
	if err != nil {
		return err
	}
	r.target.startProofs(ctx, r.cancel, writes || m.schema.writes)
	if err := m.loader.load(ctx); err != nil {
		return err
	}
	close(r.target.proofs.tasks)
	if len(m.options.Only) > 0 { // their samples lie all over the log; the plan says so
		return nil
	}
	samples, err := m.sequences(ctx)
	if err != nil {
		return err
	}
	r.report.Sequences, err = setSequences(ctx, r.conn, samples)
	return err
}

// postData makes indexes, constraints and triggers, then undoes what we had
// changed at the source, then fills the materialised views.
func (m *planned) postData(ctx context.Context, r *run) (err error) {
	if m.schema.sortMemory, err = r.sortMemory(ctx); err != nil {
		return err
	}
	failed, err := m.schema.apply(ctx, "post-data", r.target.workers)
	if err != nil {
		return fmt.Errorf("make indexes and constraints: %w", err)
	}
	r.report.Failed = append(r.report.Failed, failed...)
	if err := m.identities(ctx, r); err != nil {
		return err
	}
	return r.refresh(ctx)
}

// identities puts the replica identities back to what they were before attach.
func (m *planned) identities(ctx context.Context, r *run) error {
	rows, err := query(ctx, r.conn, `SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relreplident = 'f' AND n.nspname !~ '^pg_'`)
	if err != nil {
		return fmt.Errorf("read the target's replica identities: %w", err)
	}
	full := map[string]bool{}
	for _, row := range rows {
		full[ident(row[0], row[1])] = true
	}
	for name, c := range m.identitiesBefore() {
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
