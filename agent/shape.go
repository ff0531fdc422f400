package agent

import (
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/record"
)

// resolve decides how rows of st are stored: as the catalog says, when it agrees
// with the stream, else as the stream says, and the table is no longer exact.
func (c *capture) resolve(st *streamTable) {
	oid := st.msg.OID
	t := c.tables[oid]
	if t != nil && !t.resumed {
		if keep, ok := match(t, &st.msg); ok {
			c.stream.SetColumns(oid, keep)
			st.table, st.from, st.rel = t, t.rel, t.rel
			st.hasher = record.NewHasher(c.digest[:], t.rel.Schema, t.rel.Name)
			return
		}
	}
	rel, keep := fromMessage(t, &st.msg)
	c.stream.SetColumns(oid, keep)
	if t == nil {
		t = &table{oid: oid, rel: rel}
		c.tables[oid] = t
	}
	c.suspectRow(t, "its rows come in another shape than the catalog was seen with")
	st.table, st.from, st.rel = t, t.rel, rel
	st.hasher = record.NewHasher(c.digest[:], rel.Schema, rel.Name)
	signal(c.asked)
}

// match says which columns of the message make the lines of t, in order; false
// when the message has another set of columns than the catalog.
func match(t *table, m *cdc.StreamRelation) ([]int, bool) {
	if m.Schema != t.rel.Schema || m.Name != t.rel.Name {
		return nil, false
	}
	keep := make([]int, 0, len(t.rel.Columns))
	for i := range t.rel.Columns {
		want := &t.rel.Columns[i]
		at := slices.IndexFunc(m.Columns, func(c cdc.StreamColumn) bool { return c.Name == want.Name })
		if at < 0 || m.Columns[at].TypeOID != want.TypeOID || m.Columns[at].TypeMod != want.TypeMod {
			return nil, false
		}
		keep = append(keep, at)
	}
	for i := range m.Columns {
		if !slices.Contains(keep, i) && !slices.Contains(t.generated, m.Columns[i].Name) {
			return nil, false
		}
	}
	return keep, true
}

func fromMessage(t *table, m *cdc.StreamRelation) (*record.Relation, []int) {
	rel := &record.Relation{OID: m.OID, Schema: m.Schema, Name: m.Name, Identity: record.Minimal}
	if m.Replident == 'f' {
		rel.Identity = record.Full
	}
	if t != nil {
		rel.Item, rel.Subject, rel.Secret = t.rel.Item, t.rel.Subject, t.rel.Secret
	}
	var keep []int
	for i, col := range m.Columns {
		if t != nil && slices.Contains(t.generated, col.Name) {
			continue
		}
		rel.Columns = append(rel.Columns, record.Column{
			Name: col.Name, Type: fmt.Sprintf("oid %d", col.TypeOID), TypeOID: col.TypeOID, TypeMod: col.TypeMod,
		})
		keep = append(keep, i)
	}
	return rel, keep
}
