package cdc

import (
	"encoding/binary"

	"lifeboat.im/lifeboat/record"
)

// Row is the old and new image of one changed row. It is valid during the call
// that brings it; its fields are read straight from the message.
type Row struct {
	msg      []byte
	rel      *relation
	old, new []field
	identity byte // 'O' full old row, 'K' its key columns, 0 none
	hasNew   bool
}

// field is a value within Row.msg. Messages are shorter than 1 GiB.
type field struct {
	kind     byte // 'n' NULL, 'u' unchanged TOAST, 't' text
	off, end uint32
}

// tuple reads a TupleData and checks it wholly, so that appending cannot fail.
func (r *Row) tuple(c *cursor, into *[]field) error {
	n := int(c.u16())
	if c.short {
		return errShort
	}
	if n != len(r.rel.Columns) {
		return bad("a row with another number of columns than its table")
	}
	fields := (*into)[:0]
	b, off := c.b, c.off
	for range n {
		if off >= len(b) {
			return errShort
		}
		kind := b[off]
		off++
		switch kind {
		case 'n', 'u':
			fields = append(fields, field{kind: kind})
		case 't':
			if len(b)-off < 4 {
				return errShort
			}
			size := int64(int32(binary.BigEndian.Uint32(b[off:])))
			off += 4
			if size < 0 || size > int64(len(b)-off) {
				return errShort
			}
			fields = append(fields, field{kind: kind, off: uint32(off), end: uint32(off + int(size))})
			off += int(size)
		case 'b':
			c.off = off - 1
			return bad("a binary value, which we did not ask for")
		default:
			c.off = off - 1
			return bad("an unknown kind of value")
		}
	}
	c.off, *into = off, fields
	return nil
}

// AppendNew appends the new row as a line; ok is false for a delete, and dst is
// as it was. A TOAST value that did not change is filled from the old row where
// that has it, else it is [record.Unknown].
func (r *Row) AppendNew(dst []byte) (line []byte, ok bool) {
	if !r.hasNew {
		return dst, false
	}
	for i, k := range r.rel.keep {
		if i > 0 {
			dst = append(dst, '\t')
		}
		f := r.new[k]
		if f.kind == 'u' && r.knows(k) {
			f = r.old[k]
		}
		dst = r.append(dst, f)
	}
	return dst, true
}

// AppendOld appends the old row as a line; ok is false for an insert and for an
// update whose key did not change under a minimal identity, and dst is as it was.
// Columns that the identity does not hold are [record.Unknown].
func (r *Row) AppendOld(dst []byte) (line []byte, ok bool) {
	if r.identity == 0 {
		return dst, false
	}
	for i, k := range r.rel.keep {
		if i > 0 {
			dst = append(dst, '\t')
		}
		if !r.knows(k) {
			dst = record.AppendUnknown(dst)
			continue
		}
		dst = r.append(dst, r.old[k])
	}
	return dst, true
}

// knows reports whether the old image has column k. A key image sends NULL for
// every other column (heapam.c, ExtractReplicaIdentity).
func (r *Row) knows(k int) bool {
	return r.identity == 'O' || r.identity == 'K' && r.rel.Columns[k].KeyFlag
}

// Complete reports that both lines which the operation has are there and hold no
// [record.Unknown]: the table's digest can be carried over it.
func (r *Row) Complete(op record.Op) bool {
	if op != record.Insert {
		if r.identity == 0 {
			return false
		}
		for _, k := range r.rel.keep {
			if !r.knows(k) || r.old[k].kind == 'u' {
				return false
			}
		}
	}
	if !r.hasNew {
		return true
	}
	for _, k := range r.rel.keep {
		if r.new[k].kind == 'u' && !r.knows(k) {
			return false
		}
	}
	return true
}

// Size is the length of the message in bytes: about what the two lines take.
func (r *Row) Size() int { return len(r.msg) }

func (r *Row) append(dst []byte, f field) []byte {
	switch f.kind {
	case 't':
		return record.AppendValue(dst, r.msg[f.off:f.end])
	case 'n':
		return record.AppendNull(dst)
	default:
		return record.AppendUnknown(dst)
	}
}
