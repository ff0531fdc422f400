package synapse

import "testing"

// TestEmpties: queues are known tables of core rows; what is the homeserver itself is
// not among what may go.
func TestEmpties(t *testing.T) {
	for _, name := range queues() {
		if k, ok := Named(name); !ok || k.Category != Core || !Empties("public", name) {
			t.Errorf("%s: %+v, %t", name, k, ok)
		}
	}
	for name, want := range map[string]bool{
		"presence_stream": true, "user_directory": true, "server_keys_json": true, "e2e_one_time_keys_json": true,
		"events": false, "event_json": false, "users": false, "e2e_room_keys": false, "state_groups_state": false, "unheard_of": false,
	} {
		if got := Empties("public", name); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
	if Empties("backup", "presence_stream") {
		t.Error("a table of another schema")
	}
}
