package restore

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// matcher finds rows of one relation.
type matcher struct {
	needles [][]byte // fields as COPY text, any of them
	columns []bool   // which columns may hold one; nil: every row counts
}

// line reports whether a line, inline or in extents, has one of the needles in one of
// the columns.
func (m *matcher) line(ctx context.Context, v *history.View, l record.Line) (bool, error) {
	if len(l.Extents) == 0 {
		return m.match(l.Text), nil
	}
	// A long line goes by in pieces; of each field only the beginning is kept.
	longest := 0
	for _, n := range m.needles {
		longest = max(longest, len(n))
	}
	var field []byte
	column := 0
	for _, e := range l.Extents {
		b, err := v.Bytes(ctx, []record.Extent{e})
		if err != nil {
			return false, err
		}
		for {
			end := bytes.IndexByte(b, '\t')
			part := b
			if end >= 0 {
				part = b[:end]
			}
			field = append(field, part[:min(len(part), longest+1-len(field))]...)
			if end < 0 {
				break
			}
			if m.is(column, field) {
				return true, nil
			}
			field, b, column = field[:0], b[end+1:], column+1
		}
	}
	return m.is(column, field), nil
}

func (m *matcher) is(column int, field []byte) bool {
	return column < len(m.columns) && m.columns[column] && slices.ContainsFunc(m.needles, func(n []byte) bool { return bytes.Equal(n, field) })
}

// match looks for the needles' bytes first: most lines have none of them.
func (m *matcher) match(line []byte) bool {
	for _, n := range m.needles {
		for at := 0; ; at++ {
			i := bytes.Index(line[at:], n)
			if i < 0 {
				break
			}
			at += i
			end := at + len(n)
			if (at > 0 && line[at-1] != '\t') || (end < len(line) && line[end] != '\t') {
				continue
			}
			if c := bytes.Count(line[:at], []byte{'\t'}); c < len(m.columns) && m.columns[c] {
				return true
			}
		}
	}
	return false
}

// maxMatchers bounds what is kept: each segment brings relations of its own.
const maxMatchers = 4096

// matcher gives that of a relation; nil when no row of it is looked for.
func (f *finder) matcher(rel *record.Relation) *matcher {
	if m, ok := f.matchers[rel]; ok {
		return m
	}
	if len(f.matchers) >= maxMatchers {
		clear(f.matchers)
	}
	m := f.compile(rel)
	f.matchers[rel] = m
	return m
}

func (f *finder) compile(rel *record.Relation) *matcher {
	if f.o.Element == 0 {
		if named(rel.String(), f.o.Table) {
			return &matcher{}
		}
		return nil
	}
	var m *matcher
	for _, name := range f.o.Element.Columns(rel.Name) {
		i := slices.IndexFunc(rel.Columns, func(c record.Column) bool { return c.Name == name })
		if i < 0 {
			continue
		}
		if m == nil {
			m = &matcher{needles: f.needles, columns: make([]bool, len(rel.Columns))}
		}
		m.columns[i] = true
	}
	return m
}

// named reports whether a table's full name is meant by a name with or without a
// schema.
func named(full, name string) bool {
	return full == name || strings.HasSuffix(full, "."+name)
}

// aim prepares the search: which tables have to be read, and for which bytes.
func (f *finder) aim(ctx context.Context) error {
	names, err := tableNames(ctx, f.v)
	if err != nil {
		return err
	}
	wanted := func(name string) bool { return named(name, f.o.Table) }
	if f.o.Element != 0 {
		if err := f.aimElement(ctx); err != nil {
			return err
		}
		wanted = func(name string) bool {
			_, table, _ := strings.Cut(name, ".")
			return len(f.o.Element.Columns(table)) > 0
		}
	}
	any := false
	skip := map[uint32]bool{}
	for oid, list := range names {
		skip[oid] = !slices.ContainsFunc(list, wanted)
		any = any || !skip[oid]
	}
	if !any && f.o.Element == 0 {
		return fmt.Errorf("%w: of %d tables none is named %s", ErrNoTable, len(names), f.o.Table)
	}
	// A table that no copy and no schema names was gone before either: look at it.
	f.want = func(oid uint32) bool { return !skip[oid] }
	return nil
}

// tableNames gives every name that a table had, by oid.
func tableNames(ctx context.Context, v *history.View) (map[uint32][]string, error) {
	names := map[uint32][]string{}
	add := func(oid uint32, name string) {
		if !slices.Contains(names[oid], name) {
			names[oid] = append(names[oid], name)
		}
	}
	for _, b := range v.Bases {
		add(b.Table, b.Name)
	}
	for _, d := range v.Dropped {
		add(d.Table, d.Name)
	}
	for _, info := range v.Schemas {
		s, err := v.Schema(ctx, info)
		if err != nil {
			return nil, err
		}
		for _, t := range s.Tables {
			if t.Captured {
				add(t.OID, t.Schema+"."+t.Name)
			}
		}
	}
	return names, nil
}

// aimElement makes the needles.
func (f *finder) aimElement(ctx context.Context) error {
	if err := f.homeserver(ctx); err != nil {
		return err
	}
	f.needles = [][]byte{record.AppendValue(nil, []byte(f.o.ID))}
	if f.o.Element != synapse.User {
		return nil
	}
	local, host, _ := strings.Cut(strings.TrimPrefix(f.o.ID, "@"), ":")
	users, _ := synapse.Users()
	own := ""
	if b, ok := f.smallest(func(table string) bool { return table == users }); ok {
		var err error
		if own, err = serverName(ctx, f.v, b); err != nil {
			return err
		}
	}
	if own == "" || own == host {
		f.needles = append(f.needles, record.AppendValue(nil, []byte(local)))
	}
	return nil
}

// homeserver makes sure that the rows were captured as those of a homeserver: the
// relation of a copy then names its item.
func (f *finder) homeserver(ctx context.Context) error {
	b, ok := f.smallest(func(table string) bool {
		t, known := synapse.Named(table)
		return known && t.Item != ""
	})
	if ok {
		base, err := f.v.Base(ctx, b)
		if err != nil {
			return err
		}
		if base.Relation.Item != "" {
			return nil
		}
	}
	return fmt.Errorf("%w: rooms, users and events are found in what was captured with `profile: synapse`; --table finds the commits of any table", ErrNoElements)
}

// smallest gives the smallest of the newest copies of the tables that are wanted.
func (f *finder) smallest(wanted func(table string) bool) (history.BaseInfo, bool) {
	newest := map[uint32]history.BaseInfo{}
	for _, b := range f.v.Bases {
		if _, table, _ := strings.Cut(b.Name, "."); wanted(table) {
			newest[b.Table] = b
		}
	}
	all := slices.SortedFunc(maps.Values(newest), func(a, b history.BaseInfo) int {
		if a.Bytes != b.Bytes {
			return int(a.Bytes - b.Bytes)
		}
		return strings.Compare(a.Name, b.Name)
	})
	if len(all) == 0 {
		return history.BaseInfo{}, false
	}
	return all[0], true
}
