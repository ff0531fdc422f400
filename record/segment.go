package record

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Transaction is one commit of the source.
type Transaction struct {
	_   struct{} `cbor:",toarray"`
	XID XID
	// Commit is the LSN of the commit record, End the first byte after it; End is
	// the restore point.
	Commit, End LSN
	Time        Time
	// Records is how many records it has, over all parts.
	Records uint64
}

// Part is a run of records in commit order: inline, or in a `records` chunk.
type Part struct {
	// Inline is set or Chunk is, never both.
	Inline []byte  `cbor:"1,keyasint,omitempty"`
	Chunk  *Extent `cbor:"2,keyasint,omitempty"`
	// Records counts the part's records.
	Records uint64 `cbor:"3,keyasint"`
	// Secret parts hold the records of secret relations and are not compressed.
	// The order between secret and other parts of one transaction is by ordinal.
	Secret bool `cbor:"4,keyasint,omitempty"`
}

// Change is what a segment does to one table.
type Change struct {
	_ struct{} `cbor:",toarray"`
	// Relation is the index into the segment's Relations.
	Relation uint32
	// Digest is what the segment's records add to and take from the table's digest.
	// After a Truncate it counts from the empty table, and Reset is true.
	Digest Digest
	Reset  bool
	// Unknown: the records hold values that the source did not send, so the digest
	// of the table cannot be carried over this segment.
	Unknown bool
	// Bytes is the size of the table's records.
	Bytes uint64
}

// Segment is what one flush makes durable: every transaction that ended in
// (Start, End], whole and in commit order.
type Segment struct {
	Start        LSN           `cbor:"1,keyasint"`
	End          LSN           `cbor:"2,keyasint"`
	Relations    []Relation    `cbor:"3,keyasint,omitempty"`
	Transactions []Transaction `cbor:"4,keyasint,omitempty"`
	Parts        []Part        `cbor:"5,keyasint,omitempty"`
	Sequences    []Sequence    `cbor:"6,keyasint,omitempty"`
	Changes      []Change      `cbor:"7,keyasint,omitempty"`
}

// Limits of what one entry may hold; a reader refuses more (R1).
const (
	MaxRelations    = 1 << 16
	MaxTransactions = 1 << 24
	MaxParts        = 1 << 20
)

// encMode is RFC 8949 §4.2.1 core deterministic encoding; decMode refuses what
// that encoding cannot make, and bounds what it allocates. Both are immutable.
var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, MaxArrayElements: MaxTransactions, MaxMapPairs: MaxRelations,
		MaxNestedLevels: 16, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options are constants; a test decodes with them
	}
	return v
}

// Marshal gives the deterministic CBOR of v: RFC 8949 §4.2.1. It serves every
// body of the log.
func Marshal(v any) ([]byte, error) { return encMode.Marshal(v) }

// Unmarshal reads the CBOR of one value into v and refuses bytes that Marshal
// would not have written (R1): unknown or doubled keys, indefinite lengths, tags,
// and anything that does not come back the same.
func Unmarshal(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return errors.Join(fmt.Errorf("decode CBOR: %w", err), ErrCorrupt)
	}
	again, err := encMode.Marshal(v)
	if err != nil {
		return errors.Join(fmt.Errorf("decode CBOR: %w", err), ErrCorrupt)
	}
	if string(again) != string(b) {
		return fmt.Errorf("decode CBOR: not in canonical form: %w", ErrCorrupt)
	}
	return nil
}

// Validate says the law of a segment (R3, R4 and the bounds); it does not open
// chunks.
func (s *Segment) Validate() error {
	if s.End < s.Start {
		return fmt.Errorf("segment ends at %s before its start %s: %w", s.End, s.Start, ErrCorrupt)
	}
	if len(s.Relations) > MaxRelations || len(s.Transactions) > MaxTransactions || len(s.Parts) > MaxParts {
		return fmt.Errorf("segment beyond the limits of a reader: %w", ErrCorrupt)
	}
	last := s.Start
	for i := range s.Relations {
		if err := s.Relations[i].validate(); err != nil {
			return err
		}
	}
	for i := range s.Transactions {
		t := &s.Transactions[i]
		if t.End <= last || t.End > s.End || t.Commit >= t.End {
			return fmt.Errorf("transaction %d ends at %s, after %s within (%s, %s]: %w", t.XID, t.End, last, s.Start, s.End, ErrCorrupt)
		}
		last = t.End
	}
	if err := s.validateParts(); err != nil {
		return err
	}
	for i := range s.Changes {
		if int(s.Changes[i].Relation) >= len(s.Relations) {
			return fmt.Errorf("change of relation %d of %d: %w", s.Changes[i].Relation, len(s.Relations), ErrCorrupt)
		}
	}
	return nil
}

// validateParts holds the parts against the transactions: whole ones (R3), as far
// as their records are inline.
func (s *Segment) validateParts() error {
	have := make([]uint64, len(s.Transactions))
	var total, elsewhere uint64
	for i := range s.Parts {
		p := &s.Parts[i]
		if (p.Inline == nil) == (p.Chunk == nil) {
			return fmt.Errorf("part %d is neither inline nor a chunk: %w", i, ErrCorrupt)
		}
		total += p.Records
		if p.Inline == nil {
			elsewhere += p.Records
			continue
		}
		if err := s.validatePart(p, p.Inline, have); err != nil {
			return err
		}
	}
	var named uint64
	for i := range s.Transactions {
		t := &s.Transactions[i]
		named += t.Records
		if have[i] > t.Records || elsewhere == 0 && have[i] < t.Records {
			return fmt.Errorf("transaction %d names %d records and has %d: %w", t.XID, t.Records, have[i], ErrCorrupt)
		}
	}
	if named != total {
		return fmt.Errorf("segment names %d records and has %d: %w", named, total, ErrCorrupt)
	}
	return nil
}

// ValidatePart walks the bytes of one part: every record decodes, names a known
// relation and a transaction of the segment, in order.
func (s *Segment) ValidatePart(p *Part, b []byte) error {
	return s.validatePart(p, b, make([]uint64, len(s.Transactions)))
}

// validatePart counts each transaction's records in have.
func (s *Segment) validatePart(p *Part, b []byte, have []uint64) error {
	d := NewDecoder(b, len(s.Relations))
	var n, next uint64 // next is the lowest ordinal that may come
	current := ^uint64(0)
	for {
		tx, r, err := d.Next()
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		if tx >= uint64(len(s.Transactions)) {
			return fmt.Errorf("record of transaction %d of %d: %w", tx, len(s.Transactions), ErrCorrupt)
		}
		if tx != current {
			current, next = tx, 0
		}
		if r.Ordinal < next || r.Ordinal >= s.Transactions[tx].Records {
			return fmt.Errorf("record %d of transaction %d after %d of %d: %w", r.Ordinal, s.Transactions[tx].XID, next, s.Transactions[tx].Records, ErrCorrupt)
		}
		next = r.Ordinal + 1
		have[tx]++
		n++
	}
	if n != p.Records {
		return fmt.Errorf("part names %d records and has %d: %w", p.Records, n, ErrCorrupt)
	}
	return nil
}
