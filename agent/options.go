package agent

import (
	"errors"
	"log/slog"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// Errors that callers tell apart.
var (
	// ErrSourceLost: the slot, the timeline or the cluster is not the one that this
	// lineage follows; the message names the reason and the one command that mends it.
	ErrSourceLost = errors.New("source lost")
	// ErrForeignSource: the database is another than the one the repository follows.
	ErrForeignSource = errors.New("foreign source")
	// ErrNotAttached: `lifeboat attach` has not been run.
	ErrNotAttached = errors.New("not attached")
	// ErrLater: somebody else is busy where we must not wait; the same call may work later.
	ErrLater = errors.New("try again later")
	// ErrState: the state directory lacks what the agent needs; the message says how
	// to bring it back with the operator's key.
	ErrState = errors.New("agent state missing")
	// ErrMarkExists: a restore point never moves.
	ErrMarkExists = errors.New("a mark of this name exists already")
)

// SourceOptions say which database is followed and how it is reached.
type SourceOptions struct {
	// DSN is a PostgreSQL connection string or URL.
	DSN string
	// Slot and Publication default to "lifeboat".
	Slot, Publication string
	// PgBin is the folder of pg_dump and pg_restore; empty: found by PATH.
	PgBin string
	// SchemaQuiet is how long the catalog must be unchanged before pg_dump runs
	// (protocol §6); default 10 s.
	SchemaQuiet time.Duration
	// Profile names what tables feed; nil: every table is generic.
	Profile cdc.Profile `json:"-"`
}

// Tuning bounds what the agent does beside following the stream; the zero value
// is the default everywhere.
type Tuning struct {
	// RPO: a flush begins at the latest this long after the first commit that it
	// holds, when the stream keeps up; default 5 s. A tenth of it, 500 ms at most, the
	// commits may lie unread.
	RPO time.Duration
	// WALBudget is how many bytes of WAL the slot may retain before the agent lets
	// go of it; 0: 2 GiB; negative: unlimited.
	WALBudget int64
	// MergeEvery and MergeSegments end an epoch: default 1 h, 1,000.
	MergeEvery    time.Duration
	MergeSegments int
	// RefreshEvery: each table is copied anew at least this often (default 14 days;
	// the window in which every commit is kept), and when its records exceed half of its
	// base.
	RefreshEvery time.Duration
	// RefreshRate is how many bytes of rows a second are copied anew; 0: 32 MiB;
	// negative: as fast as it goes. RefreshHours are when.
	RefreshRate  int64
	RefreshHours Hours
	// Weekly and Monthly: a round of copies of all tables is made in each.
	Weekly, Monthly bool
	// RefreshMin is the size of records below which a table is not refreshed early;
	// default 4 MiB.
	RefreshMin int64
	// Alarm is when a change of many rows is noted.
	Alarm Alarm
	// CopyMax bounds one copy (protocol §4); default 1 h.
	CopyMax time.Duration
	// Workers copy tables in parallel; default 2.
	Workers int
	// Memory bounds the segments in flight, in bytes; default 16 MiB each, two.
	SegmentBytes int
}

// Alarm says which changes are so large that they are noted in the log, and keep it
// from being pruned until somebody has looked.
type Alarm struct {
	Off bool
	// Share of a table's rows, 0 to 1, that one commit or the commits of one minute may
	// delete or rewrite; default 0.3.
	Share float64
	// Rows is the least number of such rows; default 1,000.
	Rows int64
	// Except names tables ("schema.name") that it does not watch; Empties, when set,
	// knows such tables of the application itself.
	Except  []string
	Empties func(schema, table string) bool `json:"-"`
}

// rest is how long changes may lie unread: part of the RPO.
func (t *Tuning) rest() time.Duration { return min(t.RPO/10, 500*time.Millisecond) }

// Options are everything that the service needs.
type Options struct {
	Source SourceOptions
	Tuning Tuning
	// State is the state directory (secrets of the agent, epoch keys), see [State].
	State string
	// NewBase begins again after the source was lost: a new slot, and every table
	// is copied; the gap is named. Adopt opens a new lineage.
	NewBase, Adopt bool
	Log            *slog.Logger
	// ProbeEvery is how often the store is tried ([chunkstore.Probe]), the first time when
	// no try is on record in State; 0: never.
	ProbeEvery time.Duration
	// Ready, when set, is called once streaming has begun. Progress (the systemd
	// watchdog) at every flush, chunk of a large transaction and step of a copy, and
	// when nothing is to be done: after the repository and the source have both
	// answered. It comes from several goroutines.
	Ready    func()
	Progress func()
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	// freshSlot: the slot is dropped and made anew although it is not lost.
	freshSlot bool
	// nothing: the log holds no copy of any table yet, so that a slot made anew loses nothing.
	nothing bool
	// wal is that of the Run.
	wal *allowance
	// plant alters what is captured, for the tests that show that the next copy finds it.
	plant plant
}

// plant is a fault. row is called with each row of the stream before it is hashed
// and stored, may alter the line in place and says how often the row counts; line
// with each line of a copy.
type plant struct {
	row  func(table string, op record.Op, line []byte) (times int)
	line func(table string, line []byte)
}

// StatusReport is what `lifeboat status` prints.
type StatusReport struct {
	Source       string        `json:"source"`
	Lineage      string        `json:"lineage"`
	Parent       string        `json:"parent,omitempty"` // the branch that this one left
	ParentAt     string        `json:"parent_lsn,omitempty"`
	Epoch        uint64        `json:"epoch"`
	Durable      record.LSN    `json:"durable"`
	DurableText  string        `json:"durable_lsn"`
	DurableTime  time.Time     `json:"durable_time"`
	Lag          *int64        `json:"lag_bytes,omitempty"` // nil: the source could not be asked
	SlotActive   *bool         `json:"slot_active,omitempty"`
	SlotRetained *int64        `json:"slot_retained_bytes,omitempty"`
	Tables       []TableStatus `json:"tables"`
	Incomplete   []string      `json:"incomplete"`
	Mismatches   []string      `json:"mismatches"`
	// View is the log that it is about.
	View           *history.View `json:"-"`
	Objects        int64         `json:"objects"`
	Bytes          int64         `json:"bytes"`
	UnmergedEpochs int           `json:"unmerged_epochs"`
	Notes          []string      `json:"notes"`
}

// TableStatus is one captured table.
type TableStatus struct {
	Name       string `json:"name"`
	Rows       int64  `json:"rows"`
	Bytes      int64  `json:"bytes"`
	ExactText  string `json:"exact_from"`
	Incomplete bool   `json:"incomplete"`
	// Copied is when the newest copy was finished. Proved is when the newest one was
	// that had the digest which the records predict: zero when none had yet, as before
	// the second copy, and always where the identity is minimal.
	Copied time.Time `json:"copied,omitzero"`
	Proved time.Time `json:"proved,omitzero"`
}

// Finding is one line of `lifeboat doctor`.
type Finding struct {
	Name  string `json:"name"`
	State string `json:"state"` // ok, warn, fail
	Why   string `json:"why"`
	Mend  string `json:"mend,omitempty"`
}

// LiveResult is one table of `lifeboat verify --live`.
type LiveResult struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	OK    bool   `json:"ok"`
	Why   string `json:"why,omitempty"`
	// Left: the table is not captured by its nature, for instance unlogged, so there is
	// nothing to be equal with; OK is false, and it is no finding.
	Left bool `json:"left,omitempty"`
}

// Step is one statement of attach or detach, for --dry-run.
type Step struct {
	Why string `json:"why"`
	SQL string `json:"sql"`
}
