package cdc

import (
	"context"
	"time"

	"lifeboat.im/lifeboat/record"
)

// LineSink takes the lines of one worker of a copy. Musts: Line does not keep line
// after it returns; an error ends the copy and comes back from Copy unchanged
// under errors.Is.
type LineSink interface {
	// Line takes one row without its newline.
	Line(line []byte) error
	// End is called once when the worker has had all its lines, not after an error.
	End() error
}

// CopyOptions says how a table is copied.
type CopyOptions struct {
	// Workers is how many sessions read one table; 0 and 1 are one.
	Workers int
	// NotBefore: the snapshot's xmin must be at or above it, else ErrSnapshotTooOld.
	NotBefore record.XID
	// Position is asked for the stream's position right after the snapshot was taken,
	// when it is set; the answer is Copied.Position.
	Position func(record.Snapshot) record.LSN
	// Max bounds the copy's time; beyond it ErrTooLong. 0: no bound.
	Max time.Duration
	// Rate bounds the bytes of lines a second over all workers; 0: no bound.
	Rate int64
}

// Copied is a finished copy.
type Copied struct {
	Snapshot record.Snapshot
	// Position is what CopyOptions.Position answered.
	Position record.LSN
	// ExactFrom is the insert LSN read after the snapshot.
	ExactFrom record.LSN
	// Table as seen under the snapshot.
	Table           Table
	TypeFingerprint [32]byte
	Rows, Bytes     int64
	// Workers is how many sinks were used.
	Workers int
}

// Copy reads a table under one snapshot. sink is called once per worker, from
// Copy's goroutine, before the first line; each sink is used by one goroutine.
// Pieces of the table go to workers in no order; a worker's lines are in heap order
// within a piece. ErrChanged: copy again (what the sinks got is void). ErrGone,
// ErrBusy, ErrYield, ErrSnapshotTooOld, ErrTooLong as they say.
func (s *Source) Copy(ctx context.Context, t Table, o CopyOptions, sink func(worker int) LineSink) (*Copied, error) {
	return nil, errNotBuilt
}
