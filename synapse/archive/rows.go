package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf/event"
	"lifeboat.im/lifeboat/record"
)

// Tables gives the rows of a database. Musts: the same rows each time, ascending by the
// bytes of their lines; a line is valid until the next step.
type Tables interface {
	// Columns gives the names of a table's columns in the order of its rows; nil when
	// there is no such table.
	Columns(table string) []string
	// Rows gives a table's rows as lines of COPY's text format without newline; none of
	// a table that does not exist.
	Rows(table string) iter.Seq2[[]byte, error]
}

// row is one row of a table, seen through some of its columns, which are counted as
// they were asked for. A column that the table does not have is NULL.
type row struct {
	table  string
	names  []string
	fields [][]byte
	err    error // the first value that is not what its column holds
}

// rows goes through a table.
func (b *builder) rows(table string, columns ...string) iter.Seq2[*row, error] {
	return b.rowsOf(b.tables, table, columns...)
}

func (b *builder) rowsOf(tables Tables, table string, columns ...string) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		b.read[table] = true
		have := tables.Columns(table)
		if have == nil {
			return
		}
		at := make([]int, len(have)) // 1 + the place among columns
		for i, name := range have {
			for j, want := range columns {
				if name == want {
					at[i] = j + 1
				}
			}
		}
		r := &row{table: table, names: columns, fields: make([][]byte, len(columns))}
		for line, err := range tables.Rows(table) {
			if err == nil {
				err = b.check()
			}
			if err == nil {
				err = record.Fields(line, len(have), func(i int, field []byte) {
					if j := at[i]; j > 0 {
						r.fields[j-1] = field
					}
				})
			}
			if err != nil {
				yield(nil, fmt.Errorf("table %s: %w", table, err))
				return
			}
			if !yield(r, nil) {
				return
			}
			if r.err != nil {
				yield(nil, fmt.Errorf("table %s: %w", table, r.err))
				return
			}
		}
	}
}

// sortedBy gives a table in the order of the values of a column. Mostly it is the first
// one, and then the table is in that order already.
func (b *builder) sortedBy(table, column string) (Tables, error) {
	columns := b.tables.Columns(table)
	i := slices.Index(columns, column)
	if i <= 0 {
		return b.tables, nil
	}
	t := reordered{columns: slices.Insert(slices.Delete(slices.Clone(columns), i, i+1), 0, column)}
	s := b.sorter(3)
	var line []byte
	for r, err := range b.rows(table, t.columns...) {
		if err != nil {
			return nil, err
		}
		line = append(line[:0], bytes.Join(r.fields, []byte{'\t'})...)
		if err := s.Add(line, nil); err != nil {
			return nil, err
		}
	}
	var err error
	t.lines, err = s.Sorted()
	return t, err
}

// reordered is one table with its columns in another order.
type reordered struct {
	columns []string
	lines   *spill.Sorted
}

// Columns gives the names of the columns.
func (t reordered) Columns(string) []string { return t.columns }

// Rows gives the lines.
func (t reordered) Rows(string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for p, err := range t.lines.All() {
			if !yield(p.Key, err) || err != nil {
				return
			}
		}
	}
}

func (r *row) null(i int) bool { return r.fields[i] == nil || record.IsNull(r.fields[i]) }

// bytes gives a text; nil for NULL.
func (r *row) bytes(i int) []byte {
	if r.null(i) {
		return nil
	}
	return record.AppendUnescaped(make([]byte, 0, len(r.fields[i])), r.fields[i])
}

// append appends a text; nothing for NULL.
func (r *row) append(dst []byte, i int) []byte {
	if r.null(i) {
		return dst
	}
	return record.AppendUnescaped(dst, r.fields[i])
}

// text gives a text; "" for NULL.
func (r *row) text(i int) string { return string(r.bytes(i)) }

// int gives a whole number; 0 for NULL.
func (r *row) int(i int) int64 {
	if r.null(i) {
		return 0
	}
	n, err := strconv.ParseInt(string(r.fields[i]), 10, 64)
	if err != nil {
		r.fail(i, "a whole number")
	}
	return n
}

// bool gives a boolean, or a number that stands for one; false for NULL.
func (r *row) bool(i int) bool {
	if r.null(i) {
		return false
	}
	switch string(r.fields[i]) {
	case "t", "1":
		return true
	case "f", "0":
		return false
	}
	r.fail(i, "true or false")
	return false
}

// object gives a JSON object as a tree (package event); nil for NULL and for what is
// none, which ok tells apart.
func (r *row) object(i int) (tree map[string]any, ok bool) {
	if r.null(i) {
		return nil, true
	}
	tree, _, err := event.Parse(r.bytes(i))
	return tree, err == nil
}

func (r *row) fail(i int, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("column %s holds %.40q, not %s", r.names[i], r.fields[i], want)
	}
}

// key puts texts together so that the bytes of keys are ordered as the texts are:
// PostgreSQL has no zero byte in a text.
func key(parts ...string) []byte {
	var k []byte
	for _, p := range parts {
		k = append(append(k, p...), 0)
	}
	return k
}

// byLength is a key whose order is that of an archive's CBOR keys: the shorter text
// first, then by bytes.
func byLength(text string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// appendInt appends a number so that bytes are ordered as numbers are.
func appendInt(dst []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(n)^(1<<63))
}

func keyInt(k []byte) int64 { return int64(binary.BigEndian.Uint64(k) ^ (1 << 63)) }

// fields are values put behind each other, each behind its length.
type fields []byte

func (f fields) text(s string) fields {
	return append(binary.AppendUvarint(f, uint64(len(s))), s...)
}

func (f fields) bytes(b []byte) fields {
	return append(binary.AppendUvarint(f, uint64(len(b))), b...)
}

// putUvarint4 writes a number below 1<<28 in four bytes, which a reader of uvarints takes.
func putUvarint4(dst []byte, n uint64) {
	dst[0], dst[1], dst[2], dst[3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)
}

func (f fields) int(n int64) fields { return binary.AppendVarint(f, n) }

func (f fields) bool(v bool) fields {
	if v {
		return append(f, 1)
	}
	return append(f, 0)
}

// reader takes them apart again. It reads what this package wrote and package spill
// has checked, so what does not fit is as good as empty.
type reader []byte

func (r *reader) bytes() []byte {
	n, k := binary.Uvarint(*r)
	if k <= 0 || n > uint64(len(*r)-k) {
		*r = nil
		return nil
	}
	b := (*r)[k : k+int(n)]
	*r = (*r)[k+int(n):]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) int() int64 {
	n, k := binary.Varint(*r)
	*r = (*r)[max(k, 0):]
	return n
}

func (r *reader) bool() bool {
	if len(*r) == 0 {
		return false
	}
	v := (*r)[0]
	*r = (*r)[1:]
	return v == 1
}
