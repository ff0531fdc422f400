package record

import (
	"bytes"
	"fmt"
)

// MaxInline is the longest line that a record or a rows chunk holds itself;
// a longer one is stored as extents (protocol §1).
const MaxInline = 1 << 20

// Null and Unknown are the two fields that are not values. COPY writes the first
// (COPY documentation, option NULL); the second is ours and no server writes it:
// COPY TO escapes every backslash of a value as two.
var (
	nullField    = []byte(`\N`)
	unknownField = []byte(`\U`)
)

// Unknown reports whether a field of a line is the mark of a value that the
// source did not send (an unchanged TOAST value, or a column that is not part of
// a minimal identity).
func Unknown(field []byte) bool { return len(field) == 2 && field[0] == '\\' && field[1] == 'U' }

// IsNull reports whether a field of a line is NULL.
func IsNull(field []byte) bool { return len(field) == 2 && field[0] == '\\' && field[1] == 'N' }

// AppendNull appends the field NULL.
func AppendNull(dst []byte) []byte { return append(dst, nullField...) }

// AppendUnknown appends the mark that [Unknown] recognises.
func AppendUnknown(dst []byte) []byte { return append(dst, unknownField...) }

// escapes is the table of CopyAttributeOutText (PostgreSQL
// src/backend/commands/copyto.c): what each byte becomes after a backslash, 0 for
// bytes that stand for themselves.
var escapes = [256]byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't', '\v': 'v', '\\': '\\'}

// AppendValue appends a value in text form as COPY TO would write it. Bytes above
// 127 stand for themselves (the server encodings are ASCII-safe; client
// encodings that are not are refused by package cdc).
func AppendValue(dst, value []byte) []byte {
	for {
		i := 0
		for i < len(value) && escapes[value[i]] == 0 {
			i++
		}
		dst = append(dst, value[:i]...)
		if i == len(value) {
			return dst
		}
		dst = append(dst, '\\', escapes[value[i]])
		value = value[i+1:]
	}
}

// AppendUnescaped appends the value of a field that is neither NULL nor unknown: the
// reading side of COPY for what [AppendValue] writes (PostgreSQL
// src/backend/commands/copyfromparse.c, CopyReadAttributesText).
func AppendUnescaped(dst, field []byte) []byte {
	for {
		i := bytes.IndexByte(field, '\\')
		if i < 0 || i+1 == len(field) {
			return append(dst, field...)
		}
		c := field[i+1]
		if k := bytes.IndexByte([]byte("bfnrtv"), c); k >= 0 {
			c = "\b\f\n\r\t\v"[k]
		}
		dst = append(append(dst, field[:i]...), c)
		field = field[i+2:]
	}
}

// Fields calls f for each field of a line, in order, with its escaped bytes; the
// slice is part of line. A line of a relation without columns is empty and has no
// field; columns says how many there must be.
func Fields(line []byte, columns int, f func(i int, field []byte)) error {
	if columns == 0 {
		if len(line) != 0 {
			return fmt.Errorf("split line: %d bytes in a table without columns: %w", len(line), ErrCorrupt)
		}
		return nil
	}
	n := 0
	for {
		end := bytes.IndexByte(line, '\t')
		if n == columns-1 {
			if end >= 0 {
				return fmt.Errorf("split line: more than %d fields: %w", columns, ErrCorrupt)
			}
			f(n, line)
			return nil
		}
		if end < 0 {
			return fmt.Errorf("split line: %d fields, want %d: %w", n+1, columns, ErrCorrupt)
		}
		f(n, line[:end])
		line, n = line[end+1:], n+1
	}
}

// AppendKey appends the cut key of a line: its key columns in COPY text joined by
// tab, in index order. fields is scratch and is returned for the next call. For a
// bag (no key) it appends the whole line.
func AppendKey(dst, line []byte, rel *Relation, fields [][]byte) (key []byte, scratch [][]byte, err error) {
	if len(rel.Key) == 0 {
		return append(dst, line...), fields, nil
	}
	fields = fields[:0]
	err = Fields(line, len(rel.Columns), func(_ int, f []byte) { fields = append(fields, f) })
	if err != nil {
		return dst, fields, err
	}
	for i, k := range rel.Key {
		if int(k) >= len(fields) {
			return dst, fields, fmt.Errorf("key column %d of %d: %w", k, len(fields), ErrCorrupt)
		}
		if i > 0 {
			dst = append(dst, '\t')
		}
		dst = append(dst, fields[k]...)
	}
	return dst, fields, nil
}
