package synapse

// directoryTables: what is searched and counted; all of it is computed from the rest.
func directoryTables() []Table {
	return []Table{
		{
			Name: "event_search", Category: Derived,
			Room: []string{"room_id"}, User: []string{"sender"}, Event: []string{"event_id"},
			From: []string{"event_json"}, Reason: "to_tsvector over body, name and topic; Synapse's own update event_search loses topics", Source: "databases/main/search.py",
		},
		{
			Name: "user_directory", Category: Derived,
			Room: []string{"room_id"}, User: []string{"user_id"},
			From: []string{"profiles", "current_state_events"}, Reason: "the job regenerate_directory", Source: "databases/main/user_directory.py",
		},
		{
			Name: "user_directory_search", Category: Derived,
			User: []string{"user_id"},
			From: []string{"profiles"}, Reason: "as user_directory", Source: "databases/main/user_directory.py",
		},
		{
			Name: "user_directory_stale_remote_users", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "whose profile must be asked for again", Source: "databases/main/user_directory.py",
		},
		{
			Name: "user_directory_stream_pos", Category: Position,
			Reason: "up to where state changes are in the directory", Source: "databases/main/user_directory.py",
		},
		{
			Name: "users_in_public_rooms", Category: Derived,
			Room: []string{"room_id"}, User: []string{"user_id"},
			From: []string{"current_state_events"}, Reason: "as user_directory", Source: "databases/main/user_directory.py",
		},
		{
			Name: "users_who_share_private_rooms", Category: Derived,
			Room: []string{"room_id"}, User: []string{"user_id", "other_user_id"},
			From: []string{"current_state_events"}, Reason: "as user_directory", Source: "databases/main/user_directory.py",
		},
		{
			Name: "room_stats_current", Category: Derived,
			Room: []string{"room_id"},
			From: []string{"current_state_events"}, Reason: "the job populate_stats_process_rooms", Source: "databases/main/stats.py",
		},
		{
			Name: "room_stats_state", Category: Derived,
			Room: []string{"room_id"},
			From: []string{"current_state_events"}, Reason: "the job populate_stats_process_rooms", Source: "databases/main/room.py",
		},
		{
			Name: "room_stats_earliest_token", Category: Derived,
			Room: []string{"room_id"},
			From: []string{"events"}, Reason: "no version in use reads it", Source: "databases/main/purge_events.py",
		},
		{
			Name: "user_stats_current", Category: Derived,
			User: []string{"user_id"},
			From: []string{"local_current_membership"}, Reason: "the background update populate_stats_process_users", Source: "schema/main/delta/56/stats_separated.sql",
		},
		{
			Name: "stats_incremental_position", Category: Position,
			Reason: "up to where state changes are in the statistics", Source: "databases/main/stats.py",
		},
	}
}
