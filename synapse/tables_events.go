package synapse

// eventsTables: what events are, and what follows from them.
func eventsTables() []Table {
	return []Table{
		{
			Name: "events", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, User: []string{"sender"}, Event: []string{"event_id"},
			Source: "databases/main/events.py",
		},
		{
			Name: "event_json", Category: Core, Item: "m.events", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/events.py",
		},
		{
			Name: "event_auth", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id", "auth_id"},
			From: []string{"event_json"}, Reason: "auth_events of each event", Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_auth_chains", Category: Derived,
			Event: []string{"event_id"},
			From:  []string{"event_auth"}, Reason: "rooms.has_auth_chain_index = false and the background update chain_cover", Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_auth_chain_links", Category: Derived,
			From: []string{"event_auth"}, Reason: "as event_auth_chains", Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_auth_chain_to_calculate", Category: Derived,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			From: []string{"event_auth"}, Reason: "as event_auth_chains", Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_backward_extremities", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_forward_extremities", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_edges", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id", "prev_event_id"},
			From: []string{"event_json"}, Reason: "prev_events of each event", Source: "databases/main/event_federation.py",
		},
		{
			Name: "event_expiry", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"event_id"},
			Event:  []string{"event_id"},
			Source: "databases/main/censor_events.py",
		},
		{
			Name: "event_labels", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			From: []string{"event_json"}, Reason: "org.matrix.labels of each event", Source: "databases/main/events.py",
		},
		{
			Name: "event_relations", Category: Core,
			Event: []string{"event_id", "relates_to_id"},
			From:  []string{"event_json"}, Reason: "m.relates_to of each event", Source: "databases/main/relations.py",
		},
		{
			Name: "event_to_state_groups", Category: Core, Item: "im.lifeboat.room_state", Subject: []string{"event_id"},
			Event:  []string{"event_id"},
			Source: "databases/main/state.py",
		},
		{
			Name: "event_txn_id_device_id", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id"},
			Source: "databases/main/events_worker.py",
		},
		{
			Name: "event_failed_pull_attempts", Category: Ephemeral,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Reason: "how long not to ask other servers again for an event; they are asked", Source: "databases/main/event_federation.py",
		},
		{
			Name: "ex_outlier_stream", Category: Core,
			Event: []string{"event_id"},
			From:  []string{"events"}, Reason: "when this server stopped holding an event as an outlier: for its own workers", Source: "databases/main/events_worker.py",
		},
		{
			Name: "redactions", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"redacts"},
			Event:  []string{"event_id", "redacts"},
			Source: "databases/main/events_worker.py",
		},
		{
			Name: "rejections", Category: Core, Item: "im.lifeboat.event_meta", Subject: []string{"event_id"},
			Event:  []string{"event_id"},
			Source: "databases/main/rejections.py",
		},
		{
			Name: "threads", Category: Core,
			Room: []string{"room_id"}, Event: []string{"thread_id", "latest_event_id"},
			From: []string{"event_relations"}, Reason: "newest event of each thread", Source: "databases/main/relations.py",
		},
		{
			Name: "stream_ordering_to_exterm", Category: Ephemeral,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Reason: "the last month of forward extremities, for device list changes of late events; refills", Source: "databases/main/event_federation.py",
		},
		{
			Name: "timeline_gaps", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room:   []string{"room_id"},
			Source: "databases/main/stream.py",
		},
		{
			Name: "sticky_events", Category: Core, Item: "im.lifeboat.pending", Subject: []string{"room_id", "event_id"},
			Room: []string{"room_id"}, User: []string{"sender"}, Event: []string{"event_id"},
			Source: "databases/main/sticky_events.py",
		},
		{
			Name: "delayed_events", Category: Core, Item: "im.lifeboat.pending", Subject: []string{"user_localpart", "delay_id"}, Secret: true,
			Room: []string{"room_id"}, User: []string{"user_localpart"},
			Source: "databases/main/delayed_events.py",
		},
		{
			Name: "msc4242_state_dag_edges", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id", "prev_state_event_id"},
			From: []string{"event_json"}, Reason: "prev_state_events of each event", Source: "databases/main/event_federation.py",
		},
		{
			Name: "msc4242_state_dag_forward_extremities", Category: Core,
			Room: []string{"room_id"}, Event: []string{"event_id"},
			From: []string{"event_json"}, Reason: "events that no other names in prev_state_events", Source: "databases/main/event_federation.py",
		},
		{
			Name: "partial_state_events", Category: Core, Item: "im.lifeboat.rooms", Subject: []string{"room_id"},
			Room: []string{"room_id"}, Event: []string{"event_id"},
			Source: "databases/main/events_worker.py",
		},
		{
			Name: "un_partial_stated_event_stream", Category: Core,
			Event: []string{"event_id"},
			From:  []string{"partial_state_events"}, Reason: "tells this server's workers and clients that an event's state became known", Source: "databases/main/events_worker.py",
		},
	}
}
