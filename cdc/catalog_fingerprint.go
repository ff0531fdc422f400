package cdc

import (
	"context"
	"fmt"
	"strings"
)

// seen is one catalog of the schema's fingerprint: rows by key and by the
// transaction that wrote them, or by their values where rows change without the
// schema.
type seen struct{ from, key, where string }

// fingerprintParts lists what a schema dump shows. Left out: temporary objects and
// TOAST tables (they come and go with ordinary work), our own publication, and what
// only a superuser may read (user mappings, subscriptions).
func (s *Source) fingerprintParts() []seen {
	by := func(catalog, key string) seen {
		return seen{"pg_catalog." + catalog, key + " || ':' || xmin", "oid >= 16384"}
	}
	of := func(catalog, rel, more string) seen {
		return seen{"pg_catalog." + catalog, rel + "::text || ':' || xmin" + more, rel + " IN (SELECT oid FROM rel)"}
	}
	parts := []seen{
		// TRUNCATE and VACUUM write pg_class rows too, so values instead of xmin.
		{"pg_catalog.pg_class", `row(oid, relname, relnamespace, reltype, reloftype, relowner, relam, reltablespace, relkind, relpersistence,
			relreplident, relrowsecurity, relforcerowsecurity, relispartition, relacl, reloptions, relchecks, relpartbound)::text`, "oid IN (SELECT oid FROM rel)"},
		of("pg_attribute", "attrelid", " || ':' || attnum"),
		of("pg_attrdef", "adrelid", " || ':' || oid"), of("pg_index", "indexrelid", ""), of("pg_trigger", "tgrelid", " || ':' || oid"),
		of("pg_rewrite", "ev_class", " || ':' || oid"), of("pg_policy", "polrelid", " || ':' || oid"), of("pg_sequence", "seqrelid", ""),
		of("pg_inherits", "inhrelid", " || ':' || inhparent"), of("pg_partitioned_table", "partrelid", ""),
		of("pg_foreign_table", "ftrelid", ""), of("pg_statistic_ext", "stxrelid", " || ':' || oid"),
		{"pg_catalog.pg_constraint", "oid || ':' || xmin", "connamespace IN (SELECT oid FROM ns) AND oid >= 16384"},
		{"pg_catalog.pg_type", "oid || ':' || xmin", "typnamespace IN (SELECT oid FROM ns) AND oid >= 16384"},
		{"pg_catalog.pg_namespace", "oid || ':' || xmin", "oid IN (SELECT oid FROM ns)"},
		{"pg_catalog.pg_aggregate", "aggfnoid::oid || ':' || xmin", "aggfnoid::oid >= 16384"},
		{"pg_catalog.pg_range", "rngtypid || ':' || xmin", "rngtypid >= 16384"},
		{"pg_catalog.pg_ts_config_map", "mapcfg || ':' || maptokentype || ':' || mapseqno || ':' || xmin", "mapcfg >= 16384"},
		{
			"pg_catalog.pg_description", "classoid || ':' || objoid || ':' || objsubid || ':' || xmin",
			"(objoid >= 16384 OR classoid = 'pg_catalog.pg_namespace'::regclass) AND classoid <> 'pg_catalog.pg_publication'::regclass",
		},
		{"pg_catalog.pg_seclabel", "classoid || ':' || objoid || ':' || objsubid || ':' || xmin", "true"},
		{
			"pg_catalog.pg_depend", "classid || ':' || objid || ':' || objsubid || ':' || refobjid || ':' || refobjsubid || ':' || deptype::text",
			"deptype IN ('e', 'x') AND objid >= 16384 OR classid = 'pg_catalog.pg_class'::regclass AND deptype IN ('a', 'i') AND objid IN (SELECT oid FROM rel)",
		},
		{"pg_catalog.pg_publication", "oid || ':' || xmin", "pubname <> " + literal(s.cfg.Publication)},
		{"pg_catalog.pg_publication_rel", "oid || ':' || xmin", "prpubid NOT IN (SELECT oid FROM pg_catalog.pg_publication WHERE pubname = " + literal(s.cfg.Publication) + ")"},
		{"pg_catalog.pg_default_acl", "oid || ':' || xmin", "true"},
		{"pg_catalog.pg_extension", "oid || ':' || xmin", "true"},
		{"pg_catalog.pg_event_trigger", "oid || ':' || xmin", "true"},
	}
	for _, c := range []string{
		"pg_proc", "pg_enum", "pg_operator", "pg_opclass", "pg_opfamily", "pg_amop", "pg_amproc", "pg_am", "pg_cast",
		"pg_collation", "pg_conversion", "pg_language", "pg_transform", "pg_ts_config", "pg_ts_dict", "pg_ts_parser", "pg_ts_template",
		"pg_foreign_data_wrapper", "pg_foreign_server",
	} {
		parts = append(parts, by(c, "oid"))
	}
	if s.version >= 150000 {
		parts = append(parts, seen{"pg_catalog.pg_publication_namespace", "oid || ':' || xmin", "true"})
	}
	return parts
}

// schemaFingerprint hashes them at the server, in c's transaction.
func (s *Source) schemaFingerprint(ctx context.Context, c *session) ([32]byte, error) {
	var b strings.Builder
	b.WriteString(`WITH ns AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(temp|toast)' AND nspname <> 'pg_catalog'),
		rel AS (SELECT oid FROM pg_catalog.pg_class WHERE oid >= 16384 AND relpersistence <> 't' AND relkind <> 't' AND relnamespace IN (SELECT oid FROM ns))
		SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(c || ' ' || coalesce(h, ''), E'\n' ORDER BY c COLLATE "C"), 'UTF8')), 'hex') FROM (`)
	for i, p := range s.fingerprintParts() {
		if i > 0 {
			b.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&b, `SELECT %s AS c, pg_catalog.string_agg(k, ',' ORDER BY k COLLATE "C") AS h FROM (SELECT %s AS k FROM %s WHERE %s) x`, literal(p.from), p.key, p.from, p.where)
	}
	b.WriteString(") all_parts")
	r, err := c.one(ctx, b.String())
	if err != nil {
		return [32]byte{}, fmt.Errorf("fingerprint of the schema: %w", err)
	}
	out := r.sha()
	return out, r.err
}

// typesSQL hashes every type that the columns of a table reach, with all that
// decides how its values print.
const typesSQL = `WITH RECURSIVE reach(oid) AS (
	SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
	UNION
	SELECT n.oid FROM reach r JOIN pg_catalog.pg_type t ON t.oid = r.oid CROSS JOIN LATERAL (
		SELECT t.typelem UNION ALL SELECT t.typbasetype
		UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid OR g.rngmultitypid = t.oid
	) n(oid) WHERE n.oid <> 0
), parts(k) AS (
	SELECT 't' || t.oid || ':' || t.xmin FROM pg_catalog.pg_type t JOIN reach USING (oid)
	UNION ALL SELECT 'e' || e.oid || ':' || e.xmin || ':' || e.enumlabel FROM pg_catalog.pg_enum e JOIN reach ON reach.oid = e.enumtypid
	UNION ALL SELECT 'a' || a.attrelid || ':' || a.attnum || ':' || a.xmin FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_type t ON t.typrelid = a.attrelid JOIN reach ON reach.oid = t.oid WHERE a.attnum > 0
	UNION ALL SELECT 'r' || g.rngtypid || ':' || g.xmin FROM pg_catalog.pg_range g JOIN reach ON reach.oid = g.rngtypid
	UNION ALL SELECT 'x' || x.extname || ':' || x.extversion FROM pg_catalog.pg_extension x
		JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = x.oid
			AND d.classid = 'pg_catalog.pg_type'::regclass AND d.deptype = 'e' JOIN reach ON reach.oid = d.objid
)
SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(coalesce(pg_catalog.string_agg(k, ',' ORDER BY k COLLATE "C"), ''), 'UTF8')), 'hex') FROM parts`

// TypeFingerprint covers the types that the table's columns reach: enums and their
// labels, composites and their attributes, domains, ranges, arrays, and the version
// of their extension. Type output ignores snapshots, so it is compared before and
// after a copy (protocol §4).
func (s *Source) TypeFingerprint(ctx context.Context, t Table) (out [32]byte, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *session) (err error) {
		out, err = typeFingerprint(ctx, c, t.Relation.OID)
		return err
	})
	return out, err
}

func typeFingerprint(ctx context.Context, c *session, oid uint32) ([32]byte, error) {
	r, err := c.one(ctx, typesSQL, fmt.Sprint(oid))
	if err != nil {
		return [32]byte{}, fmt.Errorf("fingerprint of types: %w", err)
	}
	out := r.sha()
	return out, r.err
}
