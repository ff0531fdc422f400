package synapse

// syncTables: what /sync and presence keep between two requests.
func syncTables() []Table {
	return []Table{
		{
			Name: "presence_stream", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "who is online now", Source: "databases/main/presence.py",
		},
		{
			Name: "users_to_send_full_presence_to", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "who is to be told all presence once", Source: "databases/main/presence.py",
		},
		{
			Name: "sliding_sync_connections", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "what a client was told; it opens a new connection", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_connection_positions", Category: Ephemeral,
			Reason: "as sliding_sync_connections", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_connection_required_state", Category: Ephemeral,
			Reason: "as sliding_sync_connections", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_connection_room_configs", Category: Ephemeral,
			Room:   []string{"room_id"},
			Reason: "as sliding_sync_connections", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_connection_streams", Category: Ephemeral,
			Room:   []string{"room_id"},
			Reason: "as sliding_sync_connections", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_connection_lazy_members", Category: Ephemeral,
			Room: []string{"room_id"}, User: []string{"user_id"},
			Reason: "as sliding_sync_connections", Source: "databases/main/sliding_sync.py",
		},
		{
			Name: "sliding_sync_joined_rooms", Category: Derived,
			Room: []string{"room_id"},
			From: []string{"current_state_events", "events"}, Reason: "Synapse compares it with events at boot and fills it", Source: "databases/main/events.py",
		},
		{
			Name: "sliding_sync_joined_rooms_to_recalculate", Category: Derived,
			Room: []string{"room_id"},
			From: []string{"current_state_events"}, Reason: "as sliding_sync_joined_rooms", Source: "databases/main/events_bg_updates.py",
		},
		{
			Name: "sliding_sync_membership_snapshots", Category: Derived,
			Room: []string{"room_id"}, User: []string{"user_id", "sender"}, Event: []string{"membership_event_id"},
			From: []string{"local_current_membership", "current_state_events"}, Reason: "a background update that Synapse schedules at boot", Source: "databases/main/events.py",
		},
	}
}
