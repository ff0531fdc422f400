package synapse

// devicesTables: devices, their keys and messages to them.
func devicesTables() []Table {
	return []Table{
		{
			Name: "devices", Category: Core, Item: "m.users", Subject: []string{"user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "dehydrated_devices", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "device_id"}, Secret: true,
			User:   []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "device_auth_providers", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "device_inbox", Category: Core, Item: "m.e2e.to_device", Subject: []string{"user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/deviceinbox.py",
		},
		{
			Name: "e2e_device_keys_json", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/end_to_end_keys.py",
		},
		{
			Name: "e2e_fallback_keys_json", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/end_to_end_keys.py",
		},
		{
			Name: "e2e_one_time_keys_json", Category: OneTimeKeys,
			User:   []string{"user_id"},
			Reason: "a key that is handed out twice breaks the second conversation; clients upload new ones", Source: "databases/main/end_to_end_keys.py",
		},
		{
			Name: "e2e_cross_signing_keys", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "keytype"},
			User:   []string{"user_id"},
			Source: "databases/main/end_to_end_keys.py",
		},
		{
			Name: "e2e_cross_signing_signatures", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "target_user_id", "target_device_id"},
			User:   []string{"user_id", "target_user_id"},
			Source: "databases/main/end_to_end_keys.py",
		},
		{
			Name: "e2e_room_keys", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "version", "room_id", "session_id"}, Secret: true,
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/e2e_room_keys.py",
		},
		{
			Name: "e2e_room_keys_versions", Category: Core, Item: "m.e2e.keys", Subject: []string{"user_id", "version"},
			User:   []string{"user_id"},
			Source: "databases/main/e2e_room_keys.py",
		},
		{
			Name: "user_signature_stream", Category: Core,
			User: []string{"from_user_id"},
			From: []string{"e2e_cross_signing_signatures"}, Reason: "tells this server's clients that signatures changed", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_stream", Category: Core,
			User: []string{"user_id"},
			From: []string{"devices"}, Reason: "tells clients and servers that a device changed; an import announces every device", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_changes_in_room", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"user_id", "device_id"},
			Room: []string{"room_id"}, User: []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_changes_in_room_max_pruned_stream_id", Category: Position,
			Reason: "up to where device_lists_changes_in_room was pruned", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_changes_converted_stream_position", Category: Position,
			Room:   []string{"room_id"},
			Reason: "up to where changes in rooms became messages to servers", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_remote_cache", Category: Remote,
			User:   []string{"user_id"},
			Reason: "devices of other servers' users; asked for again", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_remote_extremeties", Category: Remote,
			User:   []string{"user_id"},
			Reason: "as device_lists_remote_cache", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_remote_pending", Category: Ephemeral,
			User:   []string{"user_id"},
			Reason: "updates of other servers that await a resync; the resync brings them", Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_remote_resync", Category: Remote,
			User:   []string{"user_id"},
			Reason: "whose devices must be asked for again", Source: "databases/main/devices.py",
		},
	}
}
