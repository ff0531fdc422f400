package mspf

func coreShape() shape {
	return object(req("server_name", text()), opt("signing_key", text(), `"ed25519 <key version> <unpadded base64 of the seed>"`))
}

func archiveShape() shape {
	return object(
		req("tool", text()), req("tool_version", text()),
		req("source", object(req("software", text()), opt("version", text()), opt("schema_version", integer()), opt("schema_compat", integer()))),
		req("server_name", text()),
		req("restore_point", object(opt("lsn", text()), opt("timeline", integer()), req("time_ms", integer(), "milliseconds since 1970"),
			opt("gaps", mapOf("table", text())))),
		req("filters", listOf(text()), "left out on request"),
		opt("event_order", oneOf("dag")),
		req("redaction", oneOf("applied", "none")),
		req("media", oneOf("none", "complete", "partial")),
	)
}

func serverShape() shape {
	return object(
		opt("verify_keys", mapOf("key id", text())),
		opt("old_verify_keys", mapOf("key id", object(req("key", text()), req("expired_ts", integer())))),
		opt("extra_signing_keys", listOf(text())),
		opt("stream_floors", mapOf("stream", integer())),
		opt("highest_generated_localpart", integer()),
	)
}

func roomShape() shape {
	return object(req("version", text()), req("aliases", listOf(text())))
}

func stateEntryShape() shape { return tuple(text(), text(), text()) }

func detailsShape() shape {
	return object(
		req("public", boolean(), "listed in the room directory"),
		opt("creator", text()),
		opt("aliases", mapOf("alias", object(opt("creator", text()), opt("servers", listOf(text()))))),
		req("forward_extremities", listOf(text())),
		req("backward_extremities", listOf(text()), "named by events, not in the archive"),
		req("state", listOf(stateEntryShape()), "type, state key, event id"),
		opt("members", mapOf("user id", object(req("membership", text()), opt("forgotten", boolean())))),
		opt("blocked", boolean()), opt("partial_state", boolean()), opt("partial_state_servers", listOf(text())),
		opt("retention", anything()), opt("local_only", boolean()),
	)
}

func stateShape() shape {
	return object(
		req("event_id", text(), "the event that the state comes before"),
		opt("delta", boolean(), "set and gone change the state of the entry before; else set is all"),
		req("set", listOf(stateEntryShape()), "type, state key, event id"),
		opt("gone", listOf(tuple(text(), text()))),
	)
}

func inviteShape() shape {
	return object(opt("version", text()), req("user_id", text()), req("event", open()), opt("state", listOf(open())), opt("via", listOf(text())), opt("rejected", boolean()))
}

func metaShape() shape {
	return object(
		req("event_id", text()), req("stream_ordering", integer()), req("received_ts", integer()),
		opt("outlier", boolean()), opt("rejected", text(), "the reason"), opt("soft_failed", boolean()), opt("out_of_band", boolean()),
		opt("censored", boolean(), "the content hash fails because the content was redacted"), opt("policy", text()), opt("redacted_by", text()),
		opt("txn_id", text()), opt("device_id", text()),
	)
}

func userShape() shape {
	return object(
		opt("password_hash", text()), req("created_at", integer(), "seconds since 1970"),
		req("room_tags", mapOf("room id", mapOf("tag", anything()))),
		req("devices", mapOf("device id", object(req("display_name", shape{kind: kindNullText}), req("hidden", boolean())))),
	)
}

func userDetailsShape() shape {
	return object(
		opt("profile", open()),
		req("account_data", object(opt("global", open()), opt("rooms", mapOf("room id", open())))),
		opt("push_rules", listOf(anything())), opt("push_enabled", mapOf("rule id", boolean())), opt("pushers", listOf(anything())),
		opt("receipts", listOf(object(req("room_id", text()), req("type", text()), req("event_id", text()), opt("thread_id", text()), opt("data", anything())))),
		opt("filters", open()), opt("thread_subscriptions", listOf(anything())),
		opt("threepids", listOf(object(req("medium", text()), req("address", text()), req("validated_ts", integer()), req("added_ts", integer()), opt("id_servers", listOf(text()))))),
		opt("external_ids", listOf(object(req("provider", text()), req("id", text())))),
		req("status", object(opt("admin", boolean()), opt("deactivated", boolean()), opt("locked", boolean()), opt("suspended", boolean()),
			opt("shadow_banned", boolean()), opt("erased", boolean()), opt("approved", boolean()), opt("guest", boolean()))),
		opt("user_type", text()), opt("appservice_id", text()),
		opt("consent", object(opt("version", text()), opt("ts", integer()), opt("notice_sent", text()))),
		opt("expires_ts", integer()),
		opt("ratelimit", object(req("messages_per_second", integer()), req("burst_count", integer()))),
		opt("last_seen", mapOf("device id", object(opt("ts", integer()), opt("ip", text()), opt("user_agent", text())))),
		opt("dehydrated_device", anything()),
		opt("password", object(req("scheme", text()), req("peppered", boolean()), opt("normalization", text()), opt("max_bytes", integer()))),
	)
}

func keysShape() shape {
	backup := object(
		opt("algorithm", text()), opt("auth_data", anything()), opt("etag", text()), opt("deleted", boolean()),
		opt("rooms", mapOf("room id", mapOf("session id", anything()))),
	)
	return object(
		opt("device_keys", mapOf("device id", anything())),
		opt("fallback_keys", mapOf("device id", mapOf("algorithm:key id", anything()))),
		opt("cross_signing", mapOf("master, self_signing or user_signing", anything())),
		opt("signatures", listOf(object(req("key_id", text()), req("target_user_id", text()), req("target_device_id", text()), req("signature", text())))),
		opt("backups", mapOf("version", backup)),
	)
}

func toDeviceShape() shape {
	return object(req("sender", text()), req("type", text()), req("content", open()), opt("message_id", text()))
}

func databaseShape() shape {
	return object(
		req("software", text()), req("schema_version", integer()), req("ddl", listOf(text()), "one SQL command each, before the rows"),
		req("ddl_after", listOf(text()), "indexes, constraints and triggers, when the rows are there"),
		req("tables", listOf(object(req("name", text()), req("columns", listOf(text()))))),
		req("sequences", mapOf("sequence", object(req("last", integer()), req("called", boolean(), "last was handed out; else it is the next value")))),
	)
}

func reportShape() shape {
	return object(
		req("complete", boolean(), "nothing of the source is missing"),
		req("losses", listOf(object(req("item", text()), opt("key", text()), req("code", text()),
			req("state", oneOf(string(Absent), string(Unsupported), string(Lossy))), req("count", integer()), req("reason", text())))),
	)
}

func integrityShape() shape {
	size := object(req("files", integer()), req("bytes", integer()), req("elements", integer()))
	return object(
		req("files", mapOf("path", object(req("sha256", text(), "hexadecimal"), req("bytes", integer())))),
		req("items", mapOf("item", size)),
		req("total", size),
	)
}
