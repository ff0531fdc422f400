package mspf

import "encoding/json"

// Prefix is the namespace of the items that MSC2783 does not know.
const Prefix = "im.lifeboat."

// Core is m.core: who the server is.
type Core struct {
	ServerName string `json:"server_name"`
	// SigningKey is one line "ed25519 <key version> <unpadded base64 of the seed>", as
	// signedjson and Synapse spell it; "" leaves it out.
	SigningKey string `json:"signing_key,omitempty"`
}

// Archive is im.lifeboat.archive: where the archive comes from.
type Archive struct {
	Tool        string `json:"tool"`
	ToolVersion string `json:"tool_version"`
	Source      Source `json:"source"`
	ServerName  string `json:"server_name"`
	Point       Point  `json:"restore_point"`
	// Filters name what was left out on request, for instance "no-signing-key".
	Filters []string `json:"filters"`
	// EventOrder is "dag" when every event comes after those of its auth and previous
	// events that are in the archive, else "".
	EventOrder string `json:"event_order,omitempty"`
	// Redaction is "applied" when pending redactions were applied, "none" when events
	// are as they were stored.
	Redaction string `json:"redaction"`
	// Media is "none", or says whether all media of the point were there: "complete", "partial".
	Media string `json:"media"`
}

// Source is the software whose data an archive holds.
type Source struct {
	Software     string `json:"software"`
	Version      string `json:"version,omitempty"`
	Schema       int64  `json:"schema_version,omitempty"`
	SchemaCompat int64  `json:"schema_compat,omitempty"`
}

// Point is the restore point: the commit that the archive is the state of.
type Point struct {
	LSN      string `json:"lsn,omitempty"`
	Timeline int64  `json:"timeline,omitempty"`
	// Time of the commit in milliseconds since 1970. Every time stamp of the archive,
	// those of its files included, is this one or comes from the data.
	Time int64 `json:"time_ms"`
	// Gaps are tables that are not exact at the point, with the reason.
	Gaps map[string]string `json:"gaps,omitempty"`
}

// Server is im.lifeboat.server: what m.core has no room for.
type Server struct {
	// VerifyKeys are the server's own public keys by key id, in unpadded base64.
	VerifyKeys map[string]string `json:"verify_keys,omitempty"`
	// OldVerifyKeys are public keys that it signed with before. Never the live one: remote
	// servers would refuse what it signs.
	OldVerifyKeys map[string]OldKey `json:"old_verify_keys,omitempty"`
	// ExtraSigningKeys are further private keys, spelled as [Core.SigningKey].
	ExtraSigningKeys []string `json:"extra_signing_keys,omitempty"`
	// StreamFloors are the highest positions ever handed out, by stream: an importer
	// that keeps positions starts above them, or clients miss what is new.
	StreamFloors map[string]int64 `json:"stream_floors,omitempty"`
	// HighestLocalpart is the highest localpart that was generated.
	HighestLocalpart int64 `json:"highest_generated_localpart,omitempty"`
}

// OldKey is a public key and when it ceased to be valid, in milliseconds since 1970.
type OldKey struct {
	Key       string `json:"key"`
	ExpiredTS int64  `json:"expired_ts"`
}

// Room is one entry of m.rooms.
type Room struct {
	ID      string   `json:"-"`
	Version string   `json:"version"`
	Aliases []string `json:"aliases"` // local ones of the directory, never those of events
}

// RoomDetails is one entry of im.lifeboat.rooms.
type RoomDetails struct {
	ID                  string                `json:"-"`
	Public              bool                  `json:"public"` // listed in the server's room directory
	Creator             string                `json:"creator,omitempty"`
	Aliases             map[string]Alias      `json:"aliases,omitempty"`
	ForwardExtremities  []string              `json:"forward_extremities"`
	BackwardExtremities []string              `json:"backward_extremities"` // named by events, not in the archive
	State               []StateEntry          `json:"state"`                // the current state
	Members             map[string]Membership `json:"members,omitempty"`    // local users
	Blocked             bool                  `json:"blocked,omitempty"`
	PartialState        bool                  `json:"partial_state,omitempty"`
	PartialServers      []string              `json:"partial_state_servers,omitempty"`
	Retention           any                   `json:"retention,omitempty"` // content of the policy in force
	LocalOnly           bool                  `json:"local_only,omitempty"`
}

// Alias says who made an alias and through which servers it is to be joined.
type Alias struct {
	Creator string   `json:"creator,omitempty"`
	Servers []string `json:"servers,omitempty"`
}

// Membership is that of a local user in a room.
type Membership struct {
	Membership string `json:"membership"`
	Forgotten  bool   `json:"forgotten,omitempty"`
}

// StateEntry is one entry of a room's state: [type, state key, event id].
type StateEntry struct {
	_       struct{} `cbor:",toarray"`
	Type    string
	Key     string
	EventID string
}

// RoomState is the state of a room before one event of which a previous event is not
// in the archive, so that an importer can start there without asking other servers.
// [Write] codes the states of one room as differences.
type RoomState struct {
	Room  string
	Event string       // the event that the state comes before
	State []StateEntry // all of it
}

// Snapshot is one entry of im.lifeboat.room_state as it is read: the state before
// EventID. With Delta, Set and Gone change the state of the entry before it of the
// same room in the same file; else Set is all of it.
type Snapshot struct {
	EventID string       `json:"event_id"`
	Delta   bool         `json:"delta,omitempty"`
	Set     []StateEntry `json:"set"`
	Gone    [][2]string  `json:"gone,omitempty"` // type, state key
}

// Invite is one entry of im.lifeboat.invites: an invitation or a knock that is not
// yet a membership, or one that was rejected out of band.
type Invite struct {
	Room     string   `json:"-"`
	Version  string   `json:"version,omitempty"`
	User     string   `json:"user_id"`
	Event    any      `json:"event"`           // the membership event
	State    []any    `json:"state,omitempty"` // the stripped state that came with it
	Via      []string `json:"via,omitempty"`   // servers to answer through
	Rejected bool     `json:"rejected,omitempty"`
}

// Event is one event with what its server keeps beside it.
type Event struct {
	Room string
	// JSON is the event as it is stored. [Write] takes unsigned, age_ts, outlier and
	// destinations off, which no hash and no signature covers, and nothing else.
	JSON []byte
	// CBOR, if any, is what [EncodeEvent] made of the event. Then JSON is there only for
	// an event that CBOR does not carry exactly, and goes into raw_events.
	CBOR []byte
	Meta EventMeta
}

// EncodeEvent gives what [Write] makes of an event that [event.Parse] and [event.Strip]
// went over, so that several goroutines can do what takes most of the time.
func EncodeEvent(ev map[string]any) ([]byte, error) { return encode(ev) }

// EventMeta is one entry of im.lifeboat.event_meta: file N of it holds exactly the
// events of file N of m.events, in the same order.
type EventMeta struct {
	EventID        string `json:"event_id"`
	StreamOrdering int64  `json:"stream_ordering"`
	ReceivedTS     int64  `json:"received_ts"`           // milliseconds since 1970
	Outlier        bool   `json:"outlier,omitempty"`     // its place in the room is not known
	Rejected       string `json:"rejected,omitempty"`    // the reason; an importer must not accept it
	SoftFailed     bool   `json:"soft_failed,omitempty"` // not shown, not an extremity
	OutOfBand      bool   `json:"out_of_band,omitempty"` // a membership without the room
	Censored       bool   `json:"censored,omitempty"`    // the content is redacted in storage: its hash fails
	Policy         string `json:"policy,omitempty"`      // verdict of a policy server or a spam checker
	RedactedBy     string `json:"redacted_by,omitempty"` // the redaction event
	TxnID          string `json:"txn_id,omitempty"`      // of the sender, with
	DeviceID       string `json:"device_id,omitempty"`   // the device it was sent from
}

// User is one entry of m.users: a local account.
type User struct {
	ID           string                    `json:"-"`
	PasswordHash string                    `json:"password_hash,omitempty"` // as stored: "$2b$12$…"
	CreatedAt    int64                     `json:"created_at"`              // seconds since 1970
	RoomTags     map[string]map[string]any `json:"room_tags"`               // room → tag → content
	Devices      map[string]Device         `json:"devices"`
}

// Device is one device of a user. Servers that reserve the ids of cross-signing keys
// by hidden devices leave those out.
type Device struct {
	DisplayName *string `json:"display_name"`
	Hidden      bool    `json:"hidden"`
}

// Keys is a part of one user's entry in m.e2e.keys. The parts of a user follow each
// other; no key occurs in two of them, but for the rooms of a backup.
type Keys struct {
	User         string                    `json:"-"`
	DeviceKeys   map[string]any            `json:"device_keys"`   // device → DeviceKeys object as uploaded
	FallbackKeys map[string]map[string]any `json:"fallback_keys"` // device → "signed_curve25519:ID" → key object
	CrossSigning map[string]any            `json:"cross_signing"` // "master", "self_signing", "user_signing"
	Signatures   []Signature               `json:"signatures"`    // made by this user
	Backups      map[string]Backup         `json:"backups"`       // by version
}

// Signature is one that a user made over another key.
type Signature struct {
	KeyID     string `json:"key_id"`
	User      string `json:"target_user_id"`
	Device    string `json:"target_device_id"`
	Signature string `json:"signature"`
}

// Backup is (a part of) one version of a user's server-side key backup. Parts after
// the first have only User, the version and Rooms.
type Backup struct {
	Algorithm string                    `json:"algorithm"`
	AuthData  any                       `json:"auth_data"`
	Etag      string                    `json:"etag"`
	Deleted   bool                      `json:"deleted"`
	Rooms     map[string]map[string]any `json:"rooms"` // room → session → {first_message_index, forwarded_count, is_verified, session_data}
}

// ToDevice is one message that is waiting for a local device.
type ToDevice struct {
	User, Device string
	Message      any // {sender, type, content}, with message_id when it is stored
}

// Database is im.lifeboat.synapse: the database as it is, for a return to the same
// software without loss. Its rows come as [Row]. Names of tables and sequences are bare
// in the schema public, else "schema.name".
type Database struct {
	Software string `json:"software"`
	Schema   int64  `json:"schema_version"`
	// DDL and DDLAfter make the schema: one SQL command each, in order, without what only
	// psql or a dump's session needs. DDL comes before the rows, DDLAfter when all of them
	// are there: indexes, constraints, triggers.
	DDL       []string                 `json:"ddl"`
	DDLAfter  []string                 `json:"ddl_after"`
	Tables    []DatabaseTable          `json:"tables"` // in the order of their rows; those without rows, too
	Sequences map[string]SequenceState `json:"sequences"`
}

// SequenceState is what PostgreSQL's setval takes: the last value, and whether it was
// handed out (else it is the next one).
type SequenceState struct {
	Last   int64 `json:"last"`
	Called bool  `json:"called"`
}

// DatabaseTable names a table and the order of the columns in its rows.
type DatabaseTable struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

// Row is one row in PostgreSQL's COPY text format, without its newline. The line is valid
// until the next step.
type Row struct {
	Table string
	Line  []byte
}

// Loss says of something that is not carried, or not carried whole, how often and why.
type Loss struct {
	Item   string    `json:"item"`          // where it would be
	Key    string    `json:"key,omitempty"` // an element, when one is meant
	Code   string    `json:"code"`          // stable, for programs: "one_time_keys"
	State  LossState `json:"state"`
	Count  int64     `json:"count"`
	Reason string    `json:"reason"` // for people
}

// LossState keeps apart what a reader of the report must not confuse.
type LossState string

const (
	// Absent in the source: there is nothing to carry.
	Absent LossState = "absent"
	// Unsupported: it is in the source and not in the archive.
	Unsupported LossState = "unsupported"
	// Lossy: it is in the archive with the loss that Reason names.
	Lossy LossState = "lossy"
)

// Report is im.lifeboat.report.
type Report struct {
	Complete bool   `json:"complete"` // nothing of the source is missing, said explicitly
	Losses   []Loss `json:"losses"`
}

// Integrity is im.lifeboat.integrity, the last file of an archive: without it, or
// with another one, the archive is truncated or altered.
type Integrity struct {
	Files map[string]FileSum  `json:"files"` // every other file
	Items map[string]ItemSize `json:"items"`
	Total ItemSize            `json:"total"`
}

// FileSum is the size of a file in bytes and its SHA-256 in hexadecimal.
type FileSum struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// ItemSize counts what an item holds.
type ItemSize struct {
	Files    int64 `json:"files"`
	Bytes    int64 `json:"bytes"`
	Elements int64 `json:"elements"`
}

// Manifest is manifest.mspf.json, the first file.
type Manifest struct {
	Version int                        `json:"version"`
	Items   map[string]json.RawMessage `json:"items"`
}
