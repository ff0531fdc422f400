package record

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrCorrupt: bytes that no writer of a known version makes.
var ErrCorrupt = errors.New("data damaged")

// ErrVersion: the magic is ours, the version is not one that this program reads.
var ErrVersion = errors.New("written by a newer or unknown version of Lifeboat")

// Op says what a record does.
type Op byte

// The four operations, as they stand in the stored record.
const (
	Insert   Op = 'i'
	Update   Op = 'u'
	Delete   Op = 'd'
	Truncate Op = 't'
)

// TruncateCascade and TruncateRestart are Record.Flags of a Truncate
// (pgoutput, message Truncate).
const (
	TruncateCascade uint64 = 1
	TruncateRestart uint64 = 2
)

// Extent is a piece of a long line: Length bytes from Offset of the plaintext of
// the `bytes` chunk with this content digest and generation. The pieces of a line
// follow one another.
type Extent struct {
	_      struct{} `cbor:",toarray"`
	Chunk  [32]byte
	Gen    [16]byte
	Offset uint64
	Length uint64
}

// Line is a row image of a record: absent, inline text, or extents.
type Line struct {
	// Text is the line when it is inline; nil when absent or stored as extents. An
	// inline empty line (no columns, or one empty column) is non-nil and empty.
	Text []byte
	// Extents are set for a line longer than MaxInline.
	Extents []Extent
}

// Absent reports that there is no such image.
func (l Line) Absent() bool { return l.Text == nil && len(l.Extents) == 0 }

// Record is one row change.
type Record struct {
	// Ordinal counts the records of a transaction from 0, over all tables.
	Ordinal uint64
	// Relation is the index of the relation within the entry that holds the record.
	Relation uint32
	Op       Op
	// Flags are those of a Truncate, else 0.
	Flags uint64
	// Old is absent for an insert and a truncate; New for a delete and a truncate.
	// With a minimal identity, columns that the source did not send are [Unknown].
	Old, New Line
}

// MaxExtents bounds the pieces of one line.
const MaxExtents = 1 << 14

// AppendTransaction appends the mark that says to which transaction (an index
// into the entry's table) the records after it belong: a CBOR unsigned integer
// between the records' arrays.
func AppendTransaction(dst []byte, index uint64) []byte { return appendHead(dst, 0, index) }

// AppendHeader appends a record up to and without its old and new line; the
// caller appends exactly these two with [AppendLine], AppendAbsent or its own
// in-place writing. It lets a decoder write a row once, without a copy.
func AppendHeader(dst []byte, ordinal uint64, relation uint32, op Op) []byte {
	dst = appendHead(dst, 4, 5)
	dst = appendHead(dst, 0, ordinal)
	dst = appendHead(dst, 0, uint64(relation))
	return append(dst, 0x61, byte(op))
}

// AppendRecord appends the deterministic CBOR of r:
// [ordinal, relation, op, old, new], for a truncate [ordinal, relation, "t", flags, null].
func AppendRecord(dst []byte, r *Record) []byte {
	dst = AppendHeader(dst, r.Ordinal, r.Relation, r.Op)
	if r.Op == Truncate {
		dst = appendHead(dst, 0, r.Flags)
		return append(dst, 0xf6)
	}
	dst = AppendLine(dst, r.Old)
	return AppendLine(dst, r.New)
}

// AppendLine appends a line: null, a byte string, or an array of extents
// [chunk, generation, offset, length].
func AppendLine(dst []byte, l Line) []byte {
	switch {
	case len(l.Extents) > 0:
		dst = appendHead(dst, 4, uint64(len(l.Extents)))
		for i := range l.Extents {
			e := &l.Extents[i]
			dst = appendHead(dst, 4, 4)
			dst = append(appendHead(dst, 2, 32), e.Chunk[:]...)
			dst = append(appendHead(dst, 2, 16), e.Gen[:]...)
			dst = appendHead(dst, 0, e.Offset)
			dst = appendHead(dst, 0, e.Length)
		}
		return dst
	case l.Text == nil:
		return append(dst, 0xf6)
	}
	return append(appendHead(dst, 2, uint64(len(l.Text))), l.Text...)
}

func appendHead(dst []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(dst, m|byte(n))
	case n < 1<<8:
		return append(dst, m|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, m|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, m|27), n)
}

// Decoder walks a part: transaction marks and records. It allocates only for
// extents; lines are slices of the input.
type Decoder struct {
	b      []byte
	off    int
	tx     uint64
	inTx   bool
	rec    Record
	strict int
}

// NewDecoder reads the part b. relations is the number of relations of the entry;
// a record that names another is damage.
func NewDecoder(b []byte, relations int) *Decoder { return &Decoder{b: b, strict: relations} }

// Next gives the next record and the index of its transaction; the record is
// valid until the call after. It returns nil, and no error, at the end.
func (d *Decoder) Next() (tx uint64, r *Record, err error) {
	for {
		if d.off == len(d.b) {
			return 0, nil, nil
		}
		if d.b[d.off]>>5 == 0 {
			n, err := d.head(0)
			if err != nil {
				return 0, nil, err
			}
			// One mark for each transaction that has records here, in commit order: there
			// is no second way to write the same records (R1).
			if d.inTx && n <= d.tx {
				return 0, nil, d.bad("a transaction that does not follow the one before")
			}
			if d.off == len(d.b) || d.b[d.off]>>5 == 0 {
				return 0, nil, d.bad("a transaction without records")
			}
			d.tx, d.inTx = n, true
			continue
		}
		if !d.inTx {
			return 0, nil, d.bad("a record before the mark of its transaction")
		}
		if err := d.record(); err != nil {
			return 0, nil, err
		}
		return d.tx, &d.rec, nil
	}
}

func (d *Decoder) record() error {
	n, err := d.head(4)
	if err != nil {
		return err
	}
	if n != 5 {
		return d.bad("a record of another length")
	}
	d.rec = Record{}
	if d.rec.Ordinal, err = d.head(0); err != nil {
		return err
	}
	rel, err := d.head(0)
	if err != nil {
		return err
	}
	if rel >= uint64(d.strict) {
		return d.bad("a relation that the entry does not have")
	}
	d.rec.Relation = uint32(rel)
	if len(d.b)-d.off < 2 || d.b[d.off] != 0x61 {
		return d.bad("no operation")
	}
	d.rec.Op = Op(d.b[d.off+1])
	d.off += 2
	if d.rec.Op == Truncate {
		if d.rec.Flags, err = d.head(0); err != nil {
			return err
		}
		if d.off >= len(d.b) || d.b[d.off] != 0xf6 {
			return d.bad("a truncate with a line")
		}
		d.off++
		return nil
	}
	if d.rec.Old, err = d.line(); err != nil {
		return err
	}
	if d.rec.New, err = d.line(); err != nil {
		return err
	}
	ok := false
	switch d.rec.Op {
	case Insert:
		ok = d.rec.Old.Absent() && !d.rec.New.Absent()
	case Update:
		ok = !d.rec.New.Absent()
	case Delete:
		ok = !d.rec.Old.Absent() && d.rec.New.Absent()
	}
	if !ok {
		return d.bad("lines that do not fit the operation")
	}
	return nil
}

func (d *Decoder) line() (Line, error) {
	if d.off >= len(d.b) {
		return Line{}, d.bad("no line")
	}
	switch {
	case d.b[d.off] == 0xf6:
		d.off++
		return Line{}, nil
	case d.b[d.off]>>5 == 2:
		b, err := d.bytes()
		return Line{Text: b}, err
	}
	n, err := d.head(4)
	if err != nil {
		return Line{}, err
	}
	// An extent is at least 54 bytes: a count beyond what is there is a lie.
	if n == 0 || n > MaxExtents || n > uint64(len(d.b)-d.off)/54 {
		return Line{}, d.bad("a number of extents out of bounds")
	}
	l := Line{Extents: make([]Extent, n)}
	for i := range l.Extents {
		if l.Extents[i], err = d.extent(); err != nil {
			return Line{}, err
		}
	}
	return l, nil
}

func (d *Decoder) extent() (e Extent, err error) {
	n, err := d.head(4)
	if err != nil {
		return e, err
	}
	if n != 4 {
		return e, d.bad("an extent of another length")
	}
	c, err := d.bytes()
	if err != nil || len(c) != len(e.Chunk) {
		return e, d.bad("an extent's chunk")
	}
	copy(e.Chunk[:], c)
	g, err := d.bytes()
	if err != nil || len(g) != len(e.Gen) {
		return e, d.bad("an extent's generation")
	}
	copy(e.Gen[:], g)
	if e.Offset, err = d.head(0); err != nil {
		return e, err
	}
	e.Length, err = d.head(0)
	return e, err
}

func (d *Decoder) bytes() ([]byte, error) {
	n, err := d.head(2)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(d.b)-d.off) {
		return nil, d.bad("a byte string that is longer than the part")
	}
	b := d.b[d.off : d.off+int(n) : d.off+int(n)]
	d.off += int(n)
	return b, nil
}

// head reads one CBOR head of the major type and refuses forms that are not the
// shortest, so that what is read is what would be written (R1).
func (d *Decoder) head(major byte) (uint64, error) {
	if d.off >= len(d.b) {
		return 0, d.bad("it ends early")
	}
	c := d.b[d.off]
	if c>>5 != major {
		return 0, d.bad("an unexpected CBOR type")
	}
	n, size := uint64(c&31), 0
	switch {
	case n < 24:
		d.off++
		return n, nil
	case n > 27:
		return 0, d.bad("an indefinite or reserved CBOR length")
	default:
		size = 1 << (n - 24)
	}
	if len(d.b)-d.off-1 < size {
		return 0, d.bad("it ends early")
	}
	n = 0
	for i := range size {
		n = n<<8 | uint64(d.b[d.off+1+i])
	}
	if (size == 1 && n < 24) || (size > 1 && n < 1<<(8*size/2)) {
		return 0, d.bad("a CBOR number that is not in its shortest form")
	}
	d.off += 1 + size
	return n, nil
}

func (d *Decoder) bad(what string) error {
	return fmt.Errorf("decode records at byte %d of %d: %s: %w", d.off, len(d.b), what, ErrCorrupt)
}
