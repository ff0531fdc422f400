package cdc

import (
	"context"
	"fmt"

	"lifeboat.im/lifeboat/record"
)

// checkTables names each table that cannot be captured, each whose identity is
// minimal, those not yet in the publication, and those where FULL costs.
func (s *Source) checkTables(ctx context.Context, r *report) error {
	cat, err := s.Catalog(ctx)
	if err != nil {
		return err
	}
	var captured, outside, unsettled []string
	for i := range cat.Tables {
		t := &cat.Tables[i]
		name := qualified(t.Relation.Schema, t.Relation.Name)
		switch {
		case !t.Capturable:
			r.add("table "+name, notCaptured(t), "it is not captured: "+t.Reason, s.mendTable(t))
			continue
		case !t.InPublication:
			outside = append(outside, name)
		case !t.Settled:
			unsettled = append(unsettled, name)
		default:
			captured = append(captured, name)
		}
		if t.Wanted == record.Minimal {
			r.add("table "+name, Warn, "its replica identity is minimal, because "+t.Why+"; old values are not in the log, and its proof is a new copy alone", "")
		}
	}
	r.add("tables", OK, fmt.Sprintf("%d of %d tables are in the publication with their identity", len(captured), len(cat.Tables)), "")
	if len(outside) > 0 {
		r.add("tables outside", Warn, few(outside)+": not in the publication yet", "lifeboat attach, or let lifeboat run enter them")
	}
	if len(unsettled) > 0 {
		r.add("identities", Warn, few(unsettled)+": somebody changed the replica identity", "lifeboat attach, or let lifeboat run set it")
	}
	return s.ask(ctx, func(ctx context.Context, c *session) error {
		if err := s.checkWidth(ctx, c, cat, r); err != nil {
			return err
		}
		if err := s.checkUnreadable(ctx, c, r); err != nil {
			return err
		}
		return s.checkObjects(ctx, c, r)
	})
}

// notCaptured: what extensions make, or what a crash empties anyway, is expected.
func notCaptured(t *Table) State {
	if t.Left {
		return Warn
	}
	return Fail
}

// mendTable is what makes a table capturable; "" when nothing does.
func (s *Source) mendTable(t *Table) string {
	name := qualified(t.Relation.Schema, t.Relation.Name)
	switch {
	case t.Left:
		return ""
	case !t.Owned:
		return "GRANT " + ident(t.owner) + " TO " + ident(s.parsed.User)
	case t.rls:
		return "ALTER ROLE " + ident(s.parsed.User) + " BYPASSRLS"
	}
	return "ALTER TABLE " + name + " ADD PRIMARY KEY (…)"
}

// widthSQL: average bytes of a row by the statistics, updates since they were
// reset. Only tables that our role may read are in pg_stats.
const widthSQL = `SELECT n.nspname, c.relname, w.width, coalesce(pg_catalog.pg_stat_get_tuples_updated(c.oid), 0),
	coalesce(pg_catalog.pg_stat_get_tuples_deleted(c.oid), 0), coalesce(x.relpages, 0)::int8 * current_setting('block_size')::int8 / greatest(c.reltuples, 1)::int8
FROM (SELECT schemaname, tablename, sum(avg_width)::int8 AS width FROM pg_catalog.pg_stats WHERE NOT inherited GROUP BY 1, 2) w
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schemaname JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.tablename
LEFT JOIN pg_catalog.pg_class x ON x.oid = c.reltoastrelid
WHERE c.relkind = 'r' AND c.oid >= 16384 ORDER BY 1, 2`

const (
	costlyRow     = 8 << 10  // bytes; FULL writes all of it again at each update
	costlyUpdates = 10_000   // updates and deletes since the statistics began
	hugeRow       = 16 << 20 // an average that makes a row over 256 MiB likely
)

// checkWidth finds the tables where FULL costs write-ahead log (protocol §5), and
// those whose rows may be too large for it. Both are guesses from the statistics.
func (s *Source) checkWidth(ctx context.Context, c *session, cat *Catalog, r *report) error {
	rows, err := c.query(ctx, widthSQL)
	if err != nil {
		return err
	}
	for _, x := range rows {
		f := scan(x)
		schema, table, width, updates, deletes, toast := f.text(), f.text(), f.int64(), f.int64(), f.int64(), f.int64()
		if f.err != nil {
			return f.err
		}
		t := cat.Lookup(schema, table)
		if t == nil || !t.Capturable || t.Wanted != record.Full {
			continue
		}
		size := max(width, toast)
		switch name := qualified(schema, table); {
		case size >= hugeRow:
			r.add("table "+name, Warn, fmt.Sprintf("its rows are about %d MiB: an UPDATE or DELETE of one above 256 MiB could fail under REPLICA IDENTITY FULL", size>>20),
				"name it as minimal in the configuration if it holds such rows")
		case size >= costlyRow && updates+deletes >= costlyUpdates:
			r.add("table "+name, Warn, fmt.Sprintf("its rows are about %d KiB and it had %d updates and deletes: REPLICA IDENTITY FULL writes each old row to the write-ahead log", size>>10, updates+deletes),
				"name it as minimal in the configuration if that is too much")
		}
	}
	return nil
}

// checkUnreadable names the relations that pg_dump would lock and may not.
func (s *Source) checkUnreadable(ctx context.Context, c *session, r *report) error {
	rows, err := c.query(ctx, `SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid >= 16384 AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')
		ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	var names []string
	for _, x := range rows {
		f := scan(x)
		names = append(names, qualified(f.text(), f.text()))
	}
	if len(names) > 0 {
		r.add("schema dump", Fail, "pg_dump may not lock "+few(names)+", so no schema can be dumped", "GRANT SELECT ON "+few(names)+" TO "+ident(s.parsed.User))
	}
	return nil
}

// checkObjects names what holds data and is not a table: large objects are not
// decoded (pgoutput), materialised views are made anew.
func (s *Source) checkObjects(ctx context.Context, c *session, r *report) error {
	row, err := c.one(ctx, `SELECT (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata),
		(SELECT count(*) FROM pg_catalog.pg_class WHERE relkind = 'm')`)
	if err != nil {
		return err
	}
	if n := row.int64(); n > 0 {
		r.add("large objects", Fail, fmt.Sprintf("there are %d large objects; logical replication does not bring them, so they are not captured", n), "keep them as bytea columns, or back them up another way")
	}
	if n := row.int64(); n > 0 {
		r.add("materialised views", OK, fmt.Sprintf("%d are not captured; REFRESH MATERIALIZED VIEW makes them again after a restore", n), "")
	}
	return row.err
}
