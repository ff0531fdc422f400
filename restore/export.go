package restore

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// IsSynapse reports whether the tables of the point are a Synapse's.
func (p *Plan) IsSynapse() bool { return isSynapse(p.schema) }

// Archive says where an archive of the spool comes from. It is a function of the commit:
// the position is that of the commit, not the later one up to which nothing happened.
func (s *Spool) Archive() mspf.Archive {
	a := mspf.Archive{
		Tool: "lifeboat", Filters: []string{}, Media: "none",
		Point: mspf.Point{LSN: s.Report.Point.LSN.String(), Timeline: s.timeline},
	}
	if c := s.Report.Point.Commit; c.End != 0 {
		a.Point.LSN, a.Point.Time = c.End.String(), c.Time.Time().UnixMilli()
	}
	for _, t := range s.Report.Tables {
		if t.Incomplete != "" {
			a.Point.Gaps = put(a.Point.Gaps, t.Table, t.Incomplete)
		}
	}
	for _, i := range s.incomplete {
		a.Point.Gaps = put(a.Point.Gaps, i.Table, i.Reason)
	}
	return a
}

func put(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	if m[key] == "" {
		m[key] = value
	}
	return m
}

// Floors gives the positions of the streams at the point, by stream.
func (s *Spool) Floors() map[string]int64 {
	at := map[string]int64{}
	for _, q := range s.sequences {
		if q.Schema == "public" {
			at[q.Name] = q.Last
		}
	}
	out := map[string]int64{}
	for _, q := range synapse.Sequences() {
		if v, ok := at[q.Name]; ok && q.Stream != "" {
			out[q.Stream] = v
		}
	}
	return out
}

// Public gives the tables of the schema public by their names alone.
func (s *Spool) Public() PublicTables { return PublicTables{s} }

// PublicTables are the tables of one schema of a spool; see [Spool.Columns] and
// [Spool.Rows].
type PublicTables struct{ spool *Spool }

// Columns gives the names of a table's columns in the order of its rows; nil when there
// is no such table.
func (t PublicTables) Columns(table string) []string { return t.spool.Columns("public", table) }

// Rows gives a table's rows, ascending by their bytes.
func (t PublicTables) Rows(table string) iter.Seq2[[]byte, error] {
	return t.spool.Rows("public", table)
}

// AddDatabase puts the database itself into an archive (im.lifeboat.synapse): its
// schema, every row but those of one-time keys, which may be handed out once only, and
// its sequences; and into the archive's report what of it is not there, or not exact.
func (s *Spool) AddDatabase(c *mspf.Contents) error {
	d := &mspf.Database{
		Software: c.Archive.Source.Software, Schema: c.Archive.Source.Schema,
		DDL: slices.Concat([]string{}, s.schema.Before), DDLAfter: slices.Concat([]string{}, s.schema.After),
		Sequences: map[string]mspf.SequenceState{},
	}
	filed := map[string]*record.Relation{}
	for _, rel := range s.Tables() {
		name := filedAs(rel.Schema, rel.Name)
		if filed[name] != nil {
			return fmt.Errorf("two tables are named %s in an archive", name)
		}
		filed[name] = rel
		d.Tables = append(d.Tables, mspf.DatabaseTable{Name: name, Columns: s.Columns(rel.Schema, rel.Name)})
	}
	for _, q := range s.sequences {
		d.Sequences[filedAs(q.Schema, q.Name)] = mspf.SequenceState{Last: q.Last, Called: q.Called}
	}
	c.Database = d
	c.Rows = func(yield func(mspf.Row, error) bool) {
		for _, t := range d.Tables {
			if oneTime(t.Name) {
				continue
			}
			for line, err := range s.Rows(filed[t.Name].Schema, filed[t.Name].Name) {
				if !yield(mspf.Row{Table: t.Name, Line: line}, err) || err != nil {
					return
				}
			}
		}
	}
	before := c.Losses
	c.Losses = func() []mspf.Loss {
		if before == nil {
			return s.losses()
		}
		return append(before(), s.losses()...)
	}
	return nil
}

// filedAs is the name of a table or sequence in an archive.
func filedAs(schema, name string) string {
	if schema == "public" {
		return name
	}
	return schema + "." + name
}

func oneTime(table string) bool {
	t, _ := synapse.Named(table)
	return t.Category == synapse.OneTimeKeys
}

// losses says what of the database is not in the archive.
func (s *Spool) losses() []mspf.Loss {
	const item = mspf.Prefix + "synapse"
	var out []mspf.Loss
	for _, t := range s.Report.Tables {
		name := strings.TrimPrefix(t.Table, "public.")
		if t.Incomplete != "" {
			out = append(out, mspf.Loss{Item: item, Key: name, Code: "table_not_exact", State: mspf.Lossy, Count: 1, Reason: t.Incomplete})
		}
		if oneTime(name) && t.Rows > 0 {
			out = append(out, mspf.Loss{
				Item: item, Key: name, Code: "one_time_keys", State: mspf.Absent, Count: t.Rows,
				Reason: "one-time keys may be handed out once only; the table is there and empty, fallback keys stand in",
			})
		}
	}
	for _, i := range s.incomplete {
		if !slices.ContainsFunc(s.Report.Tables, func(t TableReport) bool { return t.Table == i.Table }) {
			out = append(out, mspf.Loss{Item: item, Key: strings.TrimPrefix(i.Table, "public."), Code: "table_not_exact", State: mspf.Lossy, Count: 1, Reason: i.Reason})
		}
	}
	for _, name := range s.absent {
		name = strings.TrimPrefix(name, "public.")
		state := mspf.Unsupported
		if fleeting(name) {
			state = mspf.Absent
		}
		out = append(out, mspf.Loss{Item: item, Key: name, Code: "table_not_backed_up", State: state, Count: 1, Reason: "the table is not part of the backup; it is there and empty"})
	}
	return out
}

// fleeting tells a table that may be empty when a homeserver goes on, and need not be in
// a backup: those of Synapse's locks are unlogged.
func fleeting(table string) bool {
	t, known := synapse.Named(table)
	return known && t.Category.Ephemeral()
}

// Exact reports that every table that counts is here as it was at the point.
func (s *Spool) Exact() bool {
	return !slices.ContainsFunc(s.losses(), func(l mspf.Loss) bool { return l.State != mspf.Absent })
}
