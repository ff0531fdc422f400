package history

import (
	"bytes"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// seeds gives all entries of a small log.
func seeds(f *testing.F) (l *Log, list []*entry) {
	w := newWritten(f)
	l = w.operatorLog()
	for _, key := range w.mem.Keys() {
		if _, at, ok := parseEntryKey(key); ok {
			e, err := l.get(f.Context(), at)
			must(f, err)
			list = append(list, e)
		}
	}
	return l, list
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
	b := newBench(f)
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
	f.Add(newBench(f).mem.Object(configKey))
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
