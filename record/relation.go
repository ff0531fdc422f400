package record

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Identity is what the source logs of a row before its change.
type Identity byte

// The two identities that Lifeboat uses (protocol §5).
const (
	// Full: REPLICA IDENTITY FULL; the whole old row is logged.
	Full Identity = 'f'
	// Minimal: the default identity or an index; the old key only, and unchanged
	// TOAST values are missing. Chosen where Full could make a statement fail.
	Minimal Identity = 'm'
)

// Column is one stored column; generated columns are left out (they are computed
// again at restore).
type Column struct {
	Name string `cbor:"1,keyasint"`
	// Type is format_type(atttypid, atttypmod): "numeric(10,2)", "public.mood".
	Type string `cbor:"2,keyasint"`
	// TypeOID and TypeMod are the source's numbers; they mean nothing elsewhere.
	TypeOID uint32 `cbor:"3,keyasint"`
	TypeMod int32  `cbor:"4,keyasint"`
}

// Relation describes the rows of one table at one time. It is immutable: a
// changed table is another Relation.
type Relation struct {
	// OID is pg_class.oid: the table's identity in its lineage.
	OID    uint32 `cbor:"1,keyasint"`
	Schema string `cbor:"2,keyasint"`
	Name   string `cbor:"3,keyasint"`
	// Columns in the order of their lines.
	Columns []Column `cbor:"4,keyasint"`
	// Key holds indexes into Columns, in index order, from the catalog: the primary
	// key, else a full unique index on NOT NULL columns, else empty: a bag.
	Key      []uint16 `cbor:"5,keyasint"`
	Identity Identity `cbor:"6,keyasint"`
	// Item is the archive item that the table feeds; opaque text of the profile.
	Item string `cbor:"7,keyasint,omitempty"`
	// Subject names the columns that name an element of the item.
	Subject []string `cbor:"8,keyasint,omitempty"`
	// Secret: rows mix users' values with other people's secrets and are stored
	// uncompressed, in chunks of their own (design §4).
	Secret bool `cbor:"9,keyasint,omitempty"`
}

// Equal reports whether both describe the same rows in the same way.
func (r *Relation) Equal(o *Relation) bool {
	return r.OID == o.OID && r.Schema == o.Schema && r.Name == o.Name && r.Identity == o.Identity &&
		r.Item == o.Item && r.Secret == o.Secret && slices.Equal(r.Columns, o.Columns) &&
		slices.Equal(r.Key, o.Key) && slices.Equal(r.Subject, o.Subject)
}

// validate refuses what no capture makes: names that are not UTF-8, which CBOR
// could not read back, and a key of columns that are not there.
func (r *Relation) validate() error {
	ok := utf8.ValidString(r.Schema) && utf8.ValidString(r.Name) && utf8.ValidString(r.Item)
	for i := range r.Columns {
		ok = ok && utf8.ValidString(r.Columns[i].Name) && utf8.ValidString(r.Columns[i].Type)
	}
	if !ok {
		return fmt.Errorf("relation %q: a name that is not UTF-8: %w", r.String(), ErrCorrupt)
	}
	for _, k := range r.Key {
		if int(k) >= len(r.Columns) {
			return fmt.Errorf("relation %q: key column %d of %d: %w", r.String(), k, len(r.Columns), ErrCorrupt)
		}
	}
	return nil
}

// SameShape reports whether lines of both have the same columns and key, so that
// records of one can be applied to a base of the other.
func (r *Relation) SameShape(o *Relation) bool {
	return r.OID == o.OID && slices.Equal(r.Columns, o.Columns) && slices.Equal(r.Key, o.Key)
}

// String gives schema.name as is, without quotes, for messages and logs.
func (r *Relation) String() string { return r.Schema + "." + r.Name }

// Sequence is a sample of a sequence. Samples are not transactional: the values
// were true at some moment at or after the commit at At.
type Sequence struct {
	OID    uint32 `cbor:"1,keyasint"`
	Schema string `cbor:"2,keyasint"`
	Name   string `cbor:"3,keyasint"`
	// Last and Called are last_value and is_called of the sequence relation.
	Last   int64 `cbor:"4,keyasint"`
	Called bool  `cbor:"5,keyasint"`
	At     LSN   `cbor:"6,keyasint"`
}
