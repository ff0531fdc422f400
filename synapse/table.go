package synapse

import (
	"slices"
	"sync"
)

// Category says what becomes of a table when a homeserver goes on from a copy.
type Category byte

// The categories. Letters as in the survey that the data comes from.
const (
	// Core rows exist nowhere else: they are the homeserver.
	Core Category = 'C'
	// Position tables hold one row, how far a worker has read; empty they break /sync.
	Position Category = 'L'
	// Bookkeeping is Synapse's own schema version and its list of work to do.
	Bookkeeping Category = 'M'
	// Derived rows can be computed from Core ones; Reason says how.
	Derived Category = 'D'
	// Remote rows are a cache of what other servers hold.
	Remote Category = 'R'
	// Ephemeral tables may be empty after a restore.
	Ephemeral Category = 'E'
	// OneTimeKeys may be handed out once only, so a rollback must empty them.
	OneTimeKeys Category = 'O'
	// StreamPositions are each writer's place in its streams: emptied once the
	// sequences are right.
	StreamPositions Category = 'P'
)

// String is the word of the category.
func (c Category) String() string {
	switch c {
	case Core:
		return "core"
	case Position:
		return "position"
	case Bookkeeping:
		return "bookkeeping"
	case Derived:
		return "derived"
	case Remote:
		return "remote"
	case Ephemeral:
		return "ephemeral"
	case OneTimeKeys:
		return "one-time keys"
	case StreamPositions:
		return "stream positions"
	}
	return "unknown"
}

// Ephemeral reports whether a table of this category may be empty when a
// homeserver goes back in time: nothing of it is worth keeping, or it must go.
func (c Category) Ephemeral() bool {
	return c == Ephemeral || c == OneTimeKeys || c == StreamPositions
}

// Table is what is known of one table of Synapse's schema.
type Table struct {
	Name     string
	Category Category
	// Item is the archive item that the rows go to (m.events, m.users,
	// im.lifeboat.rooms, …); "" when they are derivable or left out of the archive.
	Item string
	// Subject are the columns that name the element of the item that a row is part
	// of, outermost first: room_id, event_id; user_id, device_id.
	Subject []string
	// Secret: a row lets its reader act as somebody, or mixes what users choose with
	// other people's secrets; the chunks of the table are not compressed.
	Secret bool
	// Reason is how a table without an item is derived, or why an archive leaves it
	// out. The backup itself holds every table.
	Reason string
	// Source is the file of Synapse that says so, from the folder synapse/storage, or
	// the section of the survey of a running server.
	Source string
	// Room, User and Event are the columns that hold a room id, a user id (full or
	// only its localpart) and an event id.
	Room, User, Event []string
	// From are the tables that a table without an item is computed from.
	From []string
	// Absent: not in the schema of the pinned Synapse; another version, a running job
	// or a tool beside it makes the table.
	Absent bool
}

// Version is the Synapse whose schema the data is held against.
const Version = "1.163.2"

// Tables gives every known table, ascending by name, in a fresh copy.
func Tables() []Table {
	var all []Table
	for _, area := range areas() {
		all = append(all, area...)
	}
	for i := range all {
		t := &all[i]
		t.Subject, t.Room, t.User, t.Event, t.From = slices.Clone(t.Subject), slices.Clone(t.Room), slices.Clone(t.User), slices.Clone(t.Event), slices.Clone(t.From)
	}
	slices.SortFunc(all, func(a, b Table) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

// byName are all tables; it is read at every look into the catalog.
var byName = sync.OnceValue(func() map[string]Table {
	m := map[string]Table{}
	for _, t := range Tables() {
		m[t.Name] = t
	}
	return m
})

// Named gives the table of a name, whose slices are shared and not to be changed;
// false when it is unknown, and then its rows are captured and restored like every
// other's.
func Named(name string) (Table, bool) {
	t, ok := byName()[name]
	return t, ok
}

// Profile says to the capture what a table feeds: its item, the columns that name
// an element, and whether its rows are secret. Tables that are unknown, and those
// of another schema than public, have no item and are captured in full (Y1).
func Profile(schema, table string) (item string, subject []string, secret bool) {
	if schema != "public" {
		return "", nil, false
	}
	t, _ := Named(table)
	return t.Item, slices.Clone(t.Subject), t.Secret
}
