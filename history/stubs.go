package history

import (
	"context"
	"errors"
	"sync"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

var errSoon = errors.New("not built yet")

// Load reads part 1 of what a reader needs: the newest checkpoint and every entry
// after it. ErrNoLineage when there is no entry at all.
func (l *Log) Load(ctx context.Context) (*View, error) { return nil, errSoon }

// Base opens the body of a base.
func (v *View) Base(ctx context.Context, b BaseInfo) (*Base, error) { return nil, errSoon }

// Segment opens the body of a segment.
func (v *View) Segment(ctx context.Context, s SegmentInfo) (*record.Segment, error) {
	return nil, errSoon
}

// Schema opens the body of a schema note.
func (v *View) Schema(ctx context.Context, s SchemaInfo) (*Schema, error) { return nil, errSoon }

// Tables opens the body of an epoch entry.
func (v *View) Tables(ctx context.Context, e EpochInfo) ([]TableState, error) { return nil, errSoon }

// SchemaGaps gives the intervals between schemas that differ, ascending.
func (v *View) SchemaGaps() []SchemaGap { return nil }

// GapTables compares the two schemas of a gap: one Incomplete for each table whose
// fingerprint differs or that only one of them has.
func (v *View) GapTables(ctx context.Context, g SchemaGap) ([]Incomplete, error) {
	return nil, errSoon
}

// Commits calls f for each transaction that ended in (after, until], in commit
// order. touched is nil unless withTouched, which reads the records.
func (v *View) Commits(ctx context.Context, after, until record.LSN, withTouched bool, f func(t record.Transaction, touched []Touch) error) error {
	return errSoon
}

// Records calls f for each record of the transactions that ended in (after,
// until], in commit order and within a transaction by ordinal; want (nil: all)
// chooses tables by OID. What f gets is valid during the call, the relation for
// longer. r.Relation is an index of the entry's and means nothing to f.
func (v *View) Records(ctx context.Context, after, until record.LSN, want func(table uint32) bool, f func(t *record.Transaction, rel *record.Relation, r *record.Record) error) error {
	return errSoon
}

// Line gives the text of a line, inline or from its extents.
func (v *View) Line(ctx context.Context, l record.Line) ([]byte, error) { return nil, errSoon }

// Bytes joins extents of bytes chunks.
func (v *View) Bytes(ctx context.Context, ext []record.Extent) ([]byte, error) { return nil, errSoon }

// SequencesAt gives, by sequence OID, the first sample at or after an LSN, and the
// newest sample of all.
func (v *View) SequencesAt(ctx context.Context, at record.LSN) (after, newest map[uint32]record.Sequence, err error) {
	return nil, nil, errSoon
}

// Opening is what an agent says when it opens an epoch.
type Opening struct {
	Timeline      uint32
	Slot          string
	ServerVersion int
	// XMax of pg_current_snapshot(), before which no copy counts (protocol §4).
	XMax record.XID
	// Durable is the LSN from which the stream is whole: of a new lineage the slot's
	// consistent point, otherwise the view's Durable (a smaller one is raised to it).
	Durable record.LSN
	Tables  []TableState
	Parent  *Parent // new lineages only
	Host    string
}

// SegmentMeta is what the writer of a segment knows beside its body.
type SegmentMeta struct {
	// Reach names every chunk that the segment's parts and lines point to.
	Reach []chunkstore.Name
	// SchemaCertain: the newest schema note was still true at this LSN.
	SchemaCertain record.LSN
}

// Begin opens the next epoch: the new key is put into keys first (durable), then
// `end` is created in the old epoch's numbering, then entry 0 of the new one. v is
// what Load gave, nil for a new lineage. What other writers added since Load is
// absorbed; when that includes segments, the running digests in o.Tables are
// stored as not known. ErrFenced when another agent opened first.
func (l *Log) Begin(ctx context.Context, v *View, keys EpochKeys, o Opening) (*Writer, error) {
	return nil, errSoon
}

// Writer appends to the epoch that Begin opened. It is safe for concurrent use:
// one entry is created at a time. After ErrFenced, or an error that leaves a
// create in doubt, every call returns that error: the agent stops (H4).
type Writer struct {
	log *Log
	mu  sync.Mutex
}

// Segment makes a segment durable; nil means that Confirm may move to s.End (H2).
// s.Start must be the log's Durable (R3, else ErrOrder). Parts are stored as they
// are: inline ones in the body, which stays under 16 MiB or so; those of secret
// relations in a stored frame of their own.
func (w *Writer) Segment(ctx context.Context, s *record.Segment, m SegmentMeta) error { return errSoon }

// Base makes a table's copy count. reach names all chunks of its pieces.
func (w *Writer) Base(ctx context.Context, b *Base, reach []chunkstore.Name) error { return errSoon }

// SchemaNote adds a schema version, certain from s.From.
func (w *Writer) SchemaNote(ctx context.Context, s *Schema, reach []chunkstore.Name) error {
	return errSoon
}

// Note adds a note. A position below the log's Durable is ErrOrder (H7).
func (w *Writer) Note(ctx context.Context, n Note) error { return errSoon }

// Checkpoint adds a checkpoint: readers need nothing before it but bodies.
func (w *Writer) Checkpoint(ctx context.Context) error { return errSoon }

// Rotate ends the epoch and opens the next one under a new key.
func (w *Writer) Rotate(ctx context.Context, o Opening) error { return errSoon }

// Merge turns the segments of an ended epoch into one history under that epoch's
// key, adds a checkpoint, then removes the key from this host. An epoch without
// segments loses its key only. A crash anywhere in it is mended by calling it
// again: Unmerged names the epoch until it is done. ErrNoKey when this host does
// not hold the key: the segments stay, readers do not mind.
func (w *Writer) Merge(ctx context.Context, epoch uint64) error { return errSoon }

// Unmerged lists the ended epochs for which Merge has something to do, ascending:
// segments without a history, or a key that is still held here.
func (w *Writer) Unmerged() []uint64 { return nil }

// Probe looks whether a maintenance entry waits at the tail and absorbs it.
// ErrFenced when it finds another agent's.
func (w *Writer) Probe(ctx context.Context) (absorbed bool, err error) { return false, errSoon }

// View gives the writer's picture, with all that it wrote.
func (w *Writer) View() *View { return nil }

// AppendNote adds a note from a process beside the agent (`mark`, later `prune`):
// it reads the whole log first (H3), creates at the tail (100 tries), and reports
// success only when no epoch was opened past it. ErrNoLineage, ErrEnded.
func (l *Log) AppendNote(ctx context.Context, n Note) error { return errSoon }

// VerifyOptions of Verify.
type VerifyOptions struct {
	// Data is how many percent of the chunks are fetched; 0 means all.
	Data float64
	// Structure: fetch no chunk.
	Structure bool
	// Operators opens keys/ and checks it; nil: keys/ is not checked.
	Operators []age.Identity
}

// VerifyReport says what Verify looked at and found.
type VerifyReport struct {
	Lineages, Entries, Bodies, Chunks int
	Bytes                             int64
	// KeysChecked: the objects under keys/ were opened.
	KeysChecked bool
	// Orphans are chunks that no entry reaches: left by a crash, or not ours.
	Orphans int
	// Strange are keys that nobody of ours makes; harmless.
	Strange []string
	// Damage holds one line for each damaged or missing object.
	Damage []string
}

// Verify checks a repository: configuration and keys, every chain, number and
// trailer; the trailer of every chunk that an entry reaches. With the repository's
// identity also every body, and every chunk's content. It returns an error only
// when it could not look; what it found is in the report.
func Verify(ctx context.Context, r *Repository, s *Secrets, o VerifyOptions) (*VerifyReport, error) {
	return nil, errSoon
}
