package cdc

import (
	"context"
	"fmt"
)

// PublicationSQL is what CreatePublication sends when there is none: an own list,
// empty at first, all operations. Since 18 stored generated columns must be
// published, or REPLICA IDENTITY FULL would make statements fail; the decoder drops
// them.
func (s *Source) PublicationSQL() string {
	return "CREATE PUBLICATION " + ident(s.cfg.Publication) + " WITH (" + s.publishes() + ")"
}

// publishes are the options of our publication.
func (s *Source) publishes() string {
	with := "publish = 'insert, update, delete, truncate', publish_via_partition_root = false"
	if s.version >= 180000 {
		with += ", publish_generated_columns = stored"
	}
	return with
}

// CreatePublication makes the publication, empty, when there is none. One of the
// same name that we would not make so is ErrPublication: it is never altered.
func (s *Source) CreatePublication(ctx context.Context) error {
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		there, err := s.foreign(ctx, c)
		if err != nil || there {
			return err
		}
		_, err = c.simple(ctx, s.PublicationSQL())
		if code(err) == duplicateObject { // another attacher was faster
			_, err = s.foreign(ctx, c)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create publication %s: %w", ident(s.cfg.Publication), classify(err))
	}
	return nil
}

// foreign reports whether the publication exists, with an error when it is not one
// that we would make.
func (s *Source) foreign(ctx context.Context, c *session) (there bool, err error) {
	pubs, err := s.readPublications(ctx, c)
	if err != nil {
		return false, err
	}
	for i := range pubs {
		p := &pubs[i]
		if !p.ours {
			continue
		}
		why := s.drift(p)
		for _, m := range p.members {
			if why == "" && (m.filter || m.columns != nil) {
				why = "has a row filter or a column list"
			}
		}
		if why != "" {
			return true, fmt.Errorf("publication %s %s: %w", ident(p.name), why, ErrPublication)
		}
		return true, nil
	}
	return false, nil
}

// drift says in what a publication, its members apart, differs from what we would
// make; "" if in nothing.
func (s *Source) drift(p *publication) string {
	switch {
	case !p.owned:
		return "is owned by a role of which ours is not a member"
	case p.all:
		return "is for all tables"
	case len(p.schemas) > 0:
		return "names whole schemas"
	case p.restrict:
		return "does not publish every operation" + s.putBack(p)
	case p.viaRoot:
		return "publishes partitions as their root" + s.putBack(p)
	case s.version >= 180000 && p.gencols != 's':
		return "leaves out stored generated columns" + s.putBack(p)
	}
	return ""
}

// putBack says how to undo somebody's ALTER.
func (s *Source) putBack(p *publication) string {
	return " (ALTER PUBLICATION " + ident(p.name) + " SET (" + s.publishes() + ") puts it back)"
}

// DropPublication drops it; nil when there is none.
func (s *Source) DropPublication(ctx context.Context) error {
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		_, err := c.simple(ctx, "DROP PUBLICATION IF EXISTS "+ident(s.cfg.Publication))
		return err
	})
	if err != nil {
		return fmt.Errorf("drop publication %s: %w", ident(s.cfg.Publication), classify(err))
	}
	return nil
}
