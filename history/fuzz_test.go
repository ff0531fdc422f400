package history

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// recorded opens testdata/pg18.tar: the repository that an agent made of a real
// database (TestRecorded in agent writes it), with the identity that opens it, which
// opens nothing else.
func recorded(t testing.TB) *bench {
	t.Helper()
	file, err := os.ReadFile("testdata/pg18.tar")
	must(t, err)
	return unpacked(t, file)
}

// unpacked is the repository of an archive, with the operator's identity beside it.
func unpacked(t testing.TB, file []byte) *bench {
	t.Helper()
	b := &bench{tb: t, mem: storetest.NewMemory(t)}
	var err error
	for r := tar.NewReader(bytes.NewReader(file)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		if h.Name == "identity" {
			b.operator, err = age.ParseX25519Identity(string(data))
			must(t, err)
			continue
		}
		must(t, b.mem.Create(t.Context(), h.Name, data))
	}
	b.repo, err = Open(t.Context(), b.mem)
	must(t, err)
	b.secrets, err = b.repo.Unlock(t.Context(), b.operator)
	must(t, err)
	ids, err := b.repo.Lineages(t.Context())
	must(t, err)
	b.id = ids[0]
	return b
}

// entries gives every entry of a bench.
func (b *bench) entries() (l *Log, list []*entry) {
	l = b.operatorLog()
	for _, key := range b.mem.Keys() {
		if _, at, ok := parseEntryKey(key); ok {
			e, err := l.get(b.tb.Context(), at)
			must(b.tb, err)
			list = append(list, e)
		}
	}
	return l, list
}

// seeds gives all entries of the recorded log.
func seeds(f *testing.F) (l *Log, list []*entry) { return recorded(f).entries() }

// What an agent stored is whole, of every kind, and opens.
func TestRecordedRepository(t *testing.T) { opens(t, recorded(t)) }

// format1 is the hash of a file that is never written again.
const format1 = "54c7f9b537a44b2bc89dfd90a3a23877ed0aae2bf8ec5f2449362a63b39b0277"

// TestFormat1IsReadForEver: a repository that version 1 wrote is whole and opens.
func TestFormat1IsReadForEver(t *testing.T) {
	file, err := os.ReadFile("testdata/format1.tar")
	must(t, err)
	if h := fmt.Sprintf("%x", sha256.Sum256(file)); h != format1 {
		t.Fatalf("testdata/format1.tar is another file (%s): it must never change", h)
	}
	opens(t, unpacked(t, file))
}

// TestOtherFormatsAreRefused by their number, the one before the first among them.
func TestOtherFormatsAreRefused(t *testing.T) {
	for _, format := range []byte{'0', '2'} {
		b := recorded(t)
		config := bytes.Replace(b.mem.Object("lifeboat.json"), []byte(`"format": 1`), []byte(`"format": `+string(format)), 1)
		b.mem.Replace("lifeboat.json", config)
		if _, err := Open(t.Context(), b.mem); !errors.Is(err, record.ErrVersion) {
			t.Errorf("format %c: %v", format, err)
		}
		b = recorded(t)
		_, list := b.entries()
		for _, e := range list {
			raw := bytes.Clone(e.raw)
			raw[8] = format - '0'
			if _, err := parseHeader(raw); !errors.Is(err, record.ErrVersion) {
				t.Errorf("an entry of format %c: %v", format, err)
			}
		}
	}
}

func opens(t *testing.T, b *bench) {
	t.Helper()
	r, err := Verify(t.Context(), b.repo, b.secrets, VerifyOptions{Operators: []age.Identity{b.operator}})
	must(t, err)
	if len(r.Damage) > 0 || len(r.Strange) > 0 {
		t.Errorf("damaged %v, strange %v", r.Damage, r.Strange)
	}
	_, list := b.entries()
	kinds := map[Kind]int{}
	for _, e := range list {
		kinds[e.kind]++
	}
	for _, k := range []Kind{KindEpoch, KindEnd, KindSegment, KindBase, KindHistory, KindCheckpoint, KindNote} {
		if kinds[k] == 0 {
			t.Errorf("no entry of kind %v: %v", k, kinds)
		}
	}
	v, err := b.operatorLog().Load(t.Context())
	must(t, err)
	rows, err := readRows(t.Context(), v, 0, everything, nil)
	must(t, err)
	if len(rows) < 10 {
		t.Errorf("%d records only", len(rows))
	}
}

func FuzzEntryHeader(f *testing.F) {
	_, list := seeds(f)
	for _, e := range list {
		f.Add(e.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err == nil && !bytes.Equal(h.append(nil), b[:headerSize]) {
			t.Error("the header does not come back")
		}
	})
}

func FuzzSummary(f *testing.F) {
	_, list := seeds(f)
	for _, e := range list {
		b, err := record.Marshal(&e.sum)
		must(f, err)
		f.Add(byte(e.kind), b)
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		s, err := parseSummary(Kind(kind), b)
		if err != nil {
			return
		}
		again, err := record.Marshal(&s)
		if err != nil || !bytes.Equal(again, b) {
			t.Error("part 1 does not come back")
		}
		st := State{Epochs: []EpochInfo{{}}}
		_ = st.fold(&entry{header: header{kind: Kind(kind), at: Position{Epoch: 1, Seq: 1}}, sum: s})
	})
}

// fuzzBody seeds with every body of one kind and parses.
func fuzzBody(f *testing.F, kind Kind) {
	l, list := seeds(f)
	var like *entry
	for _, e := range list {
		if e.kind != kind || e.bodyParser() == nil {
			continue
		}
		k, err := l.epochKey(f.Context(), nil, e.keyEpoch())
		must(f, err)
		b, err := e.openBody(k)
		must(f, err)
		frames, err := splitParts(b)
		must(f, err)
		like = e
		f.Add(b, frames[0])
	}
	f.Fuzz(func(_ *testing.T, body, plain []byte) {
		_, _ = like.bodyParser()(like, body)
		_, _ = like.bodyParser()(like, appendPart(nil, plain, 0))
	})
}

func FuzzEpochBody(f *testing.F)   { fuzzBody(f, KindEpoch) }
func FuzzSegmentBody(f *testing.F) { fuzzBody(f, KindSegment) }
func FuzzBaseBody(f *testing.F)    { fuzzBody(f, KindBase) }
func FuzzSchemaBody(f *testing.F)  { fuzzBody(f, KindNote) }
func FuzzHistoryBody(f *testing.F) { fuzzBody(f, KindHistory) }

func FuzzSecrets(f *testing.F) {
	b := recorded(f)
	for _, s := range []*Secrets{b.secrets, b.secrets.Agent()} {
		data, err := s.Marshal()
		must(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSecrets(data)
		if err != nil {
			return
		}
		if again, err := s.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Error("the bundle does not come back")
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(recorded(f).mem.Object(configKey))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		if again, err := c.marshal(); err != nil || !bytes.Equal(again, data) {
			t.Error("the configuration does not come back")
		}
	})
}

func FuzzEntryKey(f *testing.F) {
	f.Add("log/" + newBench(f).id.String() + "/0000000001/0000000002")
	f.Fuzz(func(t *testing.T, key string) {
		if id, at, ok := parseEntryKey(key); ok && id.key(at) != key {
			t.Error("the key does not come back")
		}
	})
}
