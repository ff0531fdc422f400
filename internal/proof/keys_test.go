package proof

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// TestKeys runs an agent that never has the operator's identity: it restarts,
// merges and refreshes; and whoever then copies its whole host opens nothing that
// was merged.
func TestKeys(t *testing.T) {
	t.Parallel()
	const marker = "a secret that was deleted long ago"
	l := newLab(
		t, 18,
		"CREATE TABLE k (id int PRIMARY KEY, v text)",
		"INSERT INTO k VALUES (0, '"+marker+"')",
		"INSERT INTO k SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 200) i",
	)
	l.child.Tuning.MergeSegments = 3
	l.child.Tuning.RefreshMin = 16 << 10
	noIdentity(t, l.child.State, l.operator.Identity)
	l.attach()
	k := l.start(nil)
	l.ready()
	secret := l.mark("secret")
	l.db.Exec(t, "UPDATE k SET v = '"+marker+" too' WHERE id = 1", "DELETE FROM k WHERE id < 2")
	write := func() { l.db.Exec(t, "UPDATE k SET v = repeat(md5(random()::text), 30)") }
	copied := func() int { return len(l.view().Bases) }
	bases := copied()
	for i := range 8 {
		write()
		l.mark("round " + string(rune('a'+i)))
		if i == 3 { // restarted by a kill, without the identity
			k.Kill()
			k = l.start(nil)
		}
	}
	k.Stop(t)
	k = l.start(nil) // what grew is found at the start
	l.until(2*time.Minute, "a refresh", func(v *history.View) bool { return len(v.Bases) > bases })
	for i := range 4 { // the refresh is in an epoch that ends
		write()
		l.mark("after " + string(rune('a'+i)))
	}
	l.until(2*time.Minute, "merges", func(v *history.View) bool {
		return len(v.Histories) >= 3 && v.Histories[len(v.Histories)-1].KeyEpoch+1 == v.Head.Epoch
	})
	k.Stop(t)
	l.verify()
	noIdentity(t, l.child.State, l.operator.Identity)

	// The operator still reads the old state.
	v := l.view()
	found := false
	base, err := v.Base(t.Context(), v.Bases[0])
	if err != nil {
		t.Fatal(err)
	}
	if base.ExactFrom > secret {
		t.Errorf("the first base is exact from %s, after the mark at %s", base.ExactFrom, secret)
	}
	for _, p := range base.Pieces {
		b, err := v.Store().Get(t.Context(), chunkstore.KindRows, *p.Rows)
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Contains(b, []byte(marker))
	}
	if !found {
		t.Error("the operator does not find the old row")
	}
	steal(t, l, marker)
}

// noIdentity checks that no file below dir holds the repository's identity.
func noIdentity(t *testing.T, dir, identity string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(identity)) || bytes.Contains(b, []byte("AGE-SECRET-KEY")) {
			t.Errorf("%s holds an identity", p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// steal takes a copy of the host, state and repository, and tries to open every
// body and every chunk.
func steal(t *testing.T, l *lab, marker string) {
	t.Helper()
	dir := t.TempDir()
	for _, part := range []struct{ from, to string }{{l.child.Repo, "repo"}, {l.child.State, "state"}} {
		if err := os.CopyFS(filepath.Join(dir, part.to), os.DirFS(part.from)); err != nil {
			t.Fatal(err)
		}
	}
	disk, err := fs.Open(filepath.Join(dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	repo, err := history.Open(t.Context(), disk)
	if err != nil {
		t.Fatal(err)
	}
	s, err := agent.LoadSecrets(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := agent.OpenLog(t.Context(), repo, s, filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := log.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newest := v.Histories[len(v.Histories)-1].KeyEpoch
	closed := func(what string, epoch uint64, err error) bool {
		t.Helper()
		if epoch > newest {
			if err != nil {
				t.Errorf("the open epoch's %s: %v", what, err)
			}
			return false
		}
		if !errors.Is(err, history.ErrNoKey) {
			t.Errorf("%s of epoch %d, which is merged: %v, want ErrNoKey", what, epoch, err)
		}
		return true
	}
	tried := 0
	for _, e := range v.Epochs {
		_, err := v.Tables(t.Context(), e)
		closed("table list", e.Epoch, err)
		tried++
	}
	var open []chunkstore.Ref
	for _, b := range v.Bases {
		base, err := v.Base(t.Context(), b)
		if !closed("base", b.Epoch, err) && err == nil {
			for _, p := range base.Pieces {
				open = append(open, *p.Rows)
			}
		}
		tried++
	}
	for _, m := range v.Schemas {
		_, err := v.Schema(t.Context(), m)
		closed("schema", m.Epoch, err)
		tried++
	}
	for _, g := range v.Segments {
		_, err := v.Segment(t.Context(), g)
		closed("segment", g.Epoch, err)
		tried++
	}
	for _, h := range v.Histories {
		err := v.Records(t.Context(), h.Start, h.End, nil, func(*record.Transaction, *record.Relation, *record.Record) error { return nil })
		closed("history", h.KeyEpoch, err)
		err = v.Commits(t.Context(), h.Start, h.End, false, func(record.Transaction, []history.Touch) error { return nil })
		closed("list of commits", h.KeyEpoch, err)
		tried += 2
	}
	chunks := chunksOpened(t, v, disk, open, marker)
	t.Logf("a thief tried %d bodies of %d epochs, %d merged; %d chunks, of which the open epoch opens %d", tried, len(v.Epochs), len(v.Histories), chunks, len(open))
	if chunks == 0 || tried < 10 {
		t.Error("there is nothing to steal: the test proves nothing")
	}
}

// chunksOpened checks that what the thief holds in clear opens only chunks of the
// present: a chunk opens with its d alone, and an object does not contain it. It
// gives the number of chunks.
func chunksOpened(t *testing.T, v *history.View, b chunkstore.Backend, open []chunkstore.Ref, marker string) int {
	t.Helper()
	var names []string
	for _, r := range open {
		plain, err := v.Store().Get(t.Context(), chunkstore.KindRows, r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(plain, []byte(marker)) {
			t.Errorf("the thief reads the deleted row")
		}
		names = append(names, v.Store().Name(r).Key())
	}
	n := 0
	err := b.List(context.Background(), "", func(i chunkstore.Info) error {
		raw, err := b.Get(context.Background(), i.Key)
		if err != nil {
			return err
		}
		if bytes.Contains(raw, []byte(marker)) {
			t.Errorf("%s holds the row in clear", i.Key)
		}
		if !strings.HasPrefix(i.Key, "chunk/") || slices.Contains(names, i.Key) {
			return nil
		}
		n++
		// A name is no d: guessing with it must fail, whatever the kind.
		var d chunkstore.Ref
		name, err := chunkstore.ParseName(i.Key[strings.LastIndex(i.Key, "/")+1:])
		if err != nil {
			return err
		}
		d.D = name
		for _, kind := range []chunkstore.Kind{chunkstore.KindRows, chunkstore.KindRecords, chunkstore.KindBytes} {
			if _, err := v.Store().Get(context.Background(), kind, d); err == nil {
				t.Errorf("%s opens by its name", i.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
