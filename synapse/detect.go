package synapse

// Detect reports whether a database is Synapse's, by tables that every version
// since 2014 has and that nobody else combines. has says whether a table exists.
func Detect(has func(schema, table string) bool) bool {
	for _, t := range []string{"applied_schema_deltas", "schema_version", "event_json", "state_groups_state"} {
		if !has("public", t) {
			return false
		}
	}
	return true
}
