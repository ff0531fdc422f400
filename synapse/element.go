package synapse

// Element is what people look for in a homeserver: a room, a user, an event.
type Element byte

// The elements.
const (
	Room Element = iota + 1
	User
	Event
)

// Columns gives the columns of a table that hold the id of such an element. A table
// that is not known, of a newer Synapse or of somebody's module, is looked at by the
// names that Synapse gives these columns everywhere.
func (e Element) Columns(table string) []string {
	t, known := Named(table)
	switch {
	case e == Room && known:
		return t.Room
	case e == User && known:
		return t.User
	case e == Event && known:
		return t.Event
	case e == Room:
		return []string{"room_id"}
	case e == User:
		return []string{"user_id"}
	case e == Event:
		return []string{"event_id"}
	}
	return nil
}

// Users names the table of local users, and the column of their full ids.
func Users() (table, column string) { return "users", "name" }

// Lasting reports whether somebody misses a row of the table when it is deleted: not
// those of queues, which are deleted when they were delivered or done, nor the ends of
// a room's graph, of which a message replaces several by one, nor what the server
// computes again or lets expire. Unknown tables are lasting.
func Lasting(table string) bool {
	switch table {
	case "event_forward_extremities", "event_backward_extremities", "partial_state_events", "partial_state_rooms", "partial_state_rooms_servers":
		return false
	}
	t, known := Named(table)
	if !known {
		return true
	}
	switch t.Item {
	case "", "m.e2e.to_device", "im.lifeboat.federation", "im.lifeboat.pending", "im.lifeboat.appservices":
		return false
	}
	return t.Category == Core
}

// Orders reports whether a row that is inserted into the table with a room's id is an
// order to delete: shutdown_and_purge_room, purge_room or purge_history
// (handlers/pagination.py). What it does first deletes nothing: everybody is made to
// leave.
func Orders(table string) bool { return table == "scheduled_tasks" }
