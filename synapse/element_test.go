package synapse

import (
	"slices"
	"testing"
)

// TestElements: an element's columns are those of the data; a table that nobody knows
// is looked at all the same, and its rows last.
func TestElements(t *testing.T) {
	for _, tab := range Tables() {
		if !slices.Equal(Room.Columns(tab.Name), tab.Room) || !slices.Equal(User.Columns(tab.Name), tab.User) || !slices.Equal(Event.Columns(tab.Name), tab.Event) {
			t.Errorf("%s: other columns than in the data", tab.Name)
		}
		if Lasting(tab.Name) && (tab.Category != Core || tab.Item == "") {
			t.Errorf("%s lasts, and is %s and feeds %q", tab.Name, tab.Category, tab.Item)
		}
	}
	if table, column := Users(); !slices.Equal(User.Columns(table), []string{column}) {
		t.Errorf("the users' column is %q, the data says %q", column, User.Columns(table))
	}
	for _, name := range []string{"events", "event_json", "rooms", "room_memberships", "access_tokens", "state_groups_state"} {
		if !Lasting(name) {
			t.Errorf("nobody misses a row of %s?", name)
		}
	}
	for _, name := range []string{"event_forward_extremities", "device_inbox", "device_federation_outbox", "scheduled_tasks", "event_push_actions"} {
		if Lasting(name) {
			t.Errorf("%s empties all the time", name)
		}
	}
	if !Lasting("of_a_module") || !slices.Equal(Room.Columns("of_a_module"), []string{"room_id"}) {
		t.Error("an unknown table is not looked at")
	}
}
