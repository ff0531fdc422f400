package history

import (
	"context"
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

func bodyCompression(secret bool) chunkstore.Compression {
	if secret {
		return chunkstore.Stored
	}
	return chunkstore.Fast
}

// segmentBody gives the frames of a segment: its CBOR, in which inline secret parts
// have no bytes, then each of those parts in a stored frame of its own, in order.
func segmentBody(s *record.Segment) ([]byte, error) {
	c := *s
	c.Parts = make([]record.Part, 0, len(s.Parts))
	var secret [][]byte
	for _, p := range s.Parts {
		if p.Records == 0 {
			continue // an empty part says nothing, and its bytes would not come back
		}
		if p.Secret && p.Chunk == nil {
			secret = append(secret, p.Inline)
			p.Inline = nil
		}
		c.Parts = append(c.Parts, p)
	}
	plain, err := record.Marshal(&c)
	if err != nil {
		return nil, err
	}
	body := appendPart(nil, plain, chunkstore.Fast)
	for _, b := range secret {
		body = appendPart(body, b, chunkstore.Stored)
	}
	return body, nil
}

// parseSegment reads what segmentBody gives.
func parseSegment(body []byte) (*record.Segment, error) {
	frames, err := splitParts(body)
	if err != nil {
		return nil, err
	}
	if len(frames) == 0 {
		return nil, errorf("a segment without a body")
	}
	s := new(record.Segment)
	if err := record.Unmarshal(frames[0], s); err != nil {
		return nil, err
	}
	frames = frames[1:]
	for i := range s.Parts {
		p := &s.Parts[i]
		if p.Inline != nil || p.Chunk != nil {
			continue
		}
		if !p.Secret || len(frames) == 0 {
			return nil, errorf("part %d has no bytes", i)
		}
		p.Inline, frames = frames[0], frames[1:]
	}
	if len(frames) > 0 {
		return nil, errorf("%d frames too many", len(frames))
	}
	return s, s.Validate()
}

// parseOne reads a body of one frame of CBOR.
func parseOne(body []byte, v any) error {
	frames, err := splitParts(body)
	if err != nil {
		return err
	}
	if len(frames) != 1 {
		return errorf("%d frames", len(frames))
	}
	return record.Unmarshal(frames[0], v)
}

// body fetches an entry that the view names and opens its body.
func (l *Log) body(ctx context.Context, at Position, want Kind) (*entry, []byte, error) {
	e, err := l.get(ctx, at)
	if err != nil {
		return nil, nil, l.needed(at, err)
	}
	if e.kind != want {
		return nil, nil, damaged(l.id.key(at), "it is a %s, not a %s", e.kind, want)
	}
	k, err := l.epochKey(ctx, l.keys, e.keyEpoch())
	if err != nil {
		return nil, nil, err
	}
	b, err := e.openBody(k)
	return e, b, err
}

// parsed wraps what the parser of a body says.
func (l *Log) parsed(at Position, err error) error {
	if err == nil {
		return nil
	}
	return damaged(l.id.key(at), "%w", err)
}

// Base opens the body of a base.
func (v *View) Base(ctx context.Context, b BaseInfo) (*Base, error) {
	_, body, err := v.log.body(ctx, b.Position, KindBase)
	if err != nil {
		return nil, err
	}
	out := new(Base)
	err = parseOne(body, out)
	if err == nil {
		_, err = out.refs()
	}
	return out, v.log.parsed(b.Position, err)
}

// Segment opens the body of a segment.
func (v *View) Segment(ctx context.Context, s SegmentInfo) (*record.Segment, error) {
	_, body, err := v.log.body(ctx, s.Position, KindSegment)
	if err != nil {
		return nil, err
	}
	out, err := parseSegment(body)
	if err == nil && (out.Start != s.Start || out.End != s.End || uint64(len(out.Transactions)) != s.Transactions) {
		err = errorf("the body is not that of part 1")
	}
	return out, v.log.parsed(s.Position, err)
}

// Schema opens the body of a schema note.
func (v *View) Schema(ctx context.Context, s SchemaInfo) (*Schema, error) {
	_, body, err := v.log.body(ctx, s.Position, KindNote)
	if err != nil {
		return nil, err
	}
	out := new(Schema)
	return out, v.log.parsed(s.Position, parseOne(body, out))
}

// epochBody is the body of an epoch entry.
type epochBody struct {
	Tables []TableState `cbor:"1,keyasint"`
}

// Tables opens the body of an epoch entry: every table at the epoch's Durable.
func (v *View) Tables(ctx context.Context, e EpochInfo) ([]TableState, error) {
	_, body, err := v.log.body(ctx, e.Position, KindEpoch)
	if err != nil {
		return nil, err
	}
	var out epochBody
	return out.Tables, v.log.parsed(e.Position, parseOne(body, &out))
}

// GapTables compares the two schemas of a gap: one Incomplete for each table whose
// fingerprint differs or that only one of them has.
func (v *View) GapTables(ctx context.Context, g SchemaGap) ([]Incomplete, error) {
	before, err := v.Schema(ctx, g.Before)
	if err != nil {
		return nil, err
	}
	after, err := v.Schema(ctx, g.After)
	if err != nil {
		return nil, err
	}
	old := make(map[uint32]SchemaTable, len(before.Tables))
	for _, t := range before.Tables {
		old[t.OID] = t
	}
	var out []Incomplete
	differs := func(t SchemaTable) {
		out = append(out, Incomplete{
			Table: t.OID, Name: t.Schema + "." + t.Name, Reason: "the schema changed", From: g.From, Until: g.Until,
		})
	}
	for _, t := range after.Tables {
		o, ok := old[t.OID]
		delete(old, t.OID)
		if !ok || o.Fingerprint != t.Fingerprint || o.Name != t.Name || o.Schema != t.Schema {
			differs(t)
		}
	}
	for _, t := range before.Tables {
		if _, gone := old[t.OID]; gone {
			differs(t)
		}
	}
	return out, nil
}

// Line gives the text of a line, inline or from its extents.
func (v *View) Line(ctx context.Context, l record.Line) ([]byte, error) {
	if len(l.Extents) == 0 {
		return l.Text, nil
	}
	return v.Bytes(ctx, l.Extents)
}

// Bytes joins extents of bytes chunks.
func (v *View) Bytes(ctx context.Context, ext []record.Extent) ([]byte, error) {
	var out []byte
	for _, e := range ext {
		b, err := v.log.extent(ctx, chunkstore.KindBytes, e)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// extent fetches a piece of a chunk.
func (l *Log) extent(ctx context.Context, kind chunkstore.Kind, e record.Extent) ([]byte, error) {
	r := chunkstore.Ref{D: e.Chunk, Gen: e.Gen}
	b, err := l.chunk(ctx, kind, r)
	if err != nil {
		return nil, err
	}
	return slice(l.store.Name(r).Key(), b, e.Offset, e.Length)
}

// chunk fetches a chunk that an entry reaches: that it is absent is damage.
func (l *Log) chunk(ctx context.Context, kind chunkstore.Kind, r chunkstore.Ref) ([]byte, error) {
	b, err := l.store.Get(ctx, kind, r)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, damaged(l.store.Name(r).Key(), "an entry reaches this chunk and it is missing: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", l.store.Name(r).Key(), err)
	}
	return b, nil
}

func slice(key string, b []byte, off, n uint64) ([]byte, error) {
	if off > uint64(len(b)) || n > uint64(len(b))-off {
		return nil, damaged(key, "bytes %d to %d of %d", off, off+n, len(b))
	}
	return b[off : off+n : off+n], nil
}
