package synapse

// Column is a column that a sequence feeds.
type Column struct {
	Table, Column string
	// Negated: the values stand in the column with a minus sign.
	Negated bool
}

// Sequence is what is known of one sequence of Synapse's schema.
type Sequence struct {
	Name string
	// Stream is its name in stream_positions; "" when it has no row there.
	Stream string
	// Feeds are the columns whose values come from it; the sequence must not be
	// below any of them (negated where so marked).
	Feeds []Column
	// Int4: a column that it feeds is a 4-byte integer, so a margin must keep well
	// below 2^31.
	Int4 bool
	// Source is the file of Synapse that says so, from the folder synapse/storage.
	Source string
}

// Sequences gives every known sequence, ascending by name, in a fresh copy.
func Sequences() []Sequence {
	in := func(file string) string { return "databases/main/" + file + ".py" }
	col := func(table string) []Column { return []Column{{Table: table, Column: "stream_id"}} }
	cols := func(tables ...string) []Column {
		var all []Column
		for _, t := range tables {
			all = append(all, col(t)...)
		}
		return all
	}
	return []Sequence{
		{Name: "account_data_sequence", Stream: "account_data", Feeds: cols("account_data", "room_account_data", "room_tags_revisions"), Source: in("account_data")},
		// Bridges take a transaction id that they have seen for a repetition.
		{Name: "application_services_txn_id_seq", Feeds: []Column{{Table: "application_services_txns", Column: "txn_id"}}, Source: in("appservice")},
		{Name: "cache_invalidation_stream_seq", Stream: "caches", Feeds: col("cache_invalidation_stream_by_instance"), Source: in("cache")},
		{Name: "device_inbox_sequence", Stream: "to_device", Feeds: cols("device_inbox", "device_federation_outbox"), Source: in("deviceinbox")},
		{Name: "device_lists_sequence", Stream: "device_lists_stream", Feeds: cols("device_lists_stream", "user_signature_stream", "device_lists_outbound_pokes",
			"device_lists_changes_in_room", "device_lists_remote_pending", "device_lists_changes_converted_stream_position"), Source: in("devices")},
		{Name: "e2e_cross_signing_keys_sequence", Stream: "e2e_cross_signing_keys", Feeds: col("e2e_cross_signing_keys"), Source: in("end_to_end_keys")},
		{Name: "event_auth_chain_id", Feeds: []Column{{Table: "event_auth_chains", Column: "chain_id"}}, Source: in("events_worker")},
		{Name: "events_backfill_stream_seq", Stream: "backfill", Feeds: []Column{
			{Table: "events", Column: "stream_ordering", Negated: true},
			{Table: "ex_outlier_stream", Column: "event_stream_ordering", Negated: true},
		}, Source: in("events_worker")},
		// sticky_events.event_stream_ordering repeats the value in 4 bytes; a server that
		// has passed 2^31 events cannot use sticky events, whatever a restore does.
		{Name: "events_stream_seq", Stream: "events", Feeds: []Column{
			{Table: "events", Column: "stream_ordering"},
			{Table: "current_state_delta_stream", Column: "stream_id"},
			{Table: "ex_outlier_stream", Column: "event_stream_ordering"},
		}, Source: in("events_worker")},
		{Name: "instance_map_instance_id_seq", Feeds: []Column{{Table: "instance_map", Column: "instance_id"}}, Int4: true, Source: "schema/main/delta/58/19instance_map.sql.postgres"},
		{Name: "presence_stream_sequence", Stream: "presence_stream", Feeds: col("presence_stream"), Source: in("presence")},
		{Name: "profile_updates_sequence", Stream: "profile_updates", Feeds: cols("profile_updates", "profile_updates_per_user"), Source: in("profile")},
		{Name: "push_rules_stream_sequence", Stream: "push_rules_stream", Feeds: col("push_rules_stream"), Source: in("push_rule")},
		{Name: "pushers_sequence", Stream: "pushers", Feeds: []Column{{Table: "pushers", Column: "id"}, {Table: "deleted_pushers", Column: "stream_id"}}, Source: in("pusher")},
		{Name: "quarantined_media_id_seq", Stream: "quarantined_media", Feeds: col("quarantined_media_changes"), Int4: true, Source: in("room")},
		{Name: "receipts_sequence", Stream: "receipts", Feeds: col("receipts_linearized"), Source: in("receipts")},
		{Name: "sliding_sync_connection_positions_connection_position_seq", Feeds: []Column{{Table: "sliding_sync_connection_positions", Column: "connection_position"}}, Source: "schema/main/delta/87/02_per_connection_state.sql"},
		{Name: "sliding_sync_connection_required_state_required_state_id_seq", Feeds: []Column{{Table: "sliding_sync_connection_required_state", Column: "required_state_id"}}, Source: "schema/main/delta/87/02_per_connection_state.sql"},
		{Name: "sliding_sync_connections_connection_key_seq", Feeds: []Column{{Table: "sliding_sync_connections", Column: "connection_key"}}, Source: "schema/main/delta/87/02_per_connection_state.sql"},
		{Name: "state_group_id_seq", Feeds: []Column{{Table: "state_groups", Column: "id"}}, Source: "databases/state/store.py"},
		{Name: "state_groups_pending_deletion_sequence_number_seq", Feeds: []Column{{Table: "state_groups_pending_deletion", Column: "sequence_number"}}, Source: "schema/state/delta/89/01_state_groups_deletion.sql"},
		{Name: "sticky_events_sequence", Stream: "sticky_events", Feeds: []Column{{Table: "sticky_events", Column: "stream_id"}, {Table: "destination_rooms_sticky_events_backlog", Column: "sticky_events_stream_position"}}, Int4: true, Source: in("sticky_events")},
		{Name: "thread_subscriptions_sequence", Stream: "thread_subscriptions", Feeds: col("thread_subscriptions"), Int4: true, Source: in("thread_subscriptions")},
		{Name: "un_partial_stated_event_stream_sequence", Stream: "un_partial_stated_event_stream", Feeds: col("un_partial_stated_event_stream"), Source: in("events_worker")},
		{Name: "un_partial_stated_room_stream_sequence", Stream: "un_partial_stated_room_stream", Feeds: col("un_partial_stated_room_stream"), Source: in("room")},
		// Feeds no column of its own: the values become localparts of users.name.
		{Name: "user_id_seq", Source: in("registration")},
	}
}
