package event

import "slices"

// IDFormat is how the id of an event is found and spelled.
type IDFormat byte

const (
	// IDInEvent: the key event_id of the event, chosen by its server (versions 1, 2).
	IDInEvent IDFormat = iota + 1
	// IDBase64: "$" and the reference hash in the standard alphabet (version 3).
	IDBase64
	// IDBase64URL: "$" and the reference hash in the URL-safe alphabet (from version 4).
	IDBase64URL
)

// Version is what a room version says of the identity of events. The zero Version
// is none.
type Version struct {
	ID       string   // as in m.room.create, for instance "10"
	IDFormat IDFormat // how event ids are spelled
	// StrictJSON: events hold only integers within ±(2^53-1) (from version 6). Before,
	// floats and large integers are possible, and only Python's spelling of them
	// (which Synapse hashes) is the canonical one.
	StrictJSON bool
	// RoomIDIsHash: the room id is "!" and the hash of the create event, which
	// therefore has no room_id (from version 12, MSC4291).
	RoomIDIsHash bool
	// Keep lists the top-level keys that survive a redaction.
	Keep []string
	// Content lists by event type which keys of content survive; "*" is all of them,
	// "a.b" the key b of the object a. A type that is not listed keeps none.
	Content map[string][]string
}

// Versions gives the stable room versions 1 to 12, ascending; a fresh copy.
// Source: Matrix specification, "Room Versions", section "Redactions" of each.
func Versions() []Version {
	ids := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
	all := make([]Version, len(ids))
	for i, id := range ids {
		all[i] = version(i+1, id)
	}
	return all
}

// Lookup gives the room version of that id; false when it is not known here. Who reads
// many events keeps the result.
func Lookup(id string) (Version, bool) {
	all := Versions()
	i := slices.IndexFunc(all, func(v Version) bool { return v.ID == id })
	if i < 0 {
		return Version{}, false
	}
	return all[i], true
}

func version(n int, id string) Version {
	v := Version{ID: id, IDFormat: IDBase64URL, StrictJSON: n >= 6, RoomIDIsHash: n >= 12}
	switch {
	case n <= 2:
		v.IDFormat = IDInEvent
	case n == 3:
		v.IDFormat = IDBase64
	}
	v.Keep = []string{
		"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
		"depth", "prev_events", "auth_events", "origin_server_ts",
	}
	if n <= 10 { // MSC2176
		v.Keep = append(v.Keep, "prev_state", "origin", "membership")
	}
	member := []string{"membership"}
	joinRules := []string{"join_rule"}
	power := []string{"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}
	create := []string{"creator"}
	if n >= 8 { // MSC3289
		joinRules = append(joinRules, "allow")
	}
	if n >= 9 { // MSC3375
		member = append(member, "join_authorised_via_users_server")
	}
	if n >= 11 { // MSC2176, MSC3821
		member = append(member, "third_party_invite.signed")
		power = append(power, "invite")
		create = []string{"*"}
	}
	v.Content = map[string][]string{
		"m.room.member":             member,
		"m.room.create":             create,
		"m.room.join_rules":         joinRules,
		"m.room.power_levels":       power,
		"m.room.history_visibility": {"history_visibility"},
	}
	if n <= 5 { // MSC2432
		v.Content["m.room.aliases"] = []string{"aliases"}
	}
	if n >= 11 {
		v.Content["m.room.redaction"] = []string{"redacts"}
	}
	return v
}
