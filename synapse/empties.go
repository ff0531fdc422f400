package synapse

import "slices"

// queues are tables of [Core] rows that Synapse deletes in bulk as they are worked off,
// with the file under synapse/storage/databases/main that does it.
func queues() []string {
	return []string{
		"application_services_txns",         // appservice.py, complete_appservice_txn
		"delayed_events",                    // delayed_events.py, process_timeout_delayed_events
		"device_federation_outbox",          // deviceinbox.py, delete_device_msgs_for_remote
		"device_inbox",                      // deviceinbox.py, delete_messages_for_device
		"device_lists_changes_in_room",      // devices.py, pruned by age
		"device_lists_outbound_pokes",       // devices.py, mark_as_sent_devices_by_remote
		"event_push_actions",                // event_push_actions.py, rotated into event_push_summary
		"federation_inbound_events_staging", // event_federation.py, remove_received_event_from_staging
	}
}

// Empties reports whether most rows of a table may be deleted or rewritten at once in
// the ordinary run of a homeserver: what is ephemeral, derived from other tables or a
// cache of other servers, and the queues.
func Empties(schema, table string) bool {
	if schema != "public" {
		return false
	}
	t, _ := Named(table)
	return t.Category.Ephemeral() || t.Category == Derived || t.Category == Remote || slices.Contains(queues(), table)
}
