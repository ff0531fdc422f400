package history

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/record"
)

// Intervals open with the first note, keep the earlier From, and close at a base's
// exact-from that lies after it.
func TestIncompletes(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	d := w.w.View().Durable
	note := func(n Note) { t.Helper(); must(t, w.w.Note(ctx, n)) }
	note(Note{Kind: NoteIncomplete, Table: 100, Name: "public.a", Reason: "rewritten", From: d})
	note(Note{Kind: NoteIncomplete, Table: 100, Name: "public.a", Reason: "again", From: d - 20})
	note(Note{Kind: NoteIncomplete, Table: 101, Name: "public.b", From: d + 500})
	note(Note{Kind: NoteIncomplete, Table: 102, Name: "public.tokens", From: d})
	w.base(t, 100) // exact from d+50
	w.base(t, 101) // before the hole: it stays open
	note(Note{Kind: NoteDropped, Table: 102, Name: "public.tokens", From: d + 7})
	want := []Incomplete{
		{100, "public.a", "rewritten", d - 20, d + 50},
		{101, "public.b", "", d + 500, 0},
		{102, "public.tokens", "", d, d + 7},
	}
	if got := w.view(t).Incompletes; !slices.Equal(got, want) {
		t.Errorf("intervals %+v\nwant %+v", got, want)
	}
	note(Note{Kind: NoteComplete, Table: 101, Until: d + 600})
	if got := w.view(t).Incompletes[1].Until; got != d+600 {
		t.Errorf("closed at %s", got)
	}
	if c := want[0]; c.Covers(d-20) || !c.Covers(d) || c.Covers(d+50) {
		t.Error("an interval is exact at From and again from Until")
	}
}

// The oldest restorable point is the last exact-from of the tables there were when
// the first copies were done; tables that come later do not move it.
func TestFirst(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	if f := w.w.View().First; f != 1050 {
		t.Fatalf("first %s", f)
	}
	w.base(t, 101)
	first := w.w.View().First
	if first != w.w.View().Durable+50 {
		t.Errorf("first %s", first)
	}
	must(t, w.w.Note(ctx, Note{Kind: NoteReady}))
	must(t, w.w.Note(ctx, Note{Kind: NotePosition, Durable: w.w.View().Durable + 500}))
	w.base(t, 102)
	w.base(t, 100)
	if v := w.view(t); v.First != first || !v.Ready {
		t.Errorf("first %s, want %s", v.First, first)
	}
}

// Before the first schema no restore knows what to make, so it counts as well; later
// ones do not move the point.
func TestFirstWaitsForTheSchema(t *testing.T) {
	ctx, b := t.Context(), newBench(t)
	w := &written{bench: b, keys: newMemKeys()}
	w.log = b.agentLog(w.keys)
	var err error
	w.w, err = w.log.Begin(ctx, nil, w.keys, Opening{Durable: 1000, Slot: "lifeboat", ServerVersion: 180006, Host: "h"})
	must(t, err)
	w.base(t, 100) // exact from 1050
	must(t, w.w.SchemaNote(ctx, &Schema{Fingerprint: [32]byte{1}, From: 1080}, nil))
	must(t, w.w.SchemaNote(ctx, &Schema{Fingerprint: [32]byte{2}, From: 1090}, nil))
	must(t, w.w.Note(ctx, Note{Kind: NoteReady}))
	must(t, w.w.SchemaNote(ctx, &Schema{Fingerprint: [32]byte{3}, From: 2000}, nil))
	if v := w.view(t); v.First != 1080 {
		t.Errorf("the oldest point is %s, want %s", v.First, record.LSN(1080))
	}
}

func TestIdentitiesKeepTheFirstOld(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	change := func(old byte, undone bool) {
		must(t, w.w.Note(ctx, Note{Kind: NoteIdentity, Identities: []IdentityChange{
			{Table: 5, Schema: "public", Name: "x", Old: old, Undone: undone},
		}}))
	}
	change('d', false)
	change('f', false) // repeated after a crash: it saw our own change
	if got := w.view(t).Identities; len(got) != 1 || got[0].Old != 'd' || got[0].Undone {
		t.Errorf("identities %+v", got)
	}
	change('d', true)
	if got := w.view(t).Identities; !got[0].Undone {
		t.Errorf("identities %+v", got)
	}
	change('n', false)
	if got := w.view(t).Identities; len(got) != 1 || got[0].Old != 'n' || got[0].Undone {
		t.Errorf("identities %+v", got)
	}
}

func TestSchemaGaps(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	tab := func(oid uint32, name string, print byte) SchemaTable {
		return SchemaTable{OID: oid, Schema: "public", Name: name, Fingerprint: [32]byte{print}}
	}
	w.schema(t, 2, tab(100, "a", 1), tab(101, "b", 1), tab(102, "c", 1))
	w.segment(t, []row{ins(100, "5\tx")}) // certain until its end
	certain := w.w.View().Durable
	must(t, w.w.Note(ctx, Note{Kind: NotePosition, Durable: certain + 30}))
	w.schema(t, 3, tab(100, "a", 9), tab(101, "b", 1), tab(103, "d", 1))
	v := w.view(t)
	gaps := v.SchemaGaps()
	g := gaps[len(gaps)-1]
	if g.From != certain || g.Until != certain+30 {
		t.Fatalf("gaps %+v", gaps)
	}
	list, err := v.GapTables(ctx, g)
	must(t, err)
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	if !slices.Equal(names, []string{"public.a", "public.d", "public.c"}) {
		t.Errorf("changed tables %v", names)
	}
	s, err := v.Schema(ctx, v.Schemas[0])
	must(t, err)
	text, err := v.Bytes(ctx, s.Plain)
	must(t, err)
	if string(text) != "CREATE TABLE b" {
		t.Errorf("schema %q", text)
	}
	after, newest, err := v.SequencesAt(ctx, 1100)
	must(t, err)
	if newest[7].Last != 3 || after[7].Last != 2 {
		t.Errorf("sequences %v %v", after, newest)
	}
}

// Operators come and go without touching anything but keys/.
func TestRecipients(t *testing.T) {
	ctx, b := t.Context(), newBench(t)
	other, err := age.GenerateX25519Identity()
	must(t, err)
	_, err = b.repo.Unlock(ctx, other)
	mustBe(t, err, ErrWrongKey)
	_, err = b.repo.Unlock(ctx)
	mustBe(t, err, ErrWrongKey)
	mustBe(t, b.repo.SetRecipients(ctx, b.secrets.Agent(), []string{other.Recipient().String()}), ErrNoKey)
	ssh := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl operator"
	must(t, b.repo.SetRecipients(ctx, b.secrets, []string{other.Recipient().String(), ssh}))
	_, err = b.repo.Unlock(ctx, b.operator)
	mustBe(t, err, ErrWrongKey)
	s, err := b.repo.Unlock(ctx, other)
	must(t, err)
	if !sameSecrets(s, b.secrets) || len(s.Recipients) != 2 {
		t.Error("other secrets")
	}
	if keys := b.mem.Keys(); !slices.Equal(keys, []string{"keys/2.age", "lifeboat.json"}) {
		t.Errorf("objects %v", keys)
	}
	if err := b.repo.SetRecipients(ctx, s, nil); err == nil {
		t.Error("a repository for nobody")
	}
}

func TestSecretsTravelInParts(t *testing.T) {
	b := newBench(t)
	for _, s := range []*Secrets{b.secrets, b.secrets.Agent(), b.secrets.Maintenance()} {
		data, err := s.Marshal()
		must(t, err)
		back, err := ParseSecrets(data)
		must(t, err)
		again, err := back.Marshal()
		must(t, err)
		if !bytes.Equal(data, again) {
			t.Error("not the same bytes")
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			if got := fmt.Sprintf(verb, s); got != "•••" {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	}
	a, m := b.secrets.Agent(), b.secrets.Maintenance()
	if a.CanRead() || !a.Prune.IsZero() || m.CanRead() || !m.Chunk.Chunk.IsZero() || !m.Digest.IsZero() || m.Chunk.Seal.IsZero() {
		t.Error("a part holds what it must not")
	}
}

// The whole on a real file system: keys in files, objects in files.
func TestOnFiles(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	store, err := fs.Create(filepath.Join(dir, "repo"))
	must(t, err)
	op, err := age.GenerateX25519Identity()
	must(t, err)
	repo, secrets, err := Create(ctx, store, CreateOptions{Recipients: []string{op.Recipient().String()}})
	must(t, err)
	id := LineageID{Source: record.Source{SystemID: 1, Database: 2}, Lineage: record.NewLineage()}
	path := filepath.Join(dir, "state", id.String())
	keys := KeyDir(path)
	l := repo.Log(secrets.Agent(), id, keys)
	w, err := l.Begin(ctx, nil, keys, Opening{Durable: 100})
	must(t, err)
	s, rows := segmentOf(100, []row{ins(100, "1\tx")})
	must(t, w.Segment(ctx, s, SegmentMeta{}))
	must(t, w.Rotate(ctx, Opening{}))
	must(t, w.Merge(ctx, 0))
	files, err := os.ReadDir(path)
	must(t, err)
	if len(files) != 1 || files[0].Name() != "epoch-0000000001.key" {
		t.Errorf("key files %v", files)
	}
	if i, err := files[0].Info(); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	_, err = keys.Get(0)
	mustBe(t, err, ErrNoKey)
	v, err := repo.Log(secrets, id, nil).Load(ctx)
	must(t, err)
	got, err := readRows(ctx, v, 0, everything, nil)
	must(t, err)
	if !slices.Equal(got, rows) {
		t.Errorf("rows %v", got)
	}
	must(t, os.WriteFile(filepath.Join(path, "epoch-0000000009.key"), []byte("short"), 0o600))
	_, err = keys.Get(9)
	mustBe(t, err, chunkstore.ErrDamaged)
}
