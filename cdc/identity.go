package cdc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/record"
)

// publication is one row of pg_publication with what it names.
type publication struct {
	oid      uint32
	name     string
	ours     bool
	all      bool
	update   bool
	delete   bool
	viaRoot  bool
	gencols  byte // 's': publishes stored generated columns (18+)
	members  map[uint32]member
	schemas  map[string]bool
	restrict bool   // publish is not all four operations
	owned    bool   // our role has the rights of its owner
	version  string // oid:xmin of its row: who alters it, or drops and makes it again, changes it
}

// member is a table in a publication.
type member struct {
	filter  bool
	columns []int  // attnums; nil: all
	version string // oid:xmin of its row
}

// readPublications reads every publication of the database.
func (s *Source) readPublications(ctx context.Context, c *session) ([]publication, error) {
	gencols, filter, columns := "'n'", "false", "''"
	if s.version >= 180000 {
		gencols = "p.pubgencols"
	}
	if s.version >= 150000 {
		filter, columns = "r.prqual IS NOT NULL", "coalesce(r.prattrs::text, '')"
	}
	rows, err := c.query(ctx, `SELECT p.oid, p.pubname, p.puballtables, p.pubupdate, p.pubdelete, p.pubinsert AND p.pubtruncate,
		p.pubviaroot, `+gencols+`, pg_catalog.pg_has_role(p.pubowner, 'USAGE'), p.oid || ':' || p.xmin FROM pg_catalog.pg_publication p ORDER BY p.oid`)
	if err != nil {
		return nil, err
	}
	var out []publication
	for _, row := range rows {
		r := scan(row)
		p := publication{oid: r.oid(), name: r.text(), all: r.bool(), update: r.bool(), delete: r.bool(), members: map[uint32]member{}, schemas: map[string]bool{}}
		p.restrict = !r.bool() || !p.update || !p.delete
		p.viaRoot, p.gencols, p.owned, p.version = r.bool(), r.byte(), r.bool(), r.text()
		p.ours = p.name == s.cfg.Publication
		if r.err != nil {
			return nil, r.err
		}
		out = append(out, p)
	}
	return out, s.readMembers(ctx, c, out, filter, columns)
}

// readMembers fills the tables and schemas of publications; filter and columns are
// expressions of pg_publication_rel that the server's version has.
func (s *Source) readMembers(ctx context.Context, c *session, pubs []publication, filter, columns string) error {
	find := map[uint32]*publication{}
	for i := range pubs {
		find[pubs[i].oid] = &pubs[i]
	}
	rows, err := c.query(ctx, "SELECT r.prpubid, r.prrelid, "+filter+", "+columns+", r.oid || ':' || r.xmin FROM pg_catalog.pg_publication_rel r")
	if err != nil {
		return err
	}
	for _, row := range rows {
		r := scan(row)
		p, rel, m := find[r.oid()], r.oid(), member{filter: r.bool(), columns: r.ints(), version: r.text()}
		if r.err != nil {
			return r.err
		}
		if p != nil {
			p.members[rel] = m
		}
	}
	if s.version < 150000 {
		return nil
	}
	rows, err = c.query(ctx, `SELECT r.pnpubid, n.nspname FROM pg_catalog.pg_publication_namespace r
		JOIN pg_catalog.pg_namespace n ON n.oid = r.pnnspid`)
	if err != nil {
		return err
	}
	for _, row := range rows {
		r := scan(row)
		if p := find[r.oid()]; p != nil {
			p.schemas[r.text()] = true
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

// publishes reports whether p sends changes of the table.
func (p *publication) publishes(f *facts) bool {
	if p.all || p.schemas[f.schema] {
		return true
	}
	for _, oid := range append([]uint32{f.oid}, f.parents...) {
		if _, in := p.members[oid]; in {
			return true
		}
	}
	// The schema of an ancestor publishes its partitions too; which schema that is,
	// facts does not say.
	return f.partition && len(p.schemas) > 0
}

// decide fills Wanted, Why, WantedIndex, Settled, InPublication, Capturable and
// Reason (protocol §5).
func (s *Source) decide(t *Table, f *facts, pubs []publication) {
	for i := range pubs {
		m, in := pubs[i].members[f.oid]
		if pubs[i].ours && in && !m.filter && m.columns == nil && s.drift(&pubs[i]) == "" {
			t.InPublication, t.Member = true, pubs[i].version+" "+m.version
		}
	}
	t.Wanted, t.Capturable, t.Huge = record.Full, true, s.huge.has(f.oid)
	if t.Why = s.unsafe(f, pubs); t.Why != "" {
		t.Wanted = record.Minimal
	}
	t.Relation.Identity = t.Wanted
	t.owner, t.rls = f.owner, f.forcedRLS
	t.Left = f.kind == 'f' || f.persistence == 'u' || f.extension != ""
	if t.Reason = s.excluded(t, f); t.Reason != "" {
		t.Capturable = false
		return
	}
	if t.Wanted == record.Full {
		t.Settled = t.Replident == 'f'
		return
	}
	x, standing := f.minimal(t.Replident, pubs)
	switch {
	case x == nil:
		t.Capturable = false
		t.Reason = "REPLICA IDENTITY FULL could make a statement fail (" + t.Why + "), and no key can take its place: " +
			"it needs a primary key, or a unique index on NOT NULL columns, that is not deferrable"
	case standing:
		t.Settled = true
	case !x.primary:
		t.WantedIndex = x.name
	}
	if x != nil {
		// Old rows hold the columns of the identity only: a key of others, even the
		// primary one, would not be in them.
		if key := f.stored(x); key != nil {
			t.Relation.Key = key
		}
	}
	if x != nil && standing && t.Replident == 'i' {
		t.WantedIndex = x.name
	}
}

// unsafe says why FULL could make a statement of the application fail; "" when it
// cannot. PostgreSQL: CheckCmdReplicaIdentity (src/backend/executor/execReplication.c)
// and RelationBuildPublicationDesc (src/backend/utils/cache/relcache.c).
func (s *Source) unsafe(f *facts, pubs []publication) string {
	var stored bool
	for i := range f.attributes {
		switch a := &f.attributes[i]; {
		case a.dropped:
		case a.generated == 'v':
			return fmt.Sprintf("column %s is a virtual generated column", ident(a.name))
		case a.generated == 's':
			stored = true
		}
	}
	for i := range pubs {
		p := &pubs[i]
		if p.ours {
			continue
		}
		for _, oid := range append([]uint32{f.oid}, f.parents...) {
			m, in := p.members[oid]
			switch {
			case !in:
			case m.columns != nil:
				return fmt.Sprintf("publication %s has a column list for it", ident(p.name))
			case m.filter:
				return fmt.Sprintf("publication %s has a row filter for it", ident(p.name))
			}
		}
		if stored && s.version >= 180000 && p.gencols != 's' && (p.update || p.delete) && p.publishes(f) {
			return fmt.Sprintf("it has a stored generated column, which publication %s leaves out", ident(p.name))
		}
	}
	if s.huge.has(f.oid) {
		return "it holds rows over 256 MiB"
	}
	if s.cfg.Minimal != nil {
		return s.cfg.Minimal(f.schema, f.name)
	}
	return ""
}

// minimal gives the index of a minimal identity, and whether the present identity
// is it already: what the server itself takes (RelationGetIndexList,
// src/backend/utils/cache/relcache.c), else the primary key, else the smallest
// usable unique index that lies within every column list.
func (f *facts) minimal(replident byte, pubs []publication) (x *index, standing bool) {
	var best *index
	for i := range f.indexes {
		x := &f.indexes[i]
		if !x.valid || !x.immediate {
			continue
		}
		if replident == 'd' && x.primary || replident == 'i' && x.replident {
			return x, true
		}
		if !f.unique(x) || !f.listed(x, pubs) {
			continue
		}
		if best == nil || x.primary || !best.primary && len(x.columns) < len(best.columns) {
			best = x
		}
	}
	return best, false
}

// listed reports whether every column list of another publication covers x.
func (f *facts) listed(x *index, pubs []publication) bool {
	for i := range pubs {
		m, in := pubs[i].members[f.oid]
		if pubs[i].ours || !in || m.columns == nil {
			continue
		}
		for _, c := range x.columns {
			if !slices.Contains(m.columns, c) {
				return false
			}
		}
	}
	return true
}

// excluded says why a table cannot enter whatever its identity.
func (s *Source) excluded(t *Table, f *facts) string {
	switch {
	case f.kind == 'f':
		return "it is a foreign table: its rows are another server's"
	case f.persistence == 'u':
		return "it is unlogged: its changes are not in the write-ahead log, and a crash empties it"
	case f.config:
		return "it is a configuration table of extension " + ident(f.extension) + ", which makes it at restore; its added rows are not captured"
	case f.extension != "":
		return "it belongs to extension " + ident(f.extension) + ", which makes it at restore"
	case !t.Owned:
		return "it is owned by role " + ident(f.owner) + ", of which our role is not a member"
	case f.forcedRLS:
		return "it forces row level security on its owner, so a copy would not see every row (give our role BYPASSRLS)"
	}
	return ""
}

// identitySQL is the clause that sets an identity; "" for 'd' means DEFAULT.
func identitySQL(kind byte, index string) (string, error) {
	switch kind {
	case 'd':
		return "REPLICA IDENTITY DEFAULT", nil
	case 'n':
		return "REPLICA IDENTITY NOTHING", nil
	case 'f':
		return "REPLICA IDENTITY FULL", nil
	case 'i':
		if index == "" {
			return "", fmt.Errorf("replica identity by index: no index named")
		}
		return "REPLICA IDENTITY USING INDEX " + ident(index), nil
	}
	return "", fmt.Errorf("replica identity %q: want d, n, f or i", strings.TrimSpace(string(kind)))
}

// clause is what brings the table to its wanted identity; "" when it stands.
func (t *Table) clause() string {
	var sql string
	switch {
	case t.Settled:
		return ""
	case t.Wanted == record.Full:
		sql, _ = identitySQL('f', "")
	case t.WantedIndex != "":
		sql, _ = identitySQL('i', t.WantedIndex)
	default:
		sql, _ = identitySQL('d', "")
	}
	return sql
}
