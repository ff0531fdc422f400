package synapse

// pushTables: receipts, notifications and pushers.
func pushTables() []Table {
	return []Table{
		{
			Name: "receipts_linearized", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_id", "room_id", "receipt_type"},
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id", "thread_id"},
			Source: "databases/main/receipts.py",
		},
		{
			Name: "receipts_graph", Category: Core,
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"thread_id"},
			From: []string{"receipts_linearized"}, Reason: "the same receipts as other servers count them", Source: "databases/main/receipts.py",
		},
		{
			Name: "push_rules", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_name", "rule_id"},
			User:   []string{"user_name"},
			Source: "databases/main/push_rule.py",
		},
		{
			Name: "push_rules_enable", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_name", "rule_id"},
			User:   []string{"user_name"},
			Source: "databases/main/push_rule.py",
		},
		{
			Name: "push_rules_stream", Category: Core,
			User: []string{"user_id"},
			From: []string{"push_rules"}, Reason: "tells this server's clients that rules changed", Source: "databases/main/push_rule.py",
		},
		{
			Name: "pushers", Category: Core, Item: "im.lifeboat.users", Subject: []string{"user_name", "app_id", "pushkey"}, Secret: true,
			User:   []string{"user_name"},
			Source: "databases/main/pusher.py",
		},
		{
			Name: "deleted_pushers", Category: Core,
			User: []string{"user_id"},
			From: []string{"pushers"}, Reason: "tells this server's workers that a pusher is gone", Source: "databases/main/pusher.py",
		},
		{
			Name: "pusher_throttle", Category: Ephemeral,
			Room:   []string{"room_id"},
			Reason: "when a room was last mailed about; begins anew", Source: "databases/main/pusher.py",
		},
		{
			Name: "event_push_actions", Category: Core,
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"event_id", "thread_id"},
			From: []string{"event_json", "push_rules", "receipts_linearized"}, Reason: "push rules over the events since the receipt; Synapse has no tool that does it, so the backup must hold it", Source: "databases/main/event_push_actions.py",
		},
		{
			Name: "event_push_actions_staging", Category: Ephemeral,
			User: []string{"user_id"}, Event: []string{"event_id", "thread_id"},
			Reason: "held while an event is being written", Source: "databases/main/event_push_actions.py",
		},
		{
			Name: "event_push_summary", Category: Core,
			Room: []string{"room_id"}, User: []string{"user_id"}, Event: []string{"thread_id"},
			From: []string{"event_push_actions"}, Reason: "its counts of what was rotated away", Source: "databases/main/event_push_actions.py",
		},
		{
			Name: "event_push_summary_last_receipt_stream_id", Category: Position,
			Reason: "up to where receipts were counted; empty, /sync answers 404", Source: "databases/main/event_push_actions.py",
		},
		{
			Name: "event_push_summary_stream_ordering", Category: Position,
			Reason: "up to where events were counted; empty, /sync answers 404", Source: "databases/main/event_push_actions.py",
		},
	}
}
