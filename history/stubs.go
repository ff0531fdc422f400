package history

import (
	"context"
	"errors"

	"filippo.io/age"
)

var errSoon = errors.New("not built yet")

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
