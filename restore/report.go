package restore

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// The errors of this package. Damage wraps chunkstore.ErrDamaged and names the
// table.
var (
	// ErrNoPoint: there is no such restore point: in the future, before the first
	// one, an unknown mark or transaction (exit code 5).
	ErrNoPoint = errors.New("no such restore point")
	// ErrPruned: there was such a point, or may have been, and a prune took it away. It
	// is an ErrNoPoint.
	ErrPruned = fmt.Errorf("%w: %w", ErrNoPoint, history.ErrPruned)
	// ErrIncomplete: the point lies inside an incomplete interval; the error is an
	// *[IncompleteError] (exit code 5).
	ErrIncomplete = errors.New("inside an incomplete interval")
	// ErrNotEmpty: the target database has objects of its own (exit code 4).
	ErrNotEmpty = errors.New("target database is not empty")
	// ErrUnfinished: the target holds a restore of ours that did not finish, and
	// [Options].StartOver was not given (exit code 4).
	ErrUnfinished = errors.New("target holds an unfinished restore")
	// ErrLosses: the rows are there and proven, but statements of the schema failed;
	// the report names them and the target stays marked unfinished (exit code 3).
	ErrLosses = errors.New("restored with losses")
	// ErrLocale: the target's encoding or locale is one that a Synapse does not start on
	// (exit code 4).
	ErrLocale = errors.New("no database for a Synapse")
	// ErrMode: the mode does not fit the database (exit code 2).
	ErrMode = errors.New("mode does not fit")
	// ErrNotNewest: a move of an older point than the newest commit, which would lose
	// what came after it without a word (exit code 4).
	ErrNotNewest = errors.New("not the newest commit")
)

// Options say how to plan and materialise.
type Options struct {
	// AcceptIncomplete restores tables that are not exact at the point as best
	// known; plan and report name them.
	AcceptIncomplete bool
	// Mode says what is done to the rows after they were proven; "" chooses: rollback
	// for a Synapse, raw for any other database.
	Mode synapse.Mode
	// Family are the lineages that descend from one database (see [ReadBranches]): the
	// values of their sequences were handed out too.
	Family []*history.View
	// Damaged are branches that may belong to the family and cannot be read: the plan
	// says what is not known for it.
	Damaged []Damaged
	// Only restores the rows of these tables alone ("schema.name"); the schema is
	// whole, and sequences stay at their beginning. Only what these tables need is read.
	// Empty: all.
	Only []string
	// StartOver drops everything in a target that holds an unfinished restore of
	// ours, and begins again.
	StartOver bool
	// AnyLocale restores a Synapse into a database whose locale is not C as well: it
	// starts there only with allow_unsafe_locale.
	AnyLocale bool
	// Memory is the budget of the merge in bytes; 0 is 128 MiB.
	Memory int64
	// Workers is how many sessions load at once; 0 takes the number of processors,
	// 2 to 8.
	Workers int
	// PgRestore is the directory of pg_restore; empty: found by PATH.
	PgRestore string

	// togetherFrom is the constant of that name, smaller for a test.
	togetherFrom int64
}

// DefaultMemory is the merge's budget when Options name none.
const DefaultMemory = 128 << 20

// Phase is a step of a restore, in the order in which they happen.
type Phase string

// The phases.
const (
	PhaseCheck    Phase = "verify the archive" // of an import, before the first
	PhaseSchema   Phase = "schema"
	PhaseRecords  Phase = "read changes"
	PhaseRows     Phase = "load rows"
	PhaseChanges  Phase = "apply changes"
	PhaseIndexes  Phase = "indexes and constraints"
	PhaseVerify   Phase = "verify" // beside it ANALYZE
	PhaseAfter    Phase = "aftercare"
	PhaseFinished Phase = "finished"
	// PhaseSort and PhaseArchive are an export's, after rows and changes.
	PhaseSort    Phase = "sort into items"
	PhaseArchive Phase = "write the archive"
)

// Progress is told how far a restore is. Its methods are called from several
// goroutines and must not block.
type Progress interface {
	// Start begins a phase; total is in bytes, 0 when it is not known.
	Start(p Phase, total int64)
	// Add reports bytes done within the phase.
	Add(n int64)
	// Table reports that a table's rows are all loaded, or verified.
	Table(p Phase, name string, rows int64)
}

// NoProgress tells nobody.
type NoProgress struct{}

// Start does nothing.
func (NoProgress) Start(Phase, int64) {}

// Add does nothing.
func (NoProgress) Add(int64) {}

// Table does nothing.
func (NoProgress) Table(Phase, string, int64) {}

// Proof says how a table's rows were proven.
type Proof string

// The proofs.
const (
	// ProofCommit: the digest read back is the one that base and records predict.
	ProofCommit Proof = "digest of the commit"
	// ProofEmitted: no prediction exists (values that the source did not send, or an
	// incomplete table); the digest read back is that of the rows that were written.
	ProofEmitted Proof = "digest of what was written"
	// ProofArchive: the digest read back is that of the rows of an archive, which was
	// verified before the first write.
	ProofArchive Proof = "digest of the archive"
)

// TableReport is what became of one table.
type TableReport struct {
	Table string        `json:"table"`
	OID   uint32        `json:"oid"`
	Rows  int64         `json:"rows"`
	Bytes int64         `json:"bytes"`
	From  record.LSN    `json:"base"`
	Proof Proof         `json:"proof"`
	Hash  record.Digest `json:"-"`
	// Incomplete says why the rows are only the best known; empty: exact.
	Incomplete string `json:"incomplete,omitempty"`
}

// Report is what a restore did; it is made also when it failed, as far as it got.
type Report struct {
	// Archive is the file that was imported; "" of a restore.
	Archive   string        `json:"archive,omitempty"`
	Point     Point         `json:"point"`
	Tables    []TableReport `json:"tables"`
	Sequences int           `json:"sequences"`
	Rows      int64         `json:"rows"`
	Bytes     int64         `json:"bytes"`
	// Mode is what was done to the rows after they were proven, Aftercare the steps.
	Mode      synapse.Mode `json:"mode"`
	Aftercare []StepReport `json:"aftercare,omitempty"`
	// Loss is what a rollback undid; nil in the other modes.
	Loss *synapse.Loss `json:"loss,omitempty"`
	// Notes are sentences about what is not as it was at the source: ownership,
	// privileges, tables that are incomplete, publications left out.
	Notes []string `json:"notes,omitempty"`
	// Failed are statements of the schema that the target refused.
	Failed []FailedStatement `json:"failed,omitempty"`
	// Took is the time of each phase.
	Took map[Phase]time.Duration `json:"took"`
	// Verified: every table's proof is in, and the marks of an unfinished restore are gone.
	Verified bool `json:"verified"`
	// Rounds is how many times the records were read; 1 when all fits the memory.
	Rounds int `json:"rounds"`
}

// FailedStatement is a statement of the schema that the target refused.
type FailedStatement struct {
	Error     string `json:"error"`
	Statement string `json:"statement"`
}

// Point is a commit that can be restored.
type Point struct {
	// LSN is the commit's end, or the later position that the target named; the state
	// holds every transaction up to it.
	LSN record.LSN `json:"lsn"`
	// Commit is the transaction that ends there; zero when the point is the first
	// restorable position and no transaction ended at it.
	Commit record.Transaction `json:"commit"`
	// Newest: no later commit is known, so sequences are exact.
	Newest bool `json:"newest"`
	// Inverted are, for a target by time, commits after the point that carry a time
	// within the target: clocks are not monotone, the order of commits decides.
	Inverted []record.Transaction `json:"inverted,omitempty"`
}

// String gives the position, and the time and transaction when they are known.
func (p Point) String() string {
	if p.Commit.End == 0 {
		return "lsn:" + p.LSN.String()
	}
	return fmt.Sprintf("lsn:%s (transaction %d, committed %s)", p.LSN, p.Commit.XID, p.Commit.Time)
}

// Interval is a time in which a table is not exact.
type Interval struct {
	Table  string     `json:"table"`
	Reason string     `json:"reason"`
	From   record.LSN `json:"from"`  // exact up to and including it
	Until  record.LSN `json:"until"` // exact again from it; 0: still open
}

// IncompleteError names the tables that are not exact at a point, and the last
// point before it at which they are. It is [ErrIncomplete].
type IncompleteError struct {
	At     Point
	Tables []Interval
	// Before is the last commit at which every table is exact; zero LSN: none.
	Before Point
}

// Error names the first tables and the way out.
func (e *IncompleteError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan restore of %s: %v: ", e.At.LSN, ErrIncomplete)
	for i, t := range e.Tables {
		if i == 5 {
			fmt.Fprintf(&b, " and %d more", len(e.Tables)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s (%s, exact up to %s)", t.Table, t.Reason, t.From)
	}
	if e.Before.LSN != 0 {
		fmt.Fprintf(&b, "; the last complete commit before it is %s; --accept-incomplete restores these tables as best known", e.Before)
	} else {
		b.WriteString("; no earlier commit is complete; --accept-incomplete restores these tables as best known")
	}
	return b.String()
}

// Unwrap gives [ErrIncomplete].
func (e *IncompleteError) Unwrap() error { return ErrIncomplete }
