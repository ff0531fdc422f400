package agent

import (
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// chunks lists the objects that are chunks.
func chunks(m *storetest.Memory) (out []string) {
	for _, k := range m.Keys() {
		if strings.HasPrefix(k, "chunk/") {
			out = append(out, k)
		}
	}
	return out
}

// condemn says in the log that these chunks are condemned.
func (b *bench) condemn(gen byte, keys []string) {
	b.t.Helper()
	n := history.Note{Kind: history.NoteCondemn, Gen: chunkstore.Gen{gen}}
	for _, k := range keys {
		p, err := hex.DecodeString(k[strings.LastIndexByte(k, '/')+1:][:16])
		if err != nil {
			b.t.Fatal(err)
		}
		n.Prefixes = append(n.Prefixes, [8]byte(p))
	}
	log, err := OpenLog(b.t.Context(), b.repo, b.operator, b.o.State)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := log.AppendNote(b.t.Context(), n); err != nil {
		b.t.Fatal(err)
	}
}

// TestCondemned: chunks are condemned while the batch that points to them waits, and
// while a copy that has put them runs. The batch is stored under other names without
// a new session, the copy begins again, and when the prune deletes what it condemned
// everything can be restored.
func TestCondemned(t *testing.T) {
	var m *storetest.Memory
	b := newBench(
		t, testpg.Shared(t, 18), func(chunkstore.Backend) chunkstore.Backend {
			m = storetest.NewMemory(t)
			return m
		},
		"CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE late (id int PRIMARY KEY, v text)",
		"INSERT INTO late SELECT i, md5(i::text) FROM generate_series(1, 60000) i",
	)
	rpo := b.o.Tuning.RPO
	b.o.Tuning.RPO = time.Hour // nothing is flushed before the end
	received := make(chan struct{})
	b.o.plant.row = func(_ string, _ record.Op, line []byte) int {
		if strings.HasPrefix(string(line), "20000\t") {
			close(received)
		}
		return 1
	}
	first, atLine, goOn := new(sync.Once), make(chan struct{}), make(chan struct{})
	b.o.plant.line = func(table string, line []byte) {
		if table == "public.late" && strings.HasPrefix(string(line), "55000\t") {
			first.Do(func() {
				close(atLine)
				<-goOn
			})
		}
	}
	b.attach()
	sessions := 0
	b.o.Ready = func() { sessions++ }
	stop := b.run()
	<-atLine
	// Rows can only be those of this copy; a schema may be in the log already, and a
	// prune condemns nothing that an entry reaches. Byte 9 is the kind (docs/format.md).
	gone := slices.DeleteFunc(chunks(m), func(k string) bool { return m.Object(k)[9] != byte(chunkstore.KindRows) })
	if len(gone) == 0 {
		t.Fatal("the copy has put no chunk yet")
	}
	b.condemn(1, gone)
	close(goOn)
	b.waitReady()
	before := chunks(m)
	// A large transaction with a long line, then a small one with a long line: both wait
	// in one batch.
	b.db.Exec(
		t, "INSERT INTO a SELECT 1, string_agg(md5(i::text), '') FROM generate_series(70000, 140000) i; INSERT INTO a SELECT i, repeat(md5(i::text), 10) FROM generate_series(2, 9000) i",
		"INSERT INTO a SELECT 10000, string_agg(md5(i::text), '') FROM generate_series(1, 70000) i", "INSERT INTO a VALUES (20000, 'the last')",
	)
	<-received
	pending := slices.DeleteFunc(chunks(m), func(k string) bool { return slices.Contains(before, k) })
	b.condemn(2, pending)
	stop()
	if sessions != 1 {
		t.Errorf("%d sessions, want 1: a condemnation is no reason to begin again", sessions)
	}
	for _, k := range append(gone, pending...) { // what a prune does after its grace
		if err := m.Remove(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	r, err := history.Verify(t.Context(), b.repo, b.operator, history.VerifyOptions{})
	if err != nil || len(r.Damage) > 0 {
		t.Fatalf("verify: %v %v", r.Damage, err)
	}
	b.db.Exec(t, "DELETE FROM a WHERE id = 20000") // it may have come too late for the drain
	twin := b.twin()
	b.o.Tuning.RPO, b.o.plant = rpo, plant{}
	stop = b.run()
	b.mark("end")
	stop()
	db, err := b.restoreAt("mark:end", restore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !testpg.CompareTables(t, twin.DSN, db.DSN, nil) {
		t.Error("the restore differs")
	}
}
