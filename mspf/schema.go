package mspf

import (
	"strings"
)

// form says how an item lies in its files.
type form byte

const (
	doc   form = iota // one JSON object
	byKey             // CBOR: key → value
	lists             // CBOR: key → array of values
)

// part is one kind of file of an item: a row of the table that writer, reader,
// checker and docs/mspf.cddl share.
type part struct {
	item  string
	path  string // N is the number of a file: 1, 2, …
	form  form
	rank  int    // files lie in the archive by rank, then number; equal ranks alternate
	key   string // what the keys are, for people
	value shape  // of the document, or of one value
	text  string
}

// manifestPath is the first file of an archive.
const manifestPath = "manifest.mspf.json"

// Items of the archive. The names of MSC2783 are its own.
const (
	itemCore      = "m.core"
	itemRooms     = "m.rooms"
	itemEvents    = "m.events"
	itemUsers     = "m.users"
	itemKeys      = "m.e2e.keys"
	itemToDevice  = "m.e2e.to_device"
	itemArchive   = Prefix + "archive"
	itemServer    = Prefix + "server"
	itemDetails   = Prefix + "rooms"
	itemState     = Prefix + "room_state"
	itemInvites   = Prefix + "invites"
	itemMeta      = Prefix + "event_meta"
	itemRaw       = Prefix + "raw_events"
	itemProfiles  = Prefix + "users"
	itemDatabase  = Prefix + "synapse"
	itemReport    = Prefix + "report"
	itemIntegrity = Prefix + "integrity"
	layoutKey     = Prefix + "layout"
)

// parts is the table, in the order of an archive.
func parts() []part {
	all := []part{
		{item: itemCore, path: "m.core.json", value: coreShape(), text: "MSC2783: who the server is"},
		{item: itemArchive, path: Prefix + "archive.json", value: archiveShape(), text: "where the archive comes from"},
		{item: itemServer, path: Prefix + "server.json", value: serverShape(), text: "keys and positions that m.core has no room for"},
		{item: itemRooms, path: "m.rooms.cbor", form: byKey, key: "room id", value: roomShape(), text: "MSC2783: room versions and local aliases"},
		{item: itemDetails, path: Prefix + "rooms/rooms.N.cbor", form: byKey, key: "room id", value: detailsShape(), text: "extremities, current state, local members, directory"},
		{item: itemState, path: Prefix + "room_state/room_state.N.cbor", form: lists, key: "room id", value: stateShape(), text: "state before events whose previous events are missing"},
		{item: itemInvites, path: Prefix + "invites/invites.N.cbor", form: lists, key: "room id", value: inviteShape(), text: "invites and knocks with their stripped state"},
		{item: itemEvents, path: "m.events/events.N.cbor", form: lists, key: "room id", value: shape{kind: kindOpen}, text: "MSC2783: events as the room version has them"},
		{item: itemMeta, path: Prefix + "event_meta/event_meta.N.cbor", form: lists, key: "room id", value: metaShape(), text: "file N: what the server keeps beside the events of m.events' file N, in their order"},
		{item: itemRaw, path: Prefix + "raw_events/raw_events.N.cbor", form: byKey, key: "room id", value: mapOf("event id", text()), text: "the JSON text of events that CBOR does not carry exactly"},
		{item: itemUsers, path: "m.users/users.N.cbor", form: byKey, key: "user id", value: userShape(), text: "MSC2783: local accounts"},
		{item: itemProfiles, path: Prefix + "users/users.N.cbor", form: byKey, key: "user id", value: userDetailsShape(), text: "all else of local accounts"},
		{item: itemKeys, path: "m.e2e/keys.N.cbor", form: byKey, key: "user id", value: keysShape(), text: "MSC2783 names it, we lay it out: keys of local users; no one-time keys"},
		{item: itemToDevice, path: "m.e2e/to_device.N.cbor", form: byKey, key: "user id", value: mapOf("device id", listOf(toDeviceShape())), text: "MSC2783 names it, we lay it out: waiting messages in order of delivery"},
		{item: itemDatabase, path: Prefix + "synapse/schema.json", value: databaseShape(), text: "the schema of the database"},
		{item: itemDatabase, path: Prefix + "synapse/rows.N.cbor", form: lists, key: "table", value: text(), text: "every row in PostgreSQL's COPY text format"},
		{item: itemReport, path: Prefix + "report.json", value: reportShape(), text: "what is not carried"},
		{item: itemIntegrity, path: Prefix + "integrity.json", value: integrityShape(), text: "size and SHA-256 of every other file; the last file"},
	}
	for i := range all {
		all[i].rank = i + 1
		if all[i].item == itemMeta || all[i].item == itemRaw {
			all[i].rank = all[i-1].rank
		}
	}
	return all
}

// partOf finds the part that a path belongs to, and the number of the file (0 when
// the part is one file).
func partOf(table []part, path string) (part, int, bool) {
	for _, p := range table {
		before, after, numbered := strings.Cut(p.path, "N")
		if !numbered {
			if path == p.path {
				return p, 0, true
			}
			continue
		}
		rest, ok := strings.CutPrefix(path, before)
		if !ok {
			continue
		}
		digits, ok := strings.CutSuffix(rest, after)
		if !ok {
			continue
		}
		if n, ok := fileNumber(digits); ok {
			return p, n, true
		}
	}
	return part{}, 0, false
}

// fileNumber reads 1, 2, …: no sign, no leading zero, at most nine digits.
func fileNumber(s string) (int, bool) {
	if s == "" || len(s) > 9 || s[0] == '0' {
		return 0, false
	}
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// layout says that the MSC names the item and leaves its structure open.
func layout(item string) bool { return item == itemKeys || item == itemToDevice }
