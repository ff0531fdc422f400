package record_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// recorded gives the segments of testdata/pg18.segments: what an agent made of a real
// stream, each after its length (TestRecorded in agent writes them).
func recorded(t testing.TB) (out [][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/pg18.segments")
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		out, b = append(out, b[4:4+n]), b[4+n:]
	}
	return out
}

// What an agent stored is read as what it is.
func TestRecordedSegments(t *testing.T) {
	records := 0
	for _, b := range recorded(t) {
		var s record.Segment
		if err := record.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		if back, err := record.Marshal(&s); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x is read as %x: %v", b, back, err)
		}
		for _, p := range s.Parts {
			if back, err := again(p.Inline, len(s.Relations)); err != nil || !bytes.Equal(back, p.Inline) {
				t.Fatalf("%x is read as %x: %v", p.Inline, back, err)
			}
			records += int(p.Records)
		}
	}
	if records < 10 {
		t.Errorf("%d records only", records)
	}
}

func FuzzDecoder(f *testing.F) {
	for _, b := range recorded(f) {
		var s record.Segment
		if err := record.Unmarshal(b, &s); err != nil {
			f.Fatal(err)
		}
		for _, p := range s.Parts {
			f.Add(p.Inline)
		}
	}
	f.Add(segment().Parts[0].Inline)
	r := record.Record{Op: record.Update, Old: record.Line{Extents: make([]record.Extent, 2)}, New: record.Line{Text: []byte(`1	\N	\U`)}}
	f.Add(record.AppendRecord(record.AppendTransaction(nil, 1<<33), &r))
	r = record.Record{Op: record.Truncate, Flags: record.TruncateCascade | record.TruncateRestart, Relation: 1}
	f.Add(record.AppendRecord(record.AppendTransaction(nil, 300), &r))
	f.Fuzz(func(t *testing.T, b []byte) {
		back, err := again(b, 2)
		if err == nil && !bytes.Equal(back, b) {
			t.Errorf("%x is read as %x", b, back)
		}
		if err != nil && !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%v is not ErrCorrupt", err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	for _, b := range recorded(f) {
		f.Add(b)
	}
	s := segment()
	for range 2 {
		b, err := record.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		s.Parts = append(s.Parts, record.Part{Chunk: &record.Extent{Length: 9}, Records: 4, Secret: true})
		s.Sequences = []record.Sequence{{OID: 1, Schema: "s", Name: "q", Last: -3, Called: true, At: 5}}
		s.Changes = []record.Change{{Digest: record.Digest{Hi: 1, Lo: 2, Count: -1}, Reset: true}}
		s.Transactions[0].Records += 4
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s record.Segment
		if err := record.Unmarshal(b, &s); err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("%v is not ErrCorrupt", err)
			}
			return
		}
		if back, err := record.Marshal(&s); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%x is read as %x: %v", b, back, err)
		}
		if err := s.Validate(); err != nil && !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%v is not ErrCorrupt", err)
		}
	})
}

// FuzzParse: what is read is what would be written.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"0/16B3748", "FFFFFFFF/FFFFFFFF", "0123456789abcdef-5", "0123456789abcdef", "10:20:11,12", "1:1:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if l, err := record.ParseLSN(s); err == nil {
			if again, err := record.ParseLSN(l.String()); err != nil || again != l || len(s) > 17 || strings.ContainsAny(s, "+-_ ") {
				t.Errorf("LSN %q is %s", s, l)
			}
		}
		if x, err := record.ParseSource(s); err == nil && x.String() != s {
			t.Errorf("source %q is %s", s, x)
		}
		if x, err := record.ParseLineage(s); err == nil && x.String() != s {
			t.Errorf("lineage %q is %s", s, x)
		}
		if x, err := record.ParseSnapshot(s); err == nil && x.String() != s {
			t.Errorf("snapshot %q is %s", s, x)
		}
	})
}
