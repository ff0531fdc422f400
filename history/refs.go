package history

import (
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// bodyRef is a chunk that a body points to.
type bodyRef struct {
	chunkstore.Ref
	kind    chunkstore.Kind
	atLeast uint64 // bytes that the body wants of it
}

func extentRefs(out []bodyRef, kind chunkstore.Kind, list []record.Extent) []bodyRef {
	for _, e := range list {
		out = append(out, bodyRef{chunkstore.Ref{D: e.Chunk, Gen: e.Gen}, kind, e.Offset + e.Length})
	}
	return out
}

// bodyParser gives the parser of the entry's body, nil when its body is empty. A
// parser returns every chunk that the body itself points to.
func (e *entry) bodyParser() func(e *entry, b []byte) ([]bodyRef, error) {
	switch {
	case e.sum.Epoch != nil:
		return epochRefs
	case e.sum.Segment != nil:
		return segmentRefs
	case e.sum.Base != nil:
		return baseRefs
	case e.sum.Schema != nil:
		return schemaRefs
	case e.sum.History != nil:
		return historyRefs
	}
	return nil
}

func epochRefs(_ *entry, b []byte) ([]bodyRef, error) {
	var body epochBody
	return nil, parseOne(b, &body)
}

// segmentRefs leaves out the long lines of records that lie in chunks: a reader of
// those finds them.
func segmentRefs(e *entry, b []byte) ([]bodyRef, error) {
	s, err := parseSegment(b)
	if err != nil {
		return nil, err
	}
	if g := e.sum.Segment; s.Start != g.Start || s.End != g.End || uint64(len(s.Transactions)) != g.Transactions {
		return nil, errorf("the body is not that of part 1")
	}
	var out []bodyRef
	for _, p := range s.Parts {
		if p.Chunk != nil {
			out = extentRefs(out, chunkstore.KindRecords, []record.Extent{*p.Chunk})
			continue
		}
		d := record.NewDecoder(p.Inline, len(s.Relations))
		for {
			_, r, err := d.Next()
			if err != nil {
				return nil, err
			}
			if r == nil {
				break
			}
			out = extentRefs(out, chunkstore.KindBytes, r.Old.Extents)
			out = extentRefs(out, chunkstore.KindBytes, r.New.Extents)
		}
	}
	return out, nil
}

func baseRefs(e *entry, b []byte) ([]bodyRef, error) {
	var base Base
	if err := parseOne(b, &base); err != nil {
		return nil, err
	}
	if s := e.sum.Base; base.Relation.OID != s.Table || base.ExactFrom != s.ExactFrom || base.RecordsFrom != s.RecordsFrom {
		return nil, errorf("the body is not that of part 1")
	}
	return base.refs()
}

// refs gives the chunks of a base; a piece is a chunk or a long line, never both.
func (b *Base) refs() ([]bodyRef, error) {
	var out []bodyRef
	for i, p := range b.Pieces {
		if (p.Rows == nil) == (len(p.Long) == 0) {
			return nil, errorf("piece %d is neither rows nor a long line", i)
		}
		if p.Rows != nil {
			out = append(out, bodyRef{*p.Rows, chunkstore.KindRows, p.Rows.Size})
		}
		out = extentRefs(out, chunkstore.KindBytes, p.Long)
	}
	return out, nil
}

func schemaRefs(e *entry, b []byte) ([]bodyRef, error) {
	var s Schema
	if err := parseOne(b, &s); err != nil {
		return nil, err
	}
	if s.Fingerprint != e.sum.Schema.Fingerprint || s.From != e.sum.Schema.From {
		return nil, errorf("the body is not that of part 1")
	}
	return s.refs(), nil
}

// refs gives the chunks of a schema.
func (s *Schema) refs() []bodyRef {
	return extentRefs(extentRefs(nil, chunkstore.KindBytes, s.Custom), chunkstore.KindBytes, s.Plain)
}

func historyRefs(e *entry, b []byte) ([]bodyRef, error) {
	var h historyBody
	if err := parseOne(b, &h); err != nil {
		return nil, err
	}
	if err := h.validate(e.sum.History); err != nil {
		return nil, err
	}
	var out []bodyRef
	for _, p := range h.Transactions {
		out = append(out, bodyRef{p.Chunk, chunkstore.KindRecords, p.Chunk.Size})
	}
	for i := range h.Tables {
		for _, p := range h.Tables[i].Pieces {
			out = append(out, bodyRef{p.Chunk, chunkstore.KindRecords, p.Offset + p.Length})
		}
	}
	return out, nil
}
