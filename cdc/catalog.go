package cdc

import (
	"context"
	"errors"

	"lifeboat.im/lifeboat/record"
)

// Catalog is one look at the database: everything in it was true under Snapshot.
type Catalog struct {
	// Before is the insert LSN before the snapshot was taken, After the one after it
	// was read: a change that the snapshot sees lies below After, one that it does not
	// see ends above Before.
	Before   record.LSN
	Snapshot record.Snapshot
	After    record.LSN
	// Tables are all that hold rows, in order of schema and name; those that cannot
	// be captured say why.
	Tables []Table
	// Sequences are named only; their values come from [Source.Sequences].
	Sequences []record.Sequence
	// Fingerprint changes with everything that a schema dump shows, as far as that is
	// cheap to see. It does not change with rows, statistics or TRUNCATE.
	Fingerprint [32]byte
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
	// WantedIndex is the index of a minimal identity that must be named; "" when the
	// primary key serves.
	WantedIndex string
	// Settled: the identity at the source is the wanted one already.
	Settled       bool
	InPublication bool
	// Capturable: it can enter. Else Reason says why not.
	Capturable bool
	Reason     string
	// Bytes is the size of the heap and its TOAST table.
	Bytes int64
	// Generated: it has generated columns, which are not stored in lines.
	Generated bool
	// GeneratedColumns names them.
	GeneratedColumns []string
	// Partition: a leaf of a partitioned table. Inherits: a child by INHERITS.
	Partition, Inherits bool
	// Owned: our role has the rights of the owner.
	Owned bool
	// Wide is the average size of a row in bytes by the statistics; a hint only.
	Wide int64

	heap bool // has ctids (access method heap)
}

var errNotBuilt = errors.New("not built yet")

// Catalog reads the catalog under one snapshot.
func (s *Source) Catalog(ctx context.Context) (*Catalog, error) { return nil, errNotBuilt }

// TypeFingerprint covers the types that the table's columns reach: enums and their
// labels, composites and their attributes, domains, ranges, arrays. Type output
// ignores snapshots, so it is read before and after a copy (protocol §4).
func (s *Source) TypeFingerprint(ctx context.Context, t Table) ([32]byte, error) {
	return [32]byte{}, errNotBuilt
}
