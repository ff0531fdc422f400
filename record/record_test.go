package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// drawLine draws an image of a row: text, sometimes extents.
func drawLine(t *rapid.T, name string) record.Line {
	if rapid.IntRange(0, 9).Draw(t, name+" long") > 0 {
		return record.Line{Text: append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, name)...)}
	}
	var l record.Line
	for range rapid.IntRange(1, 4).Draw(t, name+" extents") {
		e := record.Extent{Offset: rapid.Uint64().Draw(t, "offset"), Length: rapid.Uint64().Draw(t, "length")}
		copy(e.Chunk[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "chunk"))
		copy(e.Gen[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "gen"))
		l.Extents = append(l.Extents, e)
	}
	return l
}

func drawRecord(t *rapid.T, ordinal uint64, relations uint32) record.Record {
	r := record.Record{Ordinal: ordinal, Relation: rapid.Uint32Range(0, relations-1).Draw(t, "relation")}
	r.Op = rapid.SampledFrom([]record.Op{record.Insert, record.Update, record.Delete, record.Truncate}).Draw(t, "op")
	switch r.Op {
	case record.Insert:
		r.New = drawLine(t, "new")
	case record.Update:
		r.New = drawLine(t, "new")
		if rapid.Bool().Draw(t, "has old") {
			r.Old = drawLine(t, "old")
		}
	case record.Delete:
		r.Old = drawLine(t, "old")
	case record.Truncate:
		r.Flags = rapid.Uint64Range(0, 3).Draw(t, "flags")
	}
	return r
}

// drawSegment draws a segment that obeys the law, all inline.
func drawSegment(t *rapid.T) *record.Segment {
	s := &record.Segment{Start: record.LSN(rapid.Uint32().Draw(t, "start"))}
	relations := rapid.Uint32Range(1, 3).Draw(t, "relations")
	for i := range relations {
		s.Relations = append(s.Relations, record.Relation{
			OID: 16384 + i, Schema: "public", Name: rapid.StringN(1, 20, 63).Draw(t, "name"), Identity: record.Full,
			Columns: []record.Column{{Name: "id", Type: "integer", TypeOID: 23, TypeMod: -1}}, Key: []uint16{0},
		})
	}
	s.End = s.Start
	var p record.Part
	for i := range rapid.IntRange(0, 4).Draw(t, "transactions") {
		n := rapid.Uint64Range(0, 4).Draw(t, "records")
		end := s.End + record.LSN(rapid.Uint32Range(2, 1000).Draw(t, "length"))
		s.Transactions = append(s.Transactions, record.Transaction{XID: record.XID(i), Commit: end - 1, End: end, Records: n})
		s.End = end
		if n > 0 {
			p.Inline = record.AppendTransaction(p.Inline, uint64(i))
		}
		for o := range n {
			r := drawRecord(t, o, relations)
			p.Inline = record.AppendRecord(p.Inline, &r)
			p.Records++
		}
	}
	if p.Records > 0 {
		s.Parts = []record.Part{p}
	}
	return s
}

// again writes what a decoder reads.
func again(b []byte, relations int) ([]byte, error) {
	d := record.NewDecoder(b, relations)
	var out []byte
	last, first := uint64(0), true
	for {
		tx, r, err := d.Next()
		if err != nil || r == nil {
			return out, err
		}
		if first || tx != last {
			out = record.AppendTransaction(out, tx)
			last, first = tx, false
		}
		out = record.AppendRecord(out, r)
	}
}

func TestR1_MarshalOfUnmarshalIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSegment(t)
		b, err := record.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got record.Segment
		if err := record.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if err := got.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, p := range got.Parts {
			back, err := again(p.Inline, len(got.Relations))
			if err != nil || !bytes.Equal(back, p.Inline) {
				t.Fatalf("records come back as %x: %v", back, err)
			}
			// Any byte changed is an error or another value, never the same value.
			i := rapid.IntRange(0, len(p.Inline)-1).Draw(t, "at")
			flipped := bytes.Clone(p.Inline)
			flipped[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if back, err := again(flipped, len(got.Relations)); err == nil && !bytes.Equal(back, flipped) {
				t.Fatalf("%x is read as %x", flipped, back)
			} else if err != nil && !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("%v is not ErrCorrupt", err)
			}
		}
	})
}

// What CBOR can say in two ways, or says of more than is there, is refused.
func TestR1_OtherFormsAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"a record before a transaction": {0x85, 0, 0, 0x61, 'i', 0xf6, 0x40},
		"a long form":                   {0x18, 1, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40},
		"an indefinite length":          {0, 0x9f, 0, 0, 0x61, 'i', 0xf6, 0x40, 0xff},
		"a mark twice":                  {0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40, 0, 0x85, 1, 0, 0x61, 'i', 0xf6, 0x40},
		"a mark back":                   {1, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40, 0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40},
		"a mark alone":                  {0},
		"two marks":                     {0, 1, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40},
		"an unknown operation":          {0, 0x85, 0, 0, 0x61, 'x', 0xf6, 0x40},
		"an insert without a line":      {0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0xf6},
		"an insert with an old line":    {0, 0x85, 0, 0, 0x61, 'i', 0x40, 0x40},
		"a delete with a new line":      {0, 0x85, 0, 0, 0x61, 'd', 0x40, 0x40},
		"a truncate with a line":        {0, 0x85, 0, 0, 0x61, 't', 0, 0x40},
		"an unknown relation":           {0, 0x85, 0, 1, 0x61, 'i', 0xf6, 0x40},
		"no extents":                    {0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x80},
		"a billion extents":             {0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x9a, 0x40, 0, 0, 0},
		"a line longer than the part":   {0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		if _, err := again(b, 1); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ok := []byte{0, 0x85, 0, 0, 0x61, 'i', 0xf6, 0x40}
	if _, err := again(ok, 1); err != nil {
		t.Errorf("the form of all these: %v", err)
	}
	for name, b := range map[string][]byte{
		"an unknown key":      {0xa3, 1, 0, 2, 0, 0x18, 99, 0},
		"a key twice":         {0xa3, 1, 0, 1, 0, 2, 0},
		"keys out of order":   {0xa2, 2, 0, 1, 0},
		"a long number":       {0xa2, 1, 0x18, 0, 2, 0},
		"an empty list":       {0xa3, 1, 0, 2, 0, 3, 0x80},
		"a tag":               {0xc1, 0xa2, 1, 0, 2, 0},
		"bytes after the end": {0xa2, 1, 0, 2, 0, 0},
		"a list of billions":  {0xa3, 1, 0, 2, 0, 4, 0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		var s record.Segment
		if err := record.Unmarshal(b, &s); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reader that meets a later version must not be told that its data is damaged.
func TestR2_AnotherVersionIsNotDamage(t *testing.T) {
	err := fmt.Errorf("open entry: %w", record.ErrVersion)
	if errors.Is(err, record.ErrCorrupt) || errors.Is(record.ErrCorrupt, record.ErrVersion) {
		t.Error("the two cannot be told apart")
	}
}

func insert(ordinal uint64, relation uint32, line string) *record.Record {
	return &record.Record{Ordinal: ordinal, Relation: relation, Op: record.Insert, New: record.Line{Text: []byte(line)}}
}

// segment gives (100, 300] with two transactions of two records and one.
func segment() *record.Segment {
	b := record.AppendTransaction(nil, 0)
	b = record.AppendRecord(b, insert(0, 0, "a"))
	b = record.AppendRecord(b, insert(1, 1, "b"))
	b = record.AppendTransaction(b, 1)
	b = record.AppendRecord(b, insert(0, 0, "c"))
	return &record.Segment{
		Start: 100, End: 300,
		Relations:    []record.Relation{{OID: 1, Name: "x", Columns: []record.Column{{Name: "c"}}}, {OID: 2, Name: "y", Columns: []record.Column{{Name: "c"}}}},
		Transactions: []record.Transaction{{XID: 7, Commit: 190, End: 200, Records: 2}, {XID: 6, Commit: 290, End: 300, Records: 1}},
		Parts:        []record.Part{{Inline: b, Records: 3}},
	}
}

func TestR3_WholeTransactionsInCommitOrder(t *testing.T) {
	if err := segment().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*record.Segment){
		"the end before the start":      func(s *record.Segment) { s.Start = 400 },
		"a transaction at the start":    func(s *record.Segment) { s.Start = 200 },
		"one past the end":              func(s *record.Segment) { s.End = 299 },
		"two that end at one place":     func(s *record.Segment) { s.Transactions[1].End = 200 },
		"another order":                 func(s *record.Segment) { s.Transactions[0].End = 300; s.Transactions[1].End = 200 },
		"a commit after its end":        func(s *record.Segment) { s.Transactions[0].Commit = 200 },
		"a record less than named":      func(s *record.Segment) { s.Transactions[0].Records = 3 },
		"a record more than named":      func(s *record.Segment) { s.Transactions[0].Records = 1 },
		"a record of the other one":     func(s *record.Segment) { s.Transactions[0].Records, s.Transactions[1].Records = 1, 2 },
		"a part that counts wrong":      func(s *record.Segment) { s.Parts[0].Records = 2 },
		"a part without bytes":          func(s *record.Segment) { s.Parts[0].Inline = nil },
		"a part of two places":          func(s *record.Segment) { s.Parts[0].Chunk = &record.Extent{} },
		"a transaction that is not one": func(s *record.Segment) { s.Transactions = s.Transactions[:1] },
		"a record twice": func(s *record.Segment) {
			b := record.AppendTransaction(nil, 0)
			b = record.AppendRecord(b, insert(0, 0, "a"))
			b = record.AppendRecord(b, insert(0, 0, "a"))
			b = record.AppendTransaction(b, 1)
			s.Parts[0].Inline = record.AppendRecord(b, insert(0, 0, "c"))
		},
	} {
		s := segment()
		spoil(s)
		if err := s.Validate(); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestR4_RelationsComeFirst(t *testing.T) {
	for name, spoil := range map[string]func(*record.Segment){
		"a record":               func(s *record.Segment) { s.Relations = s.Relations[:1] },
		"a change":               func(s *record.Segment) { s.Changes = []record.Change{{Relation: 2}} },
		"a key":                  func(s *record.Segment) { s.Relations[1].Key = []uint16{1} },
		"a name that is no text": func(s *record.Segment) { s.Relations[0].Columns[0].Name = "\xff" },
	} {
		s := segment()
		spoil(s)
		if err := s.Validate(); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%s of an unknown relation: %v", name, err)
		}
	}
}

func TestR5_UnchangedNullAndEmptyAreThree(t *testing.T) {
	fields := map[string][]byte{
		"null": record.AppendNull(nil), "unknown": record.AppendUnknown(nil), "empty": record.AppendValue(nil, nil),
		`the text \N`: record.AppendValue(nil, []byte(`\N`)), `the text \U`: record.AppendValue(nil, []byte(`\U`)),
	}
	seen := map[string]string{}
	for name, f := range fields {
		if other, ok := seen[string(f)]; ok {
			t.Errorf("%s and %s are both %q", name, other, f)
		}
		seen[string(f)] = name
		if record.IsNull(f) != (name == "null") || record.Unknown(f) != (name == "unknown") {
			t.Errorf("%s: null %v, unknown %v", name, record.IsNull(f), record.Unknown(f))
		}
	}
	// An empty line and no line are two things too, on both sides of the bytes.
	r := record.Record{Op: record.Update, Old: record.Line{Text: []byte{}}, New: record.Line{Text: []byte{}}}
	b := record.AppendRecord(record.AppendTransaction(nil, 0), &r)
	r.Old = record.Line{}
	c := record.AppendRecord(record.AppendTransaction(nil, 0), &r)
	for i, b := range [][]byte{b, c} {
		_, got, err := record.NewDecoder(b, 1).Next()
		if err != nil || got.Old.Absent() != (i == 1) || got.New.Absent() {
			t.Errorf("an empty line: %+v %v", got, err)
		}
	}
}
