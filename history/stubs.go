package history

import (
	"context"
	"errors"

	"filippo.io/age"

	"lifeboat.im/lifeboat/record"
)

var errSoon = errors.New("not built yet")

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

// SequencesAt gives, by sequence OID, the first sample at or after an LSN, and the
// newest sample of all.
func (v *View) SequencesAt(ctx context.Context, at record.LSN) (after, newest map[uint32]record.Sequence, err error) {
	return nil, nil, errSoon
}

// Merge turns the segments of an ended epoch into one history under that epoch's
// key, adds a checkpoint, then removes the key from this host. An epoch without
// segments loses its key only. A crash anywhere in it is mended by calling it
// again: Unmerged names the epoch until it is done. ErrNoKey when this host does
// not hold the key: the segments stay, readers do not mind.
func (w *Writer) Merge(ctx context.Context, epoch uint64) error { return errSoon }

// Unmerged lists the ended epochs for which Merge has something to do, ascending:
// segments without a history, or a key that is still held here.
func (w *Writer) Unmerged() []uint64 { return nil }

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
