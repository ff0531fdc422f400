package synapse

// roomsTables: rooms and who looks after them.
func roomsTables() []Table {
	return []Table{
		{
			Name: "rooms", Category: Core, Item: "m.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, User: []string{"creator"},
			Source: "databases/main/room.py",
		},
		{
			Name: "room_aliases", Category: Core, Item: "m.rooms", Subject: []string{"room_id", "room_alias"},
			Room: []string{"room_id"}, User: []string{"creator"},
			Source: "databases/main/directory.py",
		},
		{
			Name: "room_alias_servers", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_alias"},
			Source: "databases/main/directory.py",
		},
		{
			Name: "room_depth", Category: Core,
			Room: []string{"room_id"},
			From: []string{"events"}, Reason: "the least depth of a room's events", Source: "databases/main/room.py",
		},
		{
			Name: "room_retention", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "partial_state_rooms", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"join_event_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "partial_state_rooms_servers", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room:   []string{"room_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "un_partial_stated_room_stream", Category: Core,
			Room: []string{"room_id"},
			From: []string{"partial_state_rooms"}, Reason: "tells this server's workers and clients that a room's state became known", Source: "databases/main/room.py",
		},
		{
			Name: "blocked_rooms", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "appservice_room_list", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room:   []string{"room_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "event_reports", Category: Core, Item: "im.lifeboat.moderation", Subject: []string{"id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "room_reports", Category: Core, Item: "im.lifeboat.moderation", Subject: []string{"id"},
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "user_reports", Category: Core, Item: "im.lifeboat.moderation", Subject: []string{"id"},
			User:   []string{"target_user_id", "user_id"},
			Source: "databases/main/room.py",
		},
		{
			Name: "room_ban_redactions", Category: Core, Item: "im.lifeboat.moderation", Subject: []string{"room_id", "user_id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"redacting_event_id"},
			Source: "databases/main/events.py",
		},
	}
}
