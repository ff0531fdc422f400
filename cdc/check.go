package cdc

import (
	"context"
	"errors"
)

// State of a finding.
type State string

// The three states of a finding.
const (
	OK   State = "ok"
	Warn State = "warn"
	Fail State = "fail"
)

// Finding is one check of the source.
type Finding struct {
	Name  string
	State State
	// Why says what was found and why it matters; Mend is what to type.
	Why, Mend string
}

// CheckOptions says what Check cannot know.
type CheckOptions struct {
	// Bin is the folder of pg_dump; "": from PATH.
	Bin string
}

// Check looks at the source from every side that can stop a capture or lose a row.
// An error means that it could not tell.
func (s *Source) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	return nil, errors.New("not built yet")
}
