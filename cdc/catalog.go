package cdc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/record"
)

// Catalog is one look at the database: everything in it was true under Snapshot.
type Catalog struct {
	// Before is the insert LSN before the snapshot was taken, After the one after it
	// was read: a change that the snapshot sees lies below After, one that it does not
	// see ends above Before.
	Before   record.LSN
	Snapshot record.Snapshot
	// Horizon is that of [Positions].
	Horizon record.XID
	After   record.LSN
	// Tables are all that hold rows, in order of schema and name; those that cannot
	// be captured say why.
	Tables []Table
	// Sequences are named only; their values come from [Source.Sequences].
	Sequences []record.Sequence
	// Fingerprint changes with everything that a schema dump shows, as far as that is
	// cheap to see. It does not change with rows, statistics or TRUNCATE.
	Fingerprint [32]byte
	// Publication is why our publication does not bring every change of its tables
	// (ErrPublication, ErrPublicationMissing); nil: it does. Members changes with the
	// Member of any table.
	Publication error
	Members     [32]byte
}

// Table gives the table with this oid, else nil.
func (c *Catalog) Table(oid uint32) *Table {
	for i := range c.Tables {
		if c.Tables[i].Relation.OID == oid {
			return &c.Tables[i]
		}
	}
	return nil
}

// Lookup gives the table with this name, else nil.
func (c *Catalog) Lookup(schema, name string) *Table {
	for i := range c.Tables {
		if r := &c.Tables[i].Relation; r.Schema == schema && r.Name == name {
			return &c.Tables[i]
		}
	}
	return nil
}

// Table is one table that holds rows: an ordinary table or a leaf partition.
type Table struct {
	// Relation has the stored columns (no generated ones), the key from the catalog,
	// and the identity that we want (equal to Wanted).
	Relation record.Relation
	// Fingerprint covers name, persistence and columns, each with the transaction
	// that last wrote it: it changes with every ALTER of a column.
	Fingerprint [32]byte
	// Filenode changes with TRUNCATE, VACUUM FULL, CLUSTER and every rewrite.
	Filenode uint32
	// Replident is pg_class.relreplident (d n f i), ReplidentIndex the index of 'i'.
	Replident      byte
	ReplidentIndex string
	// Wanted is the identity of protocol §5, Why the reason when it is Minimal.
	Wanted record.Identity
	Why    string
	// Huge: a row over HugeRow was met in it, by this Source or as FoundHugeRow said.
	Huge bool
	// WantedIndex is the index of a minimal identity that must be named; "" when the
	// primary key serves.
	WantedIndex string
	// Settled: the identity at the source is the wanted one already.
	Settled bool
	// InPublication: every change of it is published by our publication.
	InPublication bool
	// Member names this stay in the publication, "" while it is not in it: oid and xmin
	// of the publication's row and of the table's row in it. It changes when somebody
	// takes the table out and adds it again, or alters the publication and back; rows
	// in between are lost.
	Member string
	// Capturable: it can enter. Else Reason says why not.
	Capturable bool
	Reason     string
	// Left: it is not captured by its nature: foreign, unlogged, an extension's. A
	// restore has it empty, or not at all, and that is as it should be.
	Left bool
	// Bytes is about the size of the heap and its TOAST table, by the statistics: to
	// ask for the true size would wait for locks.
	Bytes int64
	// Generated: it has generated columns, which are not stored in lines.
	Generated bool
	// GeneratedColumns names them.
	GeneratedColumns []string
	// Partition: a leaf of a partitioned table. Inherits: a child by INHERITS.
	Partition, Inherits bool
	// Owned: our role has the rights of the owner.
	Owned bool

	heap  bool   // has ctids (access method heap)
	owner string // the role
	rls   bool   // row level security hides rows from our role
	attrs string // attnum:xmin of every column, dropped ones too
}

// Catalog reads the catalog under one snapshot.
func (s *Source) Catalog(ctx context.Context) (*Catalog, error) {
	var cat *Catalog
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		before, err := insertLSN(ctx, c)
		if err != nil {
			return err
		}
		if _, err := c.simple(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
			return err
		}
		cat, err = s.catalogUnder(ctx, c)
		if err != nil {
			return err
		}
		cat.Before = before
		if _, err := c.simple(ctx, "COMMIT"); err != nil {
			return err
		}
		cat.After, err = insertLSN(ctx, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", classify(err))
	}
	s.quiet.saw(cat.Fingerprint, s.now())
	return cat, nil
}

// catalogUnder reads all but Before and After in c's transaction.
func (s *Source) catalogUnder(ctx context.Context, c *session) (*Catalog, error) {
	cat := &Catalog{}
	r, err := c.one(ctx, "SELECT pg_catalog.pg_current_snapshot()::text, "+lockedIDs)
	if err != nil {
		return nil, err
	}
	cat.Snapshot = r.snapshot()
	if cat.Horizon, err = horizon(cat.Snapshot.XMax, r.text()); err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, r.err
	}
	if cat.Tables, err = s.readTables(ctx, c, 0); err != nil {
		return nil, err
	}
	h := sha256.New()
	for i := range cat.Tables {
		fmt.Fprintf(h, "%d %s\n", cat.Tables[i].Relation.OID, cat.Tables[i].Member)
	}
	h.Sum(cat.Members[:0])
	there, err := s.foreign(ctx, c)
	switch {
	case errors.Is(err, ErrPublication):
		cat.Publication = err
	case err != nil:
		return nil, err
	case !there:
		cat.Publication = fmt.Errorf("publication %s does not exist: %w", ident(s.cfg.Publication), ErrPublicationMissing)
	}
	if cat.Sequences, err = readSequences(ctx, c); err != nil {
		return nil, err
	}
	cat.Fingerprint, err = s.schemaFingerprint(ctx, c)
	return cat, err
}

func insertLSN(ctx context.Context, c *session) (record.LSN, error) {
	r, err := c.one(ctx, "SELECT pg_catalog.pg_current_wal_insert_lsn()")
	if err != nil {
		return 0, err
	}
	l := r.lsn()
	return l, r.err
}
