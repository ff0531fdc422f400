package cdc

import "context"

// Enter adds the table to the publication with its wanted identity (protocol §6).
// nil when it is there already. ErrBusy: try again later. ErrGone, ErrChanged: the
// catalog must be read again.
func (s *Source) Enter(ctx context.Context, t Table) error { return errNotBuilt }

// EnterSQL is the message that Enter sends, one statement a line.
func (s *Source) EnterSQL(t Table) string { return "" }

// Leave takes the table out of the publication; nil when it is not in it or gone.
func (s *Source) Leave(ctx context.Context, t Table) error { return errNotBuilt }

// RestoreIdentity sets the identity of a table back to old (d n f i, the last with
// its index). nil when the table is gone. ErrBusy: try again later.
func (s *Source) RestoreIdentity(ctx context.Context, schema, name string, old byte, index string) error {
	return errNotBuilt
}
