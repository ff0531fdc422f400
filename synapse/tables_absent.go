package synapse

// absentTables: tables that the pinned Synapse does not make: older versions, running jobs, a tool of its makers.
func absentTables() []Table {
	return []Table{
		{
			Name: "_temp_populate_user_directory_position", Category: Ephemeral,
			Reason: "made and dropped by the job regenerate_directory", Absent: true, Source: "databases/main/user_directory.py",
		},
		{
			Name: "_temp_populate_user_directory_rooms", Category: Ephemeral,
			Reason: "as _temp_populate_user_directory_position", Absent: true, Source: "databases/main/user_directory.py",
		},
		{
			Name: "_temp_populate_user_directory_users", Category: Ephemeral,
			Reason: "as _temp_populate_user_directory_position", Absent: true, Source: "databases/main/user_directory.py",
		},
		{
			Name: "_extremities_to_check", Category: Ephemeral,
			Reason: "made and dropped by a background update of 2019", Absent: true, Source: "schema/main/delta/54/delete_forward_extremities.sql",
		},
		{
			Name: "batch_events", Category: Derived,
			From: []string{"event_json"}, Reason: "batches of MSC2716, withdrawn; dropped by schema 83", Absent: true, Source: "schema/main/delta/83/01_drop_old_tables.sql",
		},
		{
			Name: "insertion_events", Category: Derived,
			From: []string{"event_json"}, Reason: "as batch_events", Absent: true, Source: "schema/main/delta/83/01_drop_old_tables.sql",
		},
		{
			Name: "insertion_event_edges", Category: Derived,
			From: []string{"event_json"}, Reason: "as batch_events", Absent: true, Source: "schema/main/delta/83/01_drop_old_tables.sql",
		},
		{
			Name: "insertion_event_extremities", Category: Derived,
			From: []string{"event_json"}, Reason: "as batch_events", Absent: true, Source: "schema/main/delta/83/01_drop_old_tables.sql",
		},
		{
			Name: "event_txn_id", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id"},
			Absent: true, Source: "schema/main/delta/83/01_drop_old_tables.sql",
		},
		{
			Name: "event_reference_hashes", Category: Derived,
			Event: []string{"event_id"},
			From:  []string{"event_json"}, Reason: "the hash of each event; dropped by schema 72", Absent: true, Source: "schema/main/delta/72/03drop_event_reference_hashes.sql",
		},
		{
			Name: "presence", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "who was online; dropped by schema 73", Absent: true, Source: "schema/main/delta/73/25drop_presence.sql",
		},
		{
			Name: "state_compressor_state", Category: Ephemeral,
			Reason: "rust-synapse-compress-state: how far it is", Absent: true, Source: "github.com/matrix-org/rust-synapse-compress-state",
		},
		{
			Name: "state_compressor_progress", Category: Ephemeral,
			Reason: "as state_compressor_state", Absent: true, Source: "github.com/matrix-org/rust-synapse-compress-state",
		},
		{
			Name: "state_compressor_total_progress", Category: Ephemeral,
			Reason: "as state_compressor_state", Absent: true, Source: "github.com/matrix-org/rust-synapse-compress-state",
		},
	}
}
