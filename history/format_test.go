package history

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

var updateFormat = flag.Bool("update-format", false, "write the example of docs/format.md anew")

const formatDoc = "../docs/format.md"

// The example's keys are one byte 32 times each, as docs/format.md says.
func exampleKey(b byte) (k chunkstore.Secret) {
	for i := range k {
		k[i] = b
	}
	return k
}

// exampleLineage and examplePlace are where the example's entry lies.
func exampleLineage() LineageID {
	return LineageID{record.Source{SystemID: 0x6a1e, Database: 16384}, record.Lineage{1, 2, 3, 4, 5, 6, 7, 8}}
}

var examplePlace = Position{Epoch: 2, Seq: 5}

const exampleRows = "1\tone\n2\t\\N\n"

// exampleSegment is one transaction: row 2 gets a name, row 3 appears.
func exampleSegment() (*record.Segment, *Summary) {
	run := record.AppendTransaction(nil, 0)
	run = record.AppendRecord(run, &record.Record{Op: record.Update, Old: record.Line{Text: []byte(`2	\N`)}, New: record.Line{Text: []byte("2\ttwo")}})
	run = record.AppendRecord(run, &record.Record{Ordinal: 1, Op: record.Insert, New: record.Line{Text: []byte("3\t")}})
	s := &record.Segment{
		Start: 0x1000, End: 0x1200,
		Relations: []record.Relation{{
			OID: 16390, Schema: "public", Name: "t", Key: []uint16{0}, Identity: record.Full,
			Columns: []record.Column{{Name: "id", Type: "integer", TypeOID: 23, TypeMod: -1}, {Name: "name", Type: "text", TypeOID: 25, TypeMod: -1}},
		}},
		Transactions: []record.Transaction{{XID: 742, Commit: 0x11C0, End: 0x1200, Time: 844_000_000_000_000, Records: 2}},
		Parts:        []record.Part{{Inline: run, Records: 2}},
	}
	t := s.Transactions[0].Time
	return s, &Summary{Segment: &segmentSummary{Start: s.Start, End: s.End, First: t, Last: t, Transactions: 1, Records: 2, SchemaCertain: s.End}}
}

// exampleRowsOf prints bytes as lines of the document: offset, hex, and what the first says.
func exampleRowsOf(at int, what string, b []byte) (out string) {
	for ; len(b) > 0; what = "" {
		n := min(len(b), 32)
		out += strings.TrimRight(fmt.Sprintf("%-4d %-64x %s", at, b[:n], what), " ") + "\n"
		at, b = at+n, b[n:]
	}
	return out
}

// exampleChunk draws the fields of §5, exampleEntry those of §6.1.
func exampleChunk(b []byte) string {
	n := len(b) - 32
	return exampleRowsOf(0, "LIFECHNK", b[:8]) + exampleRowsOf(8, "format version 1", b[8:9]) + exampleRowsOf(9, "kind r", b[9:10]) +
		exampleRowsOf(10, "nonce", b[10:22]) + exampleRowsOf(22, "the frame, sealed", b[22:n-16]) + exampleRowsOf(n-16, "GCM tag", b[n-16:n]) + exampleRowsOf(n, "trailer", b[n:])
}

func exampleEntry(e *entry) string {
	b, at := e.raw, 0
	field := func(n int, what string) string {
		at += n
		return exampleRowsOf(at-n, what, b[at-n:at])
	}
	return field(8, "LIFEBLOG") + field(1, "format version 1") + field(1, "kind s") + field(8, "system identifier") + field(4, "OID of the database") +
		field(8, "lineage") + field(8, "epoch 2") + field(8, "seq 5") + field(32, "salt") + field(32, "SHA-256 of the entry before (here 32 times aa)") +
		field(4, "n1") + field(4, "n2") + field(int(e.part1), "part 1, sealed, with its tag") + field(int(e.part2), "part 2, sealed, with its tag") + field(32, "trailer")
}

var exampleBlock = regexp.MustCompile("(?s)```example ([a-z0-9 ]+)\n(.*?)```")

// exampleBytes gives the bytes of a block, whose lines must follow one another.
func exampleBytes(t *testing.T, doc, name string) (out []byte) {
	t.Helper()
	for _, m := range exampleBlock.FindAllStringSubmatch(doc, -1) {
		if m[1] != name {
			continue
		}
		for line := range strings.Lines(m[2]) {
			f := strings.Fields(line)
			if len(f) < 2 {
				t.Fatalf("example %s: line %q", name, line)
			}
			at, err := strconv.Atoi(f[0])
			if err != nil || at != len(out) {
				t.Fatalf("example %s: line %q lies at %d", name, line, len(out))
			}
			b, err := hex.DecodeString(f[1])
			if err != nil {
				t.Fatalf("example %s: %v", name, err)
			}
			out = append(out, b...)
		}
		return out
	}
	t.Fatalf("%s has no example %q", formatDoc, name)
	return nil
}

// TestFormatExample reads the worked example of docs/format.md and holds every byte
// that is not random or zstd's to what it is said to mean.
func TestFormatExample(t *testing.T) {
	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	keys := chunkstore.Keys{Name: exampleKey(1), Chunk: exampleKey(2), Seal: exampleKey(3), Cut: exampleKey(4)}
	backend := storetest.NewMemory(t)
	put, err := chunkstore.New(backend, keys).Put(t.Context(), chunkstore.KindRows, []byte(exampleRows), chunkstore.Stored)
	if err != nil {
		t.Fatal(err)
	}
	object, err := backend.Get(t.Context(), put.Name.Key())
	if err != nil {
		t.Fatal(err)
	}
	sealer := newSealer(keys.Seal)
	segment, sum := exampleSegment()
	if *updateFormat {
		writeExample(t, string(doc), sealer, segment, sum, object, put)
		return
	}
	if got := exampleBytes(t, string(doc), "chunk"); !bytes.Equal(got, object) {
		t.Errorf("the chunk is %x", object)
	}
	if got := exampleBytes(t, string(doc), "d"); !bytes.Equal(got, put.Ref.D[:]) {
		t.Errorf("d is %x", put.Ref.D)
	}
	if got := exampleBytes(t, string(doc), "name"); !bytes.Equal(got, put.Name[:]) {
		t.Errorf("the name is %s", put.Name)
	}
	e, err := sealer.open(exampleLineage(), examplePlace, exampleBytes(t, string(doc), "entry"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := e.openBody(exampleKey(9))
	if err != nil {
		t.Fatal(err)
	}
	read, err := parseSegment(body)
	if err != nil {
		t.Fatal(err)
	}
	holdCBOR(t, string(doc), "part 1", e.sum, sum)
	holdCBOR(t, string(doc), "part 2", read, segment)
	if shown := exampleEntry(e); !strings.Contains(string(doc), shown) {
		t.Errorf("the entry's fields are:\n%s", shown)
	}
}

// holdCBOR holds a block, and what the sealed bytes say, to what is meant.
func holdCBOR(t *testing.T, doc, name string, got, want any) {
	t.Helper()
	meant, err := record.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	read, err := record.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if b := exampleBytes(t, doc, name); !bytes.Equal(b, meant) || !bytes.Equal(read, meant) {
		t.Errorf("%s is %x, read %x", name, meant, read)
	}
}

// writeExample puts the example's bytes into the document, under a new salt.
func writeExample(t *testing.T, doc string, s sealer, segment *record.Segment, sum *Summary, object []byte, put chunkstore.Put) {
	body, err := segmentBody(segment)
	if err != nil {
		t.Fatal(err)
	}
	h := header{kind: KindSegment, id: exampleLineage(), at: examplePlace}
	copy(h.prev[:], bytes.Repeat([]byte{0xaa}, 32))
	e, err := s.build(h, sum, body, exampleKey(9))
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := record.Marshal(sum)
	two, err2 := record.Marshal(segment)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	blocks := map[string]string{
		"chunk": exampleChunk(object), "d": exampleRowsOf(0, "", put.Ref.D[:]), "name": exampleRowsOf(0, "", put.Name[:]),
		"entry": exampleEntry(e), "part 1": exampleRowsOf(0, "", one), "part 2": exampleRowsOf(0, "", two),
	}
	doc = exampleBlock.ReplaceAllStringFunc(doc, func(b string) string {
		name := exampleBlock.FindStringSubmatch(b)[1]
		return "```example " + name + "\n" + blocks[name] + "```"
	})
	if err := os.WriteFile(formatDoc, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
}
