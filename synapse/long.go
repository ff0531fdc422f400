package synapse

import (
	"bytes"
	"fmt"

	"lifeboat.im/lifeboat/record"
)

// maxField bounds what is kept of one field of a long line: ids, names and numbers are
// far shorter.
const maxField = 64 << 10

// ReadExtent gives the bytes of one extent, and an error where they are not to be had.
type ReadExtent func(record.Extent) ([]byte, error)

// fields splits a line into its fields, in memory that does not grow with the line: a
// long one goes by extent by extent, and a field that is longer than [maxField] counts
// as unknown. cut reports that there is one.
func fields(line record.Line, columns int, read ReadExtent) (out [][]byte, cut bool, err error) {
	out = make([][]byte, 0, columns)
	if len(line.Extents) == 0 {
		err = record.Fields(line.Text, columns, func(_ int, f []byte) { out = append(out, f) })
		return out, false, err
	}
	if read == nil {
		return nil, false, fmt.Errorf("%w: a long line, and nobody reads it", record.ErrCorrupt)
	}
	var field []byte
	end := func() {
		if len(field) > maxField {
			field, cut = record.AppendUnknown(nil), true
		}
		out, field = append(out, bytes.Clone(field)), field[:0]
	}
	for _, e := range line.Extents {
		b, err := read(e)
		if err != nil {
			return nil, false, err
		}
		for {
			part, rest, more := bytes.Cut(b, []byte{'\t'})
			field = append(field, part[:min(len(part), maxField+1-len(field))]...)
			if !more {
				break
			}
			if end(); len(out) == columns {
				return nil, false, fmt.Errorf("%w: more than %d fields", record.ErrCorrupt, columns)
			}
			b = rest
		}
	}
	if end(); len(out) != columns {
		return nil, false, fmt.Errorf("%w: %d fields instead of %d", record.ErrCorrupt, len(out), columns)
	}
	return out, cut, nil
}
