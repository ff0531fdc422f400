package synapse

// federationTables: what other servers were sent, are owed, and have said.
func federationTables() []Table {
	return []Table{
		{
			Name: "destinations", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination"},
			Source: "databases/main/transactions.py",
		},
		{
			Name: "destination_rooms", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination", "room_id"},
			Room:   []string{"room_id"},
			Source: "databases/main/transactions.py",
		},
		{
			Name: "destination_rooms_sticky_events_backlog", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination", "room_id"},
			Room:   []string{"room_id"},
			Source: "databases/main/sticky_events.py",
		},
		{
			Name: "device_federation_outbox", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination"},
			Source: "databases/main/deviceinbox.py",
		},
		{
			Name: "device_federation_inbox", Category: Ephemeral, Item: "im.lifeboat.federation", Subject: []string{"origin", "message_id"},
			Source: "databases/main/deviceinbox.py",
		},
		{
			Name: "device_lists_outbound_pokes", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination", "user_id", "device_id"},
			User:   []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "device_lists_outbound_last_success", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"destination", "user_id"},
			User:   []string{"user_id"},
			Source: "databases/main/devices.py",
		},
		{
			Name: "federation_inbound_events_staging", Category: Core, Item: "im.lifeboat.federation", Subject: []string{"origin", "event_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/event_federation.py",
		},
		{
			Name: "federation_stream_position", Category: Position,
			Reason: "up to where events were sent to other servers", Source: "databases/main/stream.py",
		},
		{
			Name: "received_transactions", Category: Ephemeral,
			Reason: "answers to a day's requests of other servers, for their repetitions", Source: "databases/main/transactions.py",
		},
		{
			Name: "server_keys_json", Category: Remote, Item: "im.lifeboat.server", Subject: []string{"server_name", "key_id"},
			Source: "databases/main/keys.py",
		},
		{
			Name: "server_signature_keys", Category: Remote, Item: "im.lifeboat.server", Subject: []string{"server_name", "key_id"},
			Source: "databases/main/keys.py",
		},
	}
}
