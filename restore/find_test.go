package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// matrix is a lab with every known table of a homeserver, of which only the columns
// that name something are there, with a number before them.
type matrix struct {
	*lab
	rels map[string]*record.Relation
}

func newMatrix(t testing.TB) *matrix {
	t.Helper()
	m := &matrix{lab: newLab(t), rels: map[string]*record.Relation{}}
	m.strange = true
	var all []*record.Relation
	for i, tab := range synapse.Tables() {
		r := &record.Relation{OID: uint32(20000 + i), Schema: "public", Name: tab.Name, Identity: record.Full, Columns: []record.Column{{Name: "n", Type: "bigint"}}}
		for _, c := range slices.Concat(tab.Subject, tab.Room, tab.User, tab.Event) {
			if !slices.ContainsFunc(r.Columns, func(o record.Column) bool { return o.Name == c }) {
				r.Columns = append(r.Columns, record.Column{Name: c, Type: "text"})
			}
		}
		r.Item, r.Subject, _ = synapse.Profile(r.Schema, r.Name)
		m.rels[r.Name], all = r, append(all, r)
	}
	m.schema(all...)
	users, _ := synapse.Users()
	for _, r := range all {
		var rows []string
		if r.Name == users {
			rows = []string{m.row(users, 0, map[string]string{"name": "@admin:here"})}
		}
		m.base(r, rows)
	}
	m.ready()
	return m
}

// row makes a line; columns without a value are empty.
func (m *matrix) row(table string, n int, values map[string]string) string {
	line := fmt.Append(nil, n)
	for _, c := range m.rels[table].Columns[1:] {
		line = record.AppendValue(append(line, '\t'), []byte(values[c.Name]))
	}
	return string(line)
}

// pick gives a table by what is known of it.
func (m *matrix) pick(ok func(synapse.Table) bool) string {
	m.t.Helper()
	for _, t := range synapse.Tables() {
		if ok(t) {
			return t.Name
		}
	}
	m.t.Fatal("no such table")
	return ""
}

// in names the room, the user or the event in every column of a table that may hold one.
func in(e synapse.Element, table, id string) map[string]string {
	v := map[string]string{}
	for _, c := range e.Columns(table) {
		v[c] = id
	}
	return v
}

func (m *matrix) find(o FindOptions) []Found {
	m.t.Helper()
	out, err := Find(m.t.Context(), m.view(), o)
	check(m.t, err)
	return out
}

// TestFindRoom finds what several transactions of one accident deleted, among other
// rooms, among what messages replace and what queues forget, and names the state
// before the first of them.
func TestFindRoom(t *testing.T) {
	m := newMatrix(t)
	const room, other = "!a:here", "!a:here2"
	var rooms []string
	for _, tab := range synapse.Tables() {
		if len(tab.Room) > 0 && synapse.Lasting(tab.Name) {
			rooms = append(rooms, tab.Name)
		}
	}
	queue := m.pick(func(t synapse.Table) bool { return len(t.Room) > 0 && !synapse.Lasting(t.Name) })
	del := func(id string, n int, tables ...string) *tx {
		x := &tx{}
		for _, table := range tables {
			for i := range n {
				x.add(m.rels[table], record.Delete, m.row(table, i, in(synapse.Room, table, id)), "")
			}
		}
		return x
	}
	message := &tx{} // one row replaced, one new, one delivered
	message.add(m.rels[rooms[0]], record.Delete, m.row(rooms[0], 1, in(synapse.Room, rooms[0], room)), "")
	message.add(m.rels[rooms[0]], record.Insert, "", m.row(rooms[0], 2, in(synapse.Room, rooms[0], room)))
	message.add(m.rels[rooms[1]], record.Insert, "", m.row(rooms[1], 1, in(synapse.Room, rooms[1], room)))
	message.add(m.rels[queue], record.Delete, m.row(queue, 1, in(synapse.Room, queue, room)), "")
	early := del(room, 1, rooms[2])
	c := m.segment(early, message)
	m.clock += record.Time((2 * RunGap).Microseconds())
	c = append(c, m.segment(message, del(room, 3, rooms...), del(other, 9, rooms...))...)
	c = append(c, m.segment(del(room, 2, rooms[:1]...), message, del(other, 1, rooms[3]))...)

	all := m.find(FindOptions{Element: synapse.Room, ID: room})
	if len(all) != 6 {
		t.Fatalf("%d commits touched the room, want 6", len(all))
	}
	got := m.find(FindOptions{Element: synapse.Room, ID: room, Deletes: true})
	if len(got) != 3 || got[0].Commit.End != c[5].End || got[1].Commit.End != c[3].End || got[2].Commit.End != c[0].End {
		t.Fatalf("the deletes: %+v", got)
	}
	if len(got[1].Tables) != len(rooms) || got[1].Tables[0].Deletes != 3 {
		t.Errorf("the purge touched %d tables, want %d", len(got[1].Tables), len(rooms))
	}
	run := got[0].Run
	if run == nil || run != got[1].Run || run.Commits != 2 || run.Rows != uint64(3*len(rooms)+2) || run.Before != "before:lsn:"+c[3].End.String() {
		t.Errorf("the accident: %+v", run)
	}
	if r := got[2].Run; r == nil || r == run || r.Commits != 1 {
		t.Errorf("what was deleted long before: %+v", r)
	}
	// The accident began before what is listed of it.
	if got := m.find(FindOptions{Element: synapse.Room, ID: room, Deletes: true, Limit: 1}); len(got) != 1 || got[0].Run.Before != run.Before {
		t.Errorf("one listed commit: %+v", got)
	}
	if got := m.find(FindOptions{Element: synapse.Room, ID: room, Deletes: true, Since: c[5].Time.Time()}); len(got) != 1 || got[0].Run.Before != run.Before {
		t.Errorf("since the last commit: %+v", got)
	}
	if got := m.find(FindOptions{Element: synapse.Room, ID: "!nobody:here"}); len(got) != 0 {
		t.Errorf("a room that never was: %+v", got)
	}
}

// TestFindOrder: an accident begins with the order, before anything is deleted; what
// is done between order and purge deletes nothing and is undone too.
func TestFindOrder(t *testing.T) {
	m := newMatrix(t)
	const room = "!a:here"
	table := m.pick(func(t synapse.Table) bool { return len(t.Room) > 0 && synapse.Lasting(t.Name) })
	tasks := m.pick(func(t synapse.Table) bool { return synapse.Orders(t.Name) })
	one := func(op record.Op, table, id string) *tx {
		x := &tx{}
		line := m.row(table, 1, in(synapse.Room, table, id))
		if op == record.Delete {
			x.add(m.rels[table], op, line, "")
		} else {
			x.add(m.rels[table], op, "", line)
		}
		return x
	}
	c := m.segment(one(record.Insert, table, room), one(record.Insert, tasks, "!b:here"), one(record.Insert, tasks, room), one(record.Insert, table, room), one(record.Delete, table, room))
	got := m.find(FindOptions{Element: synapse.Room, ID: room, Deletes: true})
	if len(got) != 2 || got[0].Commit.End != c[4].End || got[1].Commit.End != c[2].End {
		t.Fatalf("found %+v, want the order and the purge", got)
	}
	if r := got[0].Run; r == nil || r != got[1].Run || r.Before != "before:lsn:"+c[2].End.String() || r.Rows != 1 {
		t.Errorf("the accident is %+v, want it to begin with the order", r)
	}
}

// TestFindUserAndEvent: a user by the full id, where it is local also by the
// localpart; an event; ids that COPY escapes; a line in extents.
func TestFindUserAndEvent(t *testing.T) {
	m := newMatrix(t)
	users := m.pick(func(t synapse.Table) bool { return len(t.User) == 1 && len(t.Event) == 0 && synapse.Lasting(t.Name) })
	events := m.pick(func(t synapse.Table) bool { return len(t.Event) > 0 && synapse.Lasting(t.Name) })
	add := func(table string, values map[string]string) *tx {
		x := &tx{}
		x.add(m.rels[table], record.Insert, "", m.row(table, 7, values))
		return x
	}
	long := add(events, in(synapse.Event, events, "$long"))
	long.recs[0].New.Text = append([]byte(strings.Repeat("9", record.MaxInline)), long.recs[0].New.Text...)
	m.segment(
		add(users, in(synapse.User, users, "@a:here")), add(users, in(synapse.User, users, "a")),
		add(users, in(synapse.User, users, "@a:there")), add(users, in(synapse.User, users, `@b\c:here`)),
		add(events, in(synapse.Event, events, "$e")), long, add(events, in(synapse.User, events, "@a:here")),
	)
	for _, k := range []struct {
		e    synapse.Element
		id   string
		want int
	}{
		{synapse.User, "@a:there", 1},
		{synapse.User, `@b\c:here`, 1},
		{synapse.User, "@c:here", 0},
		{synapse.Event, "$e", 1},
		{synapse.Event, "$long", 1},
		{synapse.Event, "$lon", 0},
		{synapse.Event, "$longer", 0},
		{synapse.Room, "$e", 0},
	} {
		if got := m.find(FindOptions{Element: k.e, ID: k.id}); len(got) != k.want {
			t.Errorf("%s: %d commits, want %d", k.id, len(got), k.want)
		}
	}
	want := 2 + min(1, len(synapse.User.Columns(events)))
	if got := m.find(FindOptions{Element: synapse.User, ID: "@a:here"}); len(got) != want {
		t.Errorf("the local user: %d commits, want %d", len(got), want)
	}
}

// TestFindReadsFast goes through a million records, of which few are meant.
func TestFindReadsFast(t *testing.T) {
	m := newMatrix(t)
	table := m.pick(func(t synapse.Table) bool { return len(t.Room) > 0 && synapse.Lasting(t.Name) })
	line := m.row(table, 1, in(synapse.Room, table, "!other:here")) + strings.Repeat("x", 300)
	const segments, each = 50, 20_000
	for range segments {
		x := &tx{}
		for range each - 1 {
			x.add(m.rels[table], record.Insert, "", line)
		}
		x.add(m.rels[table], record.Delete, m.row(table, 2, in(synapse.Room, table, "!this:here")), "")
		m.segment(x)
	}
	began := time.Now()
	got := m.find(FindOptions{Element: synapse.Room, ID: "!this:here", Limit: 20, Deletes: true})
	took := time.Since(began)
	t.Logf("%d records in %v", segments*each, took)
	if len(got) != 20 || got[0].Run.Commits != segments {
		t.Errorf("%d found, the run has %d commits", len(got), got[0].Run.Commits)
	}
	if took > time.Minute { // under a second, and half a minute under the race detector
		t.Errorf("reading %d records took %v", segments*each, took)
	}
}
