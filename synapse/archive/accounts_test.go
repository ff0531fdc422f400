package archive

import (
	"reflect"
	"slices"
	"testing"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
)

// account makes a user with something of everything.
func (w *world) account(name string) {
	id := "@" + name + ":example.org"
	for table, values := range map[string]map[string]any{
		"users": {
			"name": id, "password_hash": "$2b$12$abc", "creation_ts": 1600000000, "admin": 1, "is_guest": 0, "deactivated": 0, "locked": true, "suspended": false,
			"approved": true, "consent_version": "1", "consent_ts": 5,
		},
		"profiles":                     {"user_id": name, "displayname": "The " + name, "avatar_url": nil, "fields": `{"m.tz": "Europe/Berlin"}`},
		"account_data":                 {"user_id": id, "account_data_type": "m.direct", "content": `{"@b:example.org": ["!x"]}`},
		"room_account_data":            {"user_id": id, "room_id": "!x", "account_data_type": "m.fully_read", "content": `{"event_id": "$1"}`},
		"room_tags":                    {"user_id": id, "room_id": "!x", "tag": "m.favourite", "content": `{"order": 0.5}`},
		"push_rules":                   {"user_name": id, "priority_class": 5, "priority": 0, "rule_id": "global/override/x", "conditions": "[]", "actions": `["notify"]`},
		"push_rules_enable":            {"user_name": id, "rule_id": "global/override/.m.rule.master", "enabled": 0},
		"pushers":                      {"user_name": id, "kind": "http", "app_id": "a", "pushkey": "k", "data": `{"url": "https://push"}`, "enabled": nil},
		"receipts_linearized":          {"user_id": id, "room_id": "!x", "receipt_type": "m.read", "thread_id": nil, "event_id": "$1", "data": `{"ts": 1}`},
		"user_filters":                 {"user_id": name, "filter_id": 0, "filter_json": `\x7b22726f6f6d223a7b7d7d`},
		"thread_subscriptions":         {"user_id": id, "room_id": "!x", "event_id": "$1", "subscribed": true, "automatic": false},
		"user_threepids":               {"user_id": id, "medium": "email", "address": name + "@mail", "validated_at": 1, "added_at": 2},
		"user_threepid_id_server":      {"user_id": id, "medium": "email", "address": name + "@mail", "id_server": "vector.im"},
		"user_external_ids":            {"user_id": id, "auth_provider": "oidc", "external_id": "42"},
		"erased_users":                 {"user_id": id},
		"account_validity":             {"user_id": id, "expiration_ts_ms": 99},
		"ratelimit_override":           {"user_id": id, "messages_per_second": 0, "burst_count": 0},
		"devices":                      {"user_id": id, "device_id": "DEV", "display_name": nil, "last_seen": 7, "ip": "::1", "user_agent": "x", "hidden": false},
		"dehydrated_devices":           {"user_id": id, "device_id": "DEHYD", "device_data": `{"a": 1}`},
		"e2e_device_keys_json":         {"user_id": id, "device_id": "DEV", "key_json": `{"keys": {}}`},
		"e2e_fallback_keys_json":       {"user_id": id, "device_id": "DEV", "algorithm": "signed_curve25519", "key_id": "AAAA", "key_json": `{"fallback": true}`},
		"e2e_one_time_keys_json":       {"user_id": id, "device_id": "DEV", "algorithm": "signed_curve25519", "key_id": "OTK-" + name, "key_json": `{"key": "one-time-secret"}`},
		"e2e_cross_signing_signatures": {"user_id": id, "key_id": "ed25519:DEV", "target_user_id": "@z:elsewhere.org", "target_device_id": "D", "signature": "sig"},
	} {
		w.d.add(table, values)
	}
	w.d.add("devices", map[string]any{"user_id": id, "device_id": "cross-signing-key", "hidden": true})
	for i, kind := range []string{"master", "self_signing", "master"} {
		w.d.add("e2e_cross_signing_keys", map[string]any{"user_id": id, "keytype": kind, "stream_id": 10 - i, "keydata": `{"n": ` + string(rune('0'+i)) + `}`})
	}
	for version, deleted := range []int{1, 0} {
		w.d.add("e2e_room_keys_versions", map[string]any{"user_id": id, "version": version + 1, "algorithm": "m.megolm_backup.v1", "auth_data": `{}`, "etag": 3, "deleted": deleted})
		w.d.add("e2e_room_keys", map[string]any{
			"user_id": id, "version": version + 1, "room_id": "!x", "session_id": "s", "first_message_index": 0, "forwarded_count": 0, "is_verified": true, "session_data": `{"ciphertext": "c"}`,
		})
	}
	for stream, text := range map[int]string{9: "first", 10: "second"} {
		w.d.add("device_inbox", map[string]any{
			"user_id": id, "device_id": "DEV", "stream_id": stream, "message_json": `{"sender": "@b:example.org", "type": "m.x", "content": {"n": "` + text + `"}, "message_id": "m", "org.matrix.opentracing_context": {}}`,
		})
	}
}

// TestAccounts: everything of an account is in the archive, in the place that the
// format has for it.
func TestAccounts(t *testing.T) {
	w := newWorld(t)
	w.room("10")
	for _, name := range []string{"b", "a", "17"} {
		w.account(name)
	}
	o := options()
	o.Password = &mspf.Password{Scheme: "bcrypt", Peppered: true, Normalization: "NFKC", MaxBytes: 72}
	a := w.export(o)
	id := "@a:example.org"
	u := decode[mspf.User](a, "m.users")[id][0]
	if u.PasswordHash != "$2b$12$abc" || u.CreatedAt != 1600000000 || !reflect.DeepEqual(u.Devices, map[string]mspf.Device{"DEV": {}}) || u.RoomTags["!x"]["m.favourite"] == nil {
		t.Errorf("m.users: %+v", u)
	}
	d := decode[mspf.UserDetails](a, "im.lifeboat.users")[id][0]
	if d.Profile["displayname"] != "The a" || d.Profile["m.tz"] != "Europe/Berlin" || d.AccountData.Global["m.direct"] == nil || d.AccountData.Rooms["!x"]["m.fully_read"] == nil {
		t.Errorf("profile and account data: %+v", d)
	}
	if len(d.PushRules) != 1 || d.PushEnabled["global/override/.m.rule.master"] || len(d.PushEnabled) != 1 || len(d.Pushers) != 1 || len(d.Receipts) != 1 || len(d.Threads) != 1 || len(d.ExternalIDs) != 1 {
		t.Errorf("lists: %+v", d)
	}
	if f, ok := d.Filters["0"].(map[string]any); !ok || f["room"] == nil {
		t.Errorf("filters: %+v", d.Filters)
	}
	if len(d.ThreePIDs) != 1 || !slices.Equal(d.ThreePIDs[0].Servers, []string{"vector.im"}) || d.ThreePIDs[0].AddedTS != 2 {
		t.Errorf("threepids: %+v", d.ThreePIDs)
	}
	if want := (mspf.UserStatus{Admin: true, Locked: true, Approved: true, Erased: true}); d.Status != want || d.ExpiresTS != 99 || d.RateLimit == nil || d.Consent.TS != 5 {
		t.Errorf("status: %+v", d)
	}
	if d.LastSeen["DEV"].TS != 7 || d.Dehydrated == nil || d.Password == nil || !d.Password.Peppered {
		t.Errorf("devices and password: %+v", d)
	}
	if s := decode[mspf.Server](a, "im.lifeboat.server")[""][0]; s.HighestLocalpart != 17 || len(s.VerifyKeys) != 1 {
		t.Errorf("server: %+v", s)
	}
	a.keys(t, id)
	for _, secret := range []string{"one-time-secret", "OTK-a"} {
		if leak := holding(t, a.path, secret); leak != "" {
			t.Errorf("%s holds a one-time key", leak)
		}
	}
	before := o
	before.AuthService = true
	if a := w.export(before); holding(t, a.path, "$2b$12$") != "" || a.lost("auth_service") != 3 || decode[mspf.UserDetails](a, "im.lifeboat.users")[id][0].Password != nil {
		t.Errorf("of accounts of the authentication service: %+v", a.report)
	}
	o.NoPasswords = true
	if leak := holding(t, w.export(o).path, "$2b$12$"); leak != "" {
		t.Errorf("%s holds a hash that was not wanted", leak)
	}
}

func (a *written) keys(t *testing.T, id string) {
	t.Helper()
	k := decode[mspf.Keys](a, "m.e2e.keys")[id][0]
	if k.DeviceKeys["DEV"] == nil || k.FallbackKeys["DEV"]["signed_curve25519:AAAA"] == nil || len(k.Signatures) != 1 || len(k.CrossSigning) != 2 {
		t.Errorf("keys: %+v", k)
	}
	if m, _ := k.CrossSigning["master"].(map[string]any); m["n"] != int64(0) && m["n"] != uint64(0) {
		t.Errorf("master key: %+v, want the newest", k.CrossSigning)
	}
	if old := k.Backups["1"]; !old.Deleted || len(old.Rooms) != 0 {
		t.Errorf("a deleted backup: %+v", old)
	}
	if b := k.Backups["2"]; b.Etag != "3" || b.Rooms["!x"]["s"] == nil {
		t.Errorf("a backup: %+v", b)
	}
	waiting := decode[map[string][]map[string]any](a, "m.e2e.to_device")[id][0]["DEV"]
	if len(waiting) != 2 || waiting[0]["content"].(map[string]any)["n"] != "first" || waiting[0]["message_id"] != "m" || len(waiting[0]) != 4 {
		t.Errorf("to-device: %+v", waiting)
	}
}

// everything has every table, empty.
type everything struct{ database }

func (e everything) Columns(string) []string { return []string{"x"} }

// TestM3_EveryTableHasItsPlace: each table that feeds an item of this archive is read for
// one, or its rows are counted in the report.
func TestM3_EveryTableHasItsPlace(t *testing.T) {
	w := newWorld(t)
	b := w.prepared(everything{})
	var unread []string
	for _, table := range synapse.Tables() {
		if carriedItems[table.Item] && !b[table.Name] {
			unread = append(unread, table.Name)
		}
	}
	want := []string{
		"appservice_room_list", "device_auth_providers", "event_expiry", "event_txn_id", "partial_state_events", "per_user_experimental_features",
		"server_keys_json", "timeline_gaps", "users_pending_deactivation",
	}
	if !slices.Equal(unread, want) {
		t.Errorf("without a place: %q, want %q", unread, want)
	}
	w.room("10")
	w.d.add("timeline_gaps", map[string]any{"room_id": "!x"})
	w.d.add("access_tokens", map[string]any{"token": "x"})
	w.d.add("local_media_repository", map[string]any{"media_id": "x"})
	w.d.add("room_tags", map[string]any{"user_id": "@gone:example.org", "room_id": "!x", "tag": "u.x", "content": "{}"})
	w.d.add("devices", map[string]any{"user_id": "@gone:example.org", "device_id": "D", "hidden": false})
	w.d.add("users", map[string]any{"name": "@old:example.org", "creation_ts": 1, "approved": nil})
	w.d.add("login_tokens", map[string]any{"token": "x"})
	a := w.export(options())
	for code, n := range map[string]int64{"table_not_carried": 1, "item_not_written": 2, "left_out": 1, "no_account": 2} {
		if got := a.lost(code); got != n {
			t.Errorf("%s: %d, want %d", code, got, n)
		}
	}
	if !slices.ContainsFunc(a.report.Losses, func(l mspf.Loss) bool { return l.Key == "local_media_repository" && l.Count == 1 }) {
		t.Errorf("media are not in the report: %+v", a.report.Losses)
	}
	if d := decode[mspf.UserDetails](a, "im.lifeboat.users")["@old:example.org"]; len(d) != 1 || !d[0].Status.Approved {
		t.Errorf("an account from before approval was asked for: %+v", d)
	}
}
