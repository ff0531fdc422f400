package synapse

// stateTables: the state of rooms.
func stateTables() []Table {
	return []Table{
		{
			Name: "current_state_events", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/state.py",
		},
		{
			Name: "current_state_delta_stream", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id", "prev_event_id"},
			From: []string{"event_json"}, Reason: "in which order the state changed here: feeds this server's /sync, statistics and directory", Source: "databases/main/state_deltas.py",
		},
		{
			Name: "state_events", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			From: []string{"event_json"}, Reason: "the events that have a state_key", Source: "databases/main/events.py",
		},
		{
			Name: "state_groups", Category: Core, Item: "im.lifeboat.room_state", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/state/store.py",
		},
		{
			Name: "state_group_edges", Category: Core, Item: "im.lifeboat.room_state", Subject: []string{"state_group"},
			Source: "databases/state/store.py",
		},
		{
			Name: "state_groups_state", Category: Core, Item: "im.lifeboat.room_state", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/state/store.py",
		},
		{
			Name: "state_groups_pending_deletion", Category: Core,
			From: []string{"state_groups"}, Reason: "groups that nothing names and that are deleted in ten minutes; an archive does not hold them", Source: "databases/state/deletion.py",
		},
		{
			Name: "state_groups_persisting", Category: Ephemeral,
			Reason: "groups being written at this moment; cleared at boot", Source: "databases/state/deletion.py",
		},
		{
			Name: "local_current_membership", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id", "user_id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id"},
			Source: "databases/main/roommember.py",
		},
		{
			Name: "room_memberships", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id", "user_id"},
			Room: []string{"room_id"}, User: []string{"user_id", "sender"}, Event: []string{"event_id"},
			Source: "databases/main/roommember.py",
		},
	}
}
