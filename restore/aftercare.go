package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// StepReport is what became of one step of the aftercare.
type StepReport struct {
	Name string `json:"name"`
	Why  string `json:"why"`
	// Rows is how many rows were changed, or found by a step that only looks.
	Rows int64 `json:"rows"`
	// Columns and Details list them, where the step says which.
	Columns []string   `json:"columns,omitempty"`
	Details [][]string `json:"details,omitempty"`
	// Heed: a person should read it.
	Heed bool `json:"heed,omitempty"`
}

// maxDetails bounds the rows that a step's report lists.
const maxDetails = 1000

// chooseMode gives the mode of a plan: the one that is asked for, if it fits.
func chooseMode(schema *history.Schema, p Point, o Options) (synapse.Mode, error) {
	m, err := modeOf(o.Mode, len(o.Only) == 0 && isSynapse(schema))
	if err == nil && m == synapse.Move && !p.Newest {
		return "", fmt.Errorf("mode move: %w: a move is for the point at which the old server was stopped, and there are later commits than %s, which would be lost; "+
			"--at latest moves, --mode rollback goes back", ErrNotNewest, p)
	}
	return m, err
}

// modeOf gives the mode that was asked for, or the one that fits the database.
func modeOf(asked synapse.Mode, homeserver bool) (synapse.Mode, error) {
	switch {
	case asked == "" && homeserver:
		return synapse.Rollback, nil
	case asked == "":
		return synapse.Raw, nil
	case asked == synapse.Rollback && !homeserver:
		return "", fmt.Errorf("%w: a rollback does to the rows what a Synapse needs, and the tables are not a Synapse's; raw takes them as they were", ErrMode)
	}
	return asked, nil
}

func isSynapse(schema *history.Schema) bool {
	return synapse.Detect(func(schemaName, table string) bool {
		return slices.ContainsFunc(schema.Tables, func(t history.SchemaTable) bool { return t.Schema == schemaName && t.Name == table })
	})
}

// aliveElsewhere refuses to move a branch when the server went on as another one: what
// that one handed out would be handed out again.
func aliveElsewhere(v *history.View, family []*history.View, damaged []Damaged) error {
	for _, o := range family {
		if o.ID != v.ID && o.DurableTime > v.DurableTime {
			return fmt.Errorf("mode move: %w: the database went on as the branch %s (until %s); --lineage %s --at latest moves that one, --mode rollback goes back",
				ErrNotNewest, o.ID, o.DurableTime, o.ID)
		}
	}
	if len(damaged) > 0 {
		return fmt.Errorf("mode move: whether the database went on as another branch is not known: %s: %w; --mode rollback goes on", damaged[0].ID, damaged[0].Err)
	}
	return nil
}

// after does to the proven rows what the mode asks for, in one transaction. A crash
// in it, or right after it, leaves a restore that is visibly unfinished (P3).
func (r *run) after(ctx context.Context) error {
	if r.report.Mode != synapse.Rollback {
		return nil
	}
	began := r.now()
	if err := r.db.phase(ctx, r.conn, PhaseAfter); err != nil {
		return fmt.Errorf("note the phase in the target: %w", err)
	}
	r.progress.Start(PhaseAfter, 0)
	steps, err := r.aftercare(ctx)
	if err != nil {
		return fmt.Errorf("prepare the aftercare: %w", err)
	}
	if err := r.steps(ctx, steps); err != nil {
		return errors.Join(err, runSQL(ctx, r.conn, "ROLLBACK"))
	}
	r.report.Took[PhaseAfter] = r.now().Sub(began)
	return nil
}

// aftercare gathers what the steps depend on.
func (r *run) aftercare(ctx context.Context) ([]synapse.Step, error) {
	restored, err := r.restored(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.origin.known(ctx, r, &restored); err != nil {
		return nil, err
	}
	return synapse.Aftercare(r.report.Mode, restored), nil
}

// known reads the records after the point, and with them makes the loss report.
func (m *planned) known(ctx context.Context, r *run, restored *synapse.Restored) (err error) {
	name := ""
	if restored.HasUsers() {
		rows, err := query(ctx, r.conn, synapse.NameSQL)
		if err != nil {
			return err
		}
		if len(rows) > 0 {
			name = synapse.Domain(rows[0][0])
		}
	}
	since, err := m.since(ctx, name, r.progress.Add)
	if err != nil {
		return err
	}
	if name != "" && restored.CanShare() {
		rows, err := query(ctx, r.conn, synapse.SharedSQL(name))
		if err != nil {
			return err
		}
		rooms := make([]string, len(rows))
		for i, row := range rows {
			rooms[i] = row[0]
		}
		since.Held(rooms)
	}
	r.report.Loss = since.Loss()
	restored.DelayedGone = since.DelayedGone()
	if restored.Newest, err = m.handedOut(ctx, restored.Descends); err != nil {
		return err
	}
	for name, v := range since.Newest() {
		if have, ok := restored.Newest[name]; !ok || v > have {
			restored.Newest[name] = v
		}
	}
	return nil
}

// restored reads the target's catalog.
func (r *run) restored(ctx context.Context) (out synapse.Restored, err error) {
	out.Columns, out.ReferencedBy, out.Descends = map[string][]string{}, map[string][]string{}, map[string]bool{}
	rows, err := query(ctx, r.conn, `SELECT c.relkind, c.relname, a.attname FROM pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::pg_catalog.regnamespace AND c.relkind IN ('r', 'p', 'S') ORDER BY c.relname, a.attnum`)
	if err != nil {
		return out, err
	}
	for _, row := range rows {
		if row[0] != "S" {
			out.Columns[row[1]] = append(out.Columns[row[1]], row[2])
		} else if !slices.Contains(out.Sequences, row[1]) {
			out.Sequences = append(out.Sequences, row[1])
		}
	}
	rows, err = query(ctx, r.conn, `SELECT c.relname FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
WHERE s.seqincrement < 0 AND c.relnamespace = 'public'::pg_catalog.regnamespace`)
	if err != nil {
		return out, err
	}
	for _, row := range rows {
		out.Descends[row[0]] = true
	}
	rows, err = query(ctx, r.conn, `SELECT DISTINCT f.relname, CASE WHEN n.nspname = 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class f ON f.oid = k.confrelid JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE k.contype = 'f' AND f.relnamespace = 'public'::pg_catalog.regnamespace`)
	for _, row := range rows {
		out.ReferencedBy[row[0]] = append(out.ReferencedBy[row[0]], row[1])
	}
	return out, err
}

// handedOut gives, by name, the farthest value in a sequence's direction that any
// sample of it has, in this lineage and in its family, at any time: one may have been
// set back since. Sequences are those of schema public.
func (p *Plan) handedOut(ctx context.Context, descends map[string]bool) (map[string]int64, error) {
	out := map[string]int64{}
	family := slices.DeleteFunc(slices.Clone(p.options.Family), func(v *history.View) bool { return v.ID == p.view.ID })
	for _, v := range append(family, p.view) {
		err := v.Samples(ctx, func(s record.Sequence) {
			have, ok := out[s.Name]
			if s.Schema == "public" && (!ok || s.Last > have != descends[s.Name]) {
				out[s.Name] = s.Last
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read the sequences of %s: %w", v.ID, err)
		}
	}
	return out, nil
}

// steps runs the steps as one transaction.
func (r *run) steps(ctx context.Context, steps []synapse.Step) error {
	if err := runSQL(ctx, r.conn, "BEGIN"); err != nil {
		return err
	}
	for _, s := range steps {
		report := StepReport{Name: s.Name, Why: s.Why, Columns: s.Columns, Heed: s.Heed}
		if s.SQL != "" {
			if err := r.step(ctx, s, &report); err != nil {
				return fmt.Errorf("aftercare, %s: %w", s.Name, err)
			}
		}
		r.report.Aftercare = append(r.report.Aftercare, report)
	}
	return runSQL(ctx, r.conn, "COMMIT")
}

func (r *run) step(ctx context.Context, s synapse.Step, report *StepReport) error {
	results := r.conn.Exec(ctx, s.SQL)
	for results.NextResult() {
		rows := results.ResultReader()
		listed := int64(0)
		for rows.NextRow() {
			listed++
			if s.Columns == nil || len(report.Details) >= maxDetails {
				continue
			}
			detail := make([]string, len(rows.Values()))
			for i, v := range rows.Values() {
				detail[i] = string(v)
			}
			report.Details = append(report.Details, detail)
		}
		tag, err := rows.Close()
		if err != nil {
			return errors.Join(err, results.Close())
		}
		report.Rows += changed(tag, listed)
	}
	return results.Close()
}

// changed counts the rows that a statement changed, or gave.
func changed(tag pgconn.CommandTag, listed int64) int64 { return max(tag.RowsAffected(), listed) }
