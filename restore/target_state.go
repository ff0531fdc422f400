package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/history"
)

// foreign lists what a database holds that is neither the system's nor an
// extension's: tables, types, functions, schemas, publications, event triggers,
// large objects. Whoever may not read all of pg_catalog sees an error, not less.
const foreign = `WITH ext AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
ns AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
found(what, classid, objid) AS (
 SELECT CASE c.relkind WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view ' WHEN 'c' THEN 'type ' ELSE 'table ' END || n.nspname || '.' || c.relname, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
   FROM pg_catalog.pg_class c JOIN ns n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
 UNION ALL SELECT 'function ' || n.nspname || '.' || p.proname, 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid
   FROM pg_catalog.pg_proc p JOIN ns n ON n.oid = p.pronamespace
 UNION ALL SELECT 'type ' || n.nspname || '.' || t.typname, 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid
   FROM pg_catalog.pg_type t JOIN ns n ON n.oid = t.typnamespace WHERE t.typrelid = 0 AND t.typelem = 0
 UNION ALL SELECT 'schema ' || nspname, 'pg_catalog.pg_namespace'::pg_catalog.regclass, oid FROM ns WHERE nspname <> 'public'
 UNION ALL SELECT 'publication ' || pubname, 'pg_catalog.pg_publication'::pg_catalog.regclass, oid FROM pg_catalog.pg_publication
 UNION ALL SELECT 'event trigger ' || evtname, 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid FROM pg_catalog.pg_event_trigger
 UNION ALL SELECT 'large object ' || oid, 'pg_catalog.pg_largeobject'::pg_catalog.regclass, oid FROM pg_catalog.pg_largeobject_metadata)
SELECT what FROM found f WHERE NOT EXISTS (SELECT FROM ext e WHERE e.classid = f.classid AND e.objid = f.objid) ORDER BY what LIMIT 4`

// claim is what a target is marked with.
type claim struct {
	lineage string // "" when no log is known
	what    string // "restore to …"
	point   string
	plan    string // for people
	// startOver takes back what is unfinished in the target.
	startOver bool
}

// claim makes sure that the target is empty (P1) and marks it as unfinished (P3).
// A crash right after it leaves the marks and nothing else.
func (d *database) claim(ctx context.Context, conn *pgconn.PgConn, c claim) (notes []string, err error) {
	unfinished, err := d.refuse(ctx, conn, c.startOver)
	if err == nil && unfinished {
		if err = d.takeBack(ctx, conn); err == nil {
			err = d.nothingIn(ctx, conn)
		}
	}
	if err != nil {
		return nil, err
	}
	err = runSQL(ctx, conn, `BEGIN; CREATE SCHEMA lifeboat;
CREATE TABLE lifeboat.restore_state (started timestamptz, lineage text, point text, phase text, plan text, extensions text[], database_comment text);
INSERT INTO lifeboat.restore_state SELECT pg_catalog.now(), `+literal(c.lineage)+`, `+literal(c.point)+`, 'begun', `+literal(c.plan)+`,
 ARRAY(SELECT extname::text FROM pg_catalog.pg_extension), pg_catalog.shobj_description((SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()), 'pg_database');
COMMIT`)
	if err != nil {
		return nil, fmt.Errorf("mark the target as unfinished: %w", err)
	}
	err = runSQL(ctx, conn, "COMMENT ON DATABASE "+ident(d.name)+" IS "+
		literal("UNFINISHED Lifeboat "+c.what+": do not use; see lifeboat.restore_state"))
	if err != nil {
		notes = append(notes, fmt.Sprintf("the database has no comment that says it is unfinished, only lifeboat.restore_state: %v", err))
	}
	return notes, nil
}

// refuse says why nothing may be restored into the target, and changes nothing;
// unfinished: an earlier restore of ours is in it, which is to be taken back.
func (d *database) refuse(ctx context.Context, conn *pgconn.PgConn, startOver bool) (unfinished bool, err error) {
	rows, err := query(ctx, conn, "SELECT pg_catalog.to_regclass('lifeboat.restore_state') IS NOT NULL")
	if err != nil {
		return false, fmt.Errorf("look into the target: %w", err)
	}
	if rows[0][0] != "t" {
		return false, d.nothingIn(ctx, conn)
	}
	rows, err = query(ctx, conn, "SELECT started, point, phase FROM lifeboat.restore_state")
	switch {
	case err != nil:
		return true, fmt.Errorf("read the state of the unfinished restore: %w", err)
	case len(rows) != 1:
		return true, fmt.Errorf("restore into database %s: %w: it has a lifeboat.restore_state that is not ours", d.name, ErrNotEmpty)
	case !startOver:
		return true, fmt.Errorf("restore into database %s: %w to %s (begun %s, reached: %s); drop it and begin again with --start-over, or drop the database",
			d.name, ErrUnfinished, rows[0][1], rows[0][0], rows[0][2])
	}
	return true, nil
}

// nothingIn refuses a database that holds anything.
func (d *database) nothingIn(ctx context.Context, conn *pgconn.PgConn) error {
	rows, err := query(ctx, conn, foreign)
	if err != nil {
		return fmt.Errorf("look into the target: %w", err)
	}
	var what []string
	for i, r := range rows {
		if i == 3 {
			what = append(what, "…")
			break
		}
		what = append(what, r[0])
	}
	if len(what) == 0 {
		return nil
	}
	return fmt.Errorf("restore into database %s: %w: it has %s; make a new one (createdb) and restore into that", d.name, ErrNotEmpty, strings.Join(what, ", "))
}

// takeBack drops what an unfinished restore of ours made. The database was empty
// when it began, so all that is in it is ours, except the extensions it notes.
func (d *database) takeBack(ctx context.Context, conn *pgconn.PgConn) error {
	// The state table goes last, so that a crash in between is a claim like any other.
	for {
		rows, err := query(ctx, conn, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lifeboat')
AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e') LIMIT 50`)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		var names []string // in batches: a DROP holds a lock for each
		for _, r := range rows {
			names = append(names, r[0])
		}
		if err := runSQL(ctx, conn, "DROP TABLE IF EXISTS "+strings.Join(names, ", ")+" CASCADE"); err != nil {
			return fmt.Errorf("drop the tables of the unfinished restore: %w", err)
		}
	}
	rows, err := query(ctx, conn, `SELECT pg_catalog.format('DROP EVENT TRIGGER IF EXISTS %I CASCADE', evtname) FROM pg_catalog.pg_event_trigger
UNION ALL SELECT pg_catalog.format('DROP PUBLICATION IF EXISTS %I', pubname) FROM pg_catalog.pg_publication
UNION ALL SELECT pg_catalog.format('DROP EXTENSION IF EXISTS %I CASCADE', extname) FROM pg_catalog.pg_extension
  WHERE NOT EXISTS (SELECT FROM lifeboat.restore_state WHERE extname::text = ANY (extensions))
UNION ALL SELECT pg_catalog.format('DROP SCHEMA IF EXISTS %I CASCADE', n.nspname) FROM pg_catalog.pg_namespace n
  WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'lifeboat')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND e.refobjid = n.oid
     AND e.classid = 'pg_catalog.pg_extension'::pg_catalog.regclass)`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := runSQL(ctx, conn, r[0]); err != nil {
			return fmt.Errorf("drop the objects of the unfinished restore: %w", err)
		}
	}
	public := "CREATE SCHEMA IF NOT EXISTS public; GRANT USAGE ON SCHEMA public TO PUBLIC;"
	if d.version < 150000 {
		public += "GRANT CREATE ON SCHEMA public TO PUBLIC;"
	} else {
		public += "ALTER SCHEMA public OWNER TO pg_database_owner;"
	}
	public += "COMMENT ON SCHEMA public IS 'standard public schema'"
	if err := runSQL(ctx, conn, public); err != nil {
		var pe *pgconn.PgError
		if !errors.As(err, &pe) {
			return err
		}
	}
	return runSQL(ctx, conn, d.unmark())
}

// unmark is the statement that ends the unfinished state, comment and all.
func (d *database) unmark() string {
	return `DO $$ DECLARE old text; BEGIN
 SELECT database_comment INTO old FROM lifeboat.restore_state;
 BEGIN EXECUTE pg_catalog.format('COMMENT ON DATABASE %I IS %L', pg_catalog.current_database(), old);
 EXCEPTION WHEN insufficient_privilege THEN NULL; END;
 DROP TABLE lifeboat.restore_state; DROP SCHEMA lifeboat;
END $$`
}

// phase notes how far the restore is, for whoever finds the database.
func (d *database) phase(ctx context.Context, conn *pgconn.PgConn, p Phase) error {
	return runSQL(ctx, conn, "UPDATE lifeboat.restore_state SET phase = "+literal(string(p)))
}

// finish takes the marks away (P3), and leaves in the comment where the rows come
// from: whoever adopts the database reads it there. It waits for the disk: a crash
// right after leaves a restore that is whole.
func (d *database) finish(ctx context.Context, conn *pgconn.PgConn, from *history.Parent) error {
	rows, err := query(ctx, conn, "SET synchronous_commit = on; SELECT database_comment FROM lifeboat.restore_state")
	if err != nil {
		return fmt.Errorf("read the target's comment: %w", err)
	}
	old := ""
	if len(rows) == 1 {
		old = rows[0][0]
	}
	trace := ""
	if from != nil {
		trace = "UPDATE lifeboat.restore_state SET database_comment = " + literal(history.WithTrace(old, *from)) + "; "
	}
	if err := runSQL(ctx, conn, trace+d.unmark()); err != nil {
		return fmt.Errorf("mark the target as finished: %w", err)
	}
	return nil
}
