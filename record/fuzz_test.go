package record_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// recorded gives the segments of testdata/pg18.segments: what an agent made of a real
// stream, each after its length (TestRecorded in agent writes them).
func recorded(t testing.TB) [][]byte {
	t.Helper()
	b, err := os.ReadFile("testdata/pg18.segments")
	if err != nil {
		t.Fatal(err)
	}
	return split(b)
}

func split(b []byte) (out [][]byte) {
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		out, b = append(out, b[4:4+n]), b[4+n:]
	}
	return out
}

// What an agent stored is read as what it is.
func TestRecordedSegments(t *testing.T) { same(t, recorded(t)) }

// format1 is the hash of a file that is never written again.
const format1 = "94959ef9f38a056ddd4433c391ebdb5f32ee66e1414f1610e805244db199ce3c"

// TestR6_GoldenSegmentsDecode: what version 1 wrote is read to values that are written
// as the same bytes.
func TestR6_GoldenSegmentsDecode(t *testing.T) {
	b, err := os.ReadFile("testdata/format1.segments")
	if err != nil {
		t.Fatal(err)
	}
	if h := fmt.Sprintf("%x", sha256.Sum256(b)); h != format1 {
		t.Fatalf("testdata/format1.segments is another file (%s): it must never change", h)
	}
	same(t, split(b))
}

func same(t *testing.T, list [][]byte) {
	t.Helper()
	records := 0
	for _, b := range list {
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
