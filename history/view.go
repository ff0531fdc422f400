package history

import (
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// View is a reader's picture of one log, from part 1 of its entries alone. What
// Load and Writer.View give never changes; the slices are the caller's to read.
type View struct {
	ID LineageID
	// Head is the position of the last entry read.
	Head Position
	State
	log  *Log
	head entryHash
}

// State is what a checkpoint lists: all that a reader needs of the entries up to it.
type State struct {
	// Durable is the source's position up to which every change is in the log, and
	// DurableTime the newest commit time (or the time of the note that moved it).
	Durable     record.LSN  `cbor:"1,keyasint"`
	DurableTime record.Time `cbor:"2,keyasint"`
	// First is the oldest LSN at which every table that was there at the start has a
	// base and the first schema is certain: the oldest restorable point. 0 while there
	// is neither. It is final once NoteReady is in the log (Ready).
	First record.LSN `cbor:"3,keyasint"`
	Ready bool       `cbor:"4,keyasint"`
	// Epochs are the epochs, ascending; the last one is open unless Ended. When a prune
	// deletes, those go of which nothing is left, but for the first and recent ones.
	Epochs []EpochInfo `cbor:"5,keyasint"`
	Ended  bool        `cbor:"6,keyasint"`
	// Segments are those that no history covers, ascending.
	Segments  []SegmentInfo `cbor:"7,keyasint"`
	Histories []HistoryInfo `cbor:"8,keyasint"`
	Bases     []BaseInfo    `cbor:"9,keyasint"`
	Schemas   []SchemaInfo  `cbor:"10,keyasint"`
	// Incompletes are the intervals in which a table is not exact, in the order they
	// were opened; those of schema changes are in SchemaGaps.
	Incompletes []Incomplete     `cbor:"11,keyasint"`
	Marks       []Mark           `cbor:"12,keyasint"`
	Pins        []Mark           `cbor:"13,keyasint"`
	Identities  []IdentityChange `cbor:"14,keyasint"`
	Mismatches  []Mismatch       `cbor:"15,keyasint"`
	Dropped     []Dropped        `cbor:"16,keyasint"`
	// Condemns are the entries that carry condemned sets, in order.
	Condemns []Position `cbor:"17,keyasint"`
	// Checkpoint is the newest one, zero when there is none.
	Checkpoint checkpointRef `cbor:"18,keyasint"`
	// Rounds are the sparse points, in the order of their notes.
	Rounds []Round `cbor:"19,keyasint,omitempty"`
	// Alarms are the mass changes that nobody has acknowledged, in the order of their
	// first notes. While there is one, nothing may be pruned.
	Alarms []Alarm `cbor:"20,keyasint,omitempty"`
	// Pruned is what First became when older points were pruned; 0: never. Points are
	// the older ones that can still be restored, ascending.
	Pruned record.LSN  `cbor:"21,keyasint,omitempty"`
	Points []KeptPoint `cbor:"22,keyasint,omitempty"`
	// Holds are the legal holds.
	Holds []Mark `cbor:"23,keyasint,omitempty"`
	// Runs are the prunes, in the order of their first notes here.
	Runs []PruneRun `cbor:"24,keyasint,omitempty"`
}

type entryHash [32]byte

// checkpointRef names a checkpoint entry and its hash.
type checkpointRef struct {
	_    struct{} `cbor:",toarray"`
	At   Position
	Hash entryHash
}

// EpochInfo says where an epoch began.
type EpochInfo struct {
	Position      `cbor:"1,keyasint"`
	Timeline      uint32     `cbor:"2,keyasint"`
	Slot          string     `cbor:"3,keyasint,omitempty"`
	ServerVersion int        `cbor:"4,keyasint"`
	XMax          record.XID `cbor:"5,keyasint"`
	Durable       record.LSN `cbor:"6,keyasint"`
	Parent        *Parent    `cbor:"7,keyasint,omitempty"`
	Host          string     `cbor:"8,keyasint,omitempty"`
	// Segments counts the epoch's segments, merged or not.
	Segments uint64 `cbor:"9,keyasint"`
}

// Parent names the lineage that a new one left, and the commit at which it did.
type Parent struct {
	ID LineageID  `cbor:"1,keyasint"`
	At record.LSN `cbor:"2,keyasint"`
}

// SegmentInfo is part 1 of a segment: every transaction that ended in (Start, End].
type SegmentInfo struct {
	Position      `cbor:"1,keyasint"`
	Start         record.LSN  `cbor:"2,keyasint"`
	End           record.LSN  `cbor:"3,keyasint"`
	First         record.Time `cbor:"4,keyasint"` // least commit time
	Last          record.Time `cbor:"5,keyasint"` // greatest commit time
	Transactions  uint64      `cbor:"6,keyasint"`
	Records       uint64      `cbor:"7,keyasint"`
	Bytes         int64       `cbor:"8,keyasint"` // size of the entry object
	SchemaCertain record.LSN  `cbor:"9,keyasint"`
}

// HistoryInfo is part 1 of a history: the segments of epoch KeyEpoch, merged. The
// body is sealed under that epoch's key.
type HistoryInfo struct {
	Position     `cbor:"1,keyasint"`
	KeyEpoch     uint64      `cbor:"2,keyasint"`
	Start        record.LSN  `cbor:"3,keyasint"`
	End          record.LSN  `cbor:"4,keyasint"`
	First        record.Time `cbor:"5,keyasint"`
	Last         record.Time `cbor:"6,keyasint"`
	Transactions uint64      `cbor:"7,keyasint"`
	Records      uint64      `cbor:"8,keyasint"`
	Segments     uint64      `cbor:"9,keyasint"`  // how many it replaces
	Bytes        int64       `cbor:"10,keyasint"` // plaintext of its chunks and body
}

// BaseInfo is part 1 of a base: one table copied.
type BaseInfo struct {
	Position    `cbor:"1,keyasint"`
	Table       uint32     `cbor:"2,keyasint"`
	Name        string     `cbor:"3,keyasint"` // schema.name
	RecordsFrom record.LSN `cbor:"4,keyasint"`
	ExactFrom   record.LSN `cbor:"5,keyasint"`
	Rows        int64      `cbor:"6,keyasint"`
	Bytes       int64      `cbor:"7,keyasint"`
	// Time is when the copy was finished, by the writer's clock; 0: not said.
	Time record.Time `cbor:"8,keyasint,omitempty"`
	// Proved: the copy had the digest that the records before it predicted.
	Proved bool `cbor:"9,keyasint,omitempty"`
}

// SchemaInfo is part 1 of a schema note: the schema was this one at every LSN in
// [From, Until].
type SchemaInfo struct {
	Position    `cbor:"1,keyasint"`
	From        record.LSN `cbor:"2,keyasint"`
	Until       record.LSN `cbor:"3,keyasint"` // advanced by later entries
	Fingerprint [32]byte   `cbor:"4,keyasint"`
}

// SchemaGap is the interval between two schemas that differ: exact up to and
// including From, and again from Until. Which tables changed is in the bodies of
// both, see [View.GapTables].
type SchemaGap struct {
	From, Until   record.LSN
	Before, After SchemaInfo
}

// Incomplete is an interval in which a table (0: the whole database) is not exact.
type Incomplete struct {
	Table  uint32     `cbor:"1,keyasint"`
	Name   string     `cbor:"2,keyasint,omitempty"`
	Reason string     `cbor:"3,keyasint,omitempty"`
	From   record.LSN `cbor:"4,keyasint"` // exclusive: exact up to and including it
	Until  record.LSN `cbor:"5,keyasint"` // exact again from it; 0 = still open
}

// Covers reports whether the table is not exact at the LSN.
func (i Incomplete) Covers(at record.LSN) bool {
	return at > i.From && (i.Until == 0 || at < i.Until)
}

// Mark is a named restore point.
type Mark struct {
	Name string      `cbor:"1,keyasint"`
	At   record.LSN  `cbor:"2,keyasint"`
	Time record.Time `cbor:"3,keyasint"`
}

// IdentityChange says what a table's replica identity was before we changed it.
type IdentityChange struct {
	Table  uint32 `cbor:"1,keyasint"`
	Schema string `cbor:"2,keyasint"`
	Name   string `cbor:"3,keyasint"`
	Old    byte   `cbor:"4,keyasint"` // pg_class.relreplident before
	Index  string `cbor:"5,keyasint,omitempty"`
	// Undone: we put it back.
	Undone bool `cbor:"6,keyasint,omitempty"`
	// Huge: it held a row over 256 MiB, so identity full is never set on it again.
	Huge bool `cbor:"7,keyasint,omitempty"`
}

// Mismatch: a copy did not meet the digest that the records predicted.
type Mismatch struct {
	Table  uint32     `cbor:"1,keyasint"`
	Name   string     `cbor:"2,keyasint"`
	Reason string     `cbor:"3,keyasint,omitempty"`
	From   record.LSN `cbor:"4,keyasint"` // proved up to and including it
	Until  record.LSN `cbor:"5,keyasint"` // exact-from of the copy
}

// Dropped: a table was gone at At.
type Dropped struct {
	Table uint32     `cbor:"1,keyasint"`
	Name  string     `cbor:"2,keyasint"`
	At    record.LSN `cbor:"3,keyasint"`
}

// Base is the body of a base entry.
type Base struct {
	Relation record.Relation `cbor:"1,keyasint"`
	// Pieces in copy order.
	Pieces          []Piece         `cbor:"2,keyasint"`
	Snapshot        record.Snapshot `cbor:"3,keyasint"`
	RecordsFrom     record.LSN      `cbor:"4,keyasint"`
	ExactFrom       record.LSN      `cbor:"5,keyasint"`
	Digest          record.Digest   `cbor:"6,keyasint"` // Digest.Count is the number of rows
	Bytes           int64           `cbor:"7,keyasint"`
	TypeFingerprint [32]byte        `cbor:"8,keyasint"`
	// Fingerprint is the catalog's of the table under the snapshot.
	Fingerprint [32]byte `cbor:"9,keyasint"`
	// Member is the table's stay in the publication under the snapshot, as in TableState.
	Member string `cbor:"10,keyasint,omitempty"`
	// Time is when the copy was finished, by the writer's clock; Proved: it had the
	// digest that the records before it predicted. Both stand in part 1.
	Time   record.Time `cbor:"-"`
	Proved bool        `cbor:"-"`
}

// Piece is a run of a base's lines: a rows chunk of whole lines each with its
// newline, or one long line in extents, without one.
type Piece struct {
	_    struct{} `cbor:",toarray"`
	Rows *chunkstore.Ref
	Long []record.Extent
}

// Schema is the body of a schema note. Custom and Plain are the two forms of
// pg_dump --schema-only.
type Schema struct {
	Custom        []record.Extent   `cbor:"1,keyasint"`
	Plain         []record.Extent   `cbor:"2,keyasint"`
	Fingerprint   [32]byte          `cbor:"3,keyasint"`
	Tables        []SchemaTable     `cbor:"4,keyasint"`
	Sequences     []record.Sequence `cbor:"5,keyasint"`
	From          record.LSN        `cbor:"6,keyasint"` // certain from
	Publication   string            `cbor:"7,keyasint"`
	ServerVersion int               `cbor:"8,keyasint"`
}

// SchemaTable is one table of a schema.
type SchemaTable struct {
	OID         uint32   `cbor:"1,keyasint"`
	Schema      string   `cbor:"2,keyasint"`
	Name        string   `cbor:"3,keyasint"`
	Kind        byte     `cbor:"4,keyasint"` // pg_class.relkind
	Fingerprint [32]byte `cbor:"5,keyasint"`
	Captured    bool     `cbor:"6,keyasint"`
}

// TableState is what an epoch entry knows of a table at its Durable.
type TableState struct {
	Table  uint32        `cbor:"1,keyasint"`
	Digest record.Digest `cbor:"2,keyasint"`
	// Known is false when no proof is possible until the next copy.
	Known bool `cbor:"3,keyasint"`
	// RecordBytes is the size of the table's records since its base.
	RecordBytes uint64 `cbor:"4,keyasint"`
	// Fingerprint is the catalog's of the table, so that the next agent knows whether
	// its definition changed meanwhile.
	Fingerprint [32]byte `cbor:"5,keyasint"`
	// Member is the table's stay in our publication, as the catalog names it: another
	// one later says that somebody took it out meanwhile. "": not known.
	Member string `cbor:"6,keyasint,omitempty"`
}

// Touch is what one transaction did to one table.
type Touch struct {
	Relation                             *record.Relation
	Inserts, Updates, Deletes, Truncates uint64
}
