package agent

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"flag"
	"os"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

var update = flag.Bool("update", false, "write the testdata of history and record anew")

// TestRecorded makes what the fuzz targets of history and record begin from: the
// repository of a real database, with every kind of entry that an agent writes, and
// its segments. With -update it stores them.
func TestRecorded(t *testing.T) {
	b := newBench(
		t, testpg.Shared(t, 18), nil,
		"CREATE TABLE keyed (id int PRIMARY KEY, v text, d timestamptz DEFAULT now())", "CREATE TABLE bag (a int, b text[])", "CREATE TABLE none ()",
		"CREATE SEQUENCE numbers", "INSERT INTO keyed SELECT i, 'v' || i FROM generate_series(1, 20) i",
	)
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(
		t, "UPDATE keyed SET v = E'tab\t, line\n, \\\\, \u00fc' WHERE id < 4", "UPDATE keyed SET id = 100 WHERE id = 5", "DELETE FROM keyed WHERE id = 6",
		"INSERT INTO bag VALUES (NULL, NULL), (1, '{a,NULL,\"\"}'), (1, '{a,NULL,\"\"}')", "INSERT INTO none DEFAULT VALUES", "SELECT nextval('numbers')",
		"INSERT INTO keyed SELECT 1000, string_agg(md5(i::text), '') FROM generate_series(1, 100) i", "UPDATE keyed SET d = NULL WHERE id = 1000",
	)
	b.mark("before")
	segments := b.segments()
	stop()
	b.o.Tuning.MergeEvery = time.Second
	stop = b.run()
	b.db.Exec(t, "TRUNCATE bag", "CREATE TABLE late (x numeric PRIMARY KEY)", "INSERT INTO late VALUES (1.50), ('NaN')")
	testpg.WaitFor(t, 2*time.Minute, "a merged epoch", func() bool { return len(b.view().Histories) > 0 })
	stop()
	b.o.Tuning.MergeEvery = time.Hour
	stop = b.run()
	b.db.Exec(t, "INSERT INTO keyed VALUES (2000, 'after')")
	b.mark("after")
	stop()

	if v := b.view(); len(segments) == 0 || len(v.Segments) == 0 || len(v.Histories) == 0 || len(v.Bases) < 3 || len(v.Schemas) == 0 {
		t.Fatalf("%d segments, %d histories, %d bases, %d schemas", len(v.Segments), len(v.Histories), len(v.Bases), len(v.Schemas))
	}
	if !*update {
		return
	}
	for name, data := range map[string][]byte{"../history/testdata/pg18.tar": b.tar(), "../record/testdata/pg18.segments": segments} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// segments gives the segments that are not merged, each after its length.
func (b *bench) segments() (out []byte) {
	b.t.Helper()
	v := b.view()
	for _, info := range v.Segments {
		s, err := v.Segment(b.t.Context(), info)
		if err != nil {
			b.t.Fatal(err)
		}
		data, err := record.Marshal(s)
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(data))), data...)
	}
	return out
}

// tar gives the repository's objects, and the operator's identity as "identity".
func (b *bench) tar() []byte {
	b.t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			b.t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.t.Fatal(err)
		}
	}
	add("identity", []byte(b.identity.String()))
	if err := b.backend.List(b.t.Context(), "", func(i chunkstore.Info) error {
		data, err := b.backend.Get(b.t.Context(), i.Key)
		if err == nil {
			add(i.Key, data)
		}
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	if r, err := history.Verify(b.t.Context(), b.repo, b.operator, history.VerifyOptions{}); err != nil || len(r.Damage) > 0 {
		b.t.Fatalf("verify: %v %v", r.Damage, err)
	}
	if err := w.Close(); err != nil {
		b.t.Fatal(err)
	}
	return out.Bytes()
}
