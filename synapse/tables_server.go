package synapse

// serverTables: the server's own bookkeeping: schema, workers, jobs, bridges.
func serverTables() []Table {
	return []Table{
		{
			Name: "applied_schema_deltas", Category: Bookkeeping,
			Reason: "the schema is this Synapse's own; a row says that one was just changed", Source: "schema/common/schema_version.sql",
		},
		{
			Name: "applied_module_schemas", Category: Bookkeeping,
			Reason: "as applied_schema_deltas, of modules", Source: "schema/common/schema_version.sql",
		},
		{
			Name: "schema_version", Category: Bookkeeping,
			Reason: "as applied_schema_deltas; empty, Synapse would make its schema over the tables", Source: "schema/common/schema_version.sql",
		},
		{
			Name: "schema_compat_version", Category: Bookkeeping,
			Reason: "the oldest Synapse that may run on this schema", Source: "schema/common/schema_version.sql",
		},
		{
			Name: "background_updates", Category: Bookkeeping,
			Reason: "work on this schema that is not done yet", Source: "schema/common/delta/25/00background_updates.sql",
		},
		{
			Name: "scheduled_tasks", Category: Core, Item: "im.lifeboat.pending", Subject: []string{"id"},
			Room: []string{"resource_id"}, User: []string{"resource_id"},
			Source: "databases/main/task_scheduler.py",
		},
		{
			Name: "cache_invalidation_stream_by_instance", Category: Ephemeral,
			Reason: "wakes running workers only", Source: "databases/main/cache.py",
		},
		{
			Name: "instance_map", Category: Core,
			Reason: "numbers of this server's workers, parts of its sync tokens", Source: "databases/main/stream.py",
		},
		{
			Name: "stream_positions", Category: StreamPositions, Item: "im.lifeboat.server", Subject: []string{"stream_name"},
			Source: "schema/main/delta/58/18stream_positions.sql",
		},
		{
			Name: "worker_locks", Category: Ephemeral,
			Reason: "locks of running workers", Source: "databases/main/lock.py",
		},
		{
			Name: "worker_read_write_locks", Category: Ephemeral,
			Reason: "locks of running workers; unlogged, so PostgreSQL cannot publish it", Source: "databases/main/lock.py",
		},
		{
			Name: "worker_read_write_locks_mode", Category: Ephemeral,
			Reason: "as worker_read_write_locks", Source: "schema/main/delta/79/03_read_write_locks_triggers.sql.postgres",
		},
		{
			Name: "application_services_state", Category: Core, Item: "im.lifeboat.appservices", Subject: []string{"as_id"},
			Source: "databases/main/appservice.py",
		},
		{
			Name: "application_services_txns", Category: Core, Item: "im.lifeboat.appservices", Subject: []string{"as_id", "txn_id"},
			Source: "databases/main/appservice.py",
		},
		{
			Name: "appservice_stream_position", Category: Position,
			Reason: "up to where events were given to bridges", Source: "databases/main/appservice.py",
		},
		{
			Name: "room_forgetter_stream_pos", Category: Position,
			Reason: "up to where rooms that everybody left were forgotten", Source: "databases/main/roommember.py",
		},
		{
			Name: "delayed_events_stream_pos", Category: Position,
			Reason: "up to where state changes were held against delayed events", Source: "databases/main/delayed_events.py",
		},
	}
}
