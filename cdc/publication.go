package cdc

import "context"

// CreatePublication makes the publication, empty, when there is none; a foreign
// one of the same name is ErrPublication.
func (s *Source) CreatePublication(ctx context.Context) error { return errNotBuilt }

// DropPublication drops it; nil when there is none.
func (s *Source) DropPublication(ctx context.Context) error { return errNotBuilt }

// PublicationSQL is what CreatePublication would send.
func (s *Source) PublicationSQL() string { return "" }
