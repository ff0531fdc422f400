package cdc

import (
	"context"

	"lifeboat.im/lifeboat/record"
)

// Sequences reads every sequence, one statement each so that no lock outlives its
// statement. At of all is an insert LSN read before the first: each value was true
// at some moment at or after every commit that ended by then.
func (s *Source) Sequences(ctx context.Context) ([]record.Sequence, error) { return nil, errNotBuilt }
