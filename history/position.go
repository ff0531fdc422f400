package history

import (
	"fmt"
	"strings"

	"lifeboat.im/lifeboat/record"
)

// LineageID names one log: a source and one unbroken history of it.
type LineageID struct {
	record.Source
	record.Lineage
}

// String gives the form used in object keys: source, a dot, lineage.
func (id LineageID) String() string { return id.Source.String() + "." + id.Lineage.String() }

// ParseLineageID reads exactly what String gives.
func ParseLineageID(s string) (LineageID, error) {
	var id LineageID
	src, lin, ok := strings.Cut(s, ".")
	if !ok {
		return id, fmt.Errorf("parse lineage id %q: want source, a dot, lineage", s)
	}
	var err error
	if id.Source, err = record.ParseSource(src); err != nil {
		return id, err
	}
	id.Lineage, err = record.ParseLineage(lin)
	return id, err
}

// MarshalCBOR gives the text of String.
func (id LineageID) MarshalCBOR() ([]byte, error) { return record.Marshal(id.String()) }

// UnmarshalCBOR reads what MarshalCBOR gives.
func (id *LineageID) UnmarshalCBOR(b []byte) error {
	var s string
	if err := record.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := ParseLineageID(s)
	if err == nil {
		*id = v
	}
	return err
}

// Position is the place of an entry in its log.
type Position struct {
	_          struct{} `cbor:",toarray"`
	Epoch, Seq uint64
}

// maxNumber is the last epoch or seq that ten digits can say.
const maxNumber = 9_999_999_999

// Before reports whether p comes before o in the log.
func (p Position) Before(o Position) bool {
	return p.Epoch < o.Epoch || (p.Epoch == o.Epoch && p.Seq < o.Seq)
}

// String gives epoch/seq without leading zeros.
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Epoch, p.Seq) }

func (p Position) next() Position { return Position{Epoch: p.Epoch, Seq: p.Seq + 1} }

// key gives the entry's object key.
func (id LineageID) key(p Position) string {
	return fmt.Sprintf("log/%s/%010d/%010d", id, p.Epoch, p.Seq)
}
