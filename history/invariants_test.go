package history

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// written is a log with a merged epoch, an ended one and an open one.
type written struct {
	*bench
	keys *memKeys
	log  *Log
	w    *Writer
	rows []row
}

func newWritten(t testing.TB) *written {
	ctx, b := t.Context(), newBench(t)
	out := &written{bench: b, keys: newMemKeys()}
	out.log = b.agentLog(out.keys)
	var err error
	out.w, err = out.log.Begin(ctx, nil, out.keys, Opening{
		Durable: 1000, Slot: "lifeboat", ServerVersion: 180006, Host: "h",
		Tables: []TableState{{Table: 100, Known: true}},
	})
	must(t, err)
	out.base(t, 100)
	out.schema(t, 1)
	out.segment(t, []row{ins(100, "1\ta"), ins(102, "1\ts")}, []row{ins(101, "1\tb")})
	must(t, out.w.Rotate(ctx, Opening{Host: "h"}))
	must(t, out.w.Merge(ctx, 0))
	out.segment(t, []row{ins(100, "2\ta"), ins(102, "2\ts")})
	must(t, out.w.Rotate(ctx, Opening{Host: "h"}))
	out.segment(t, []row{ins(101, "3\ta")})
	must(t, out.w.Note(ctx, Note{Kind: NoteMark, Name: "here"}))
	return out
}

func (w *written) segment(t testing.TB, txs ...[]row) {
	t.Helper()
	s, rows := segmentOf(w.w.View().Durable, txs...)
	must(t, w.w.Segment(t.Context(), s, SegmentMeta{SchemaCertain: s.End}))
	w.rows = append(w.rows, rows...)
}

func (w *written) base(t testing.TB, table uint32) {
	t.Helper()
	p, err := w.log.Store().Put(t.Context(), chunkstore.KindRows, []byte("1\told\n"), chunkstore.Default)
	must(t, err)
	at := w.w.View().Durable
	must(t, w.w.Base(t.Context(), &Base{
		Relation: testRelations()[table-100], Pieces: []Piece{{Rows: &p.Ref}}, RecordsFrom: at, ExactFrom: at + 50,
		Digest: record.Digest{Count: 1}, Bytes: 6,
	}, []chunkstore.Name{p.Name}))
}

func (w *written) schema(t testing.TB, print byte, tables ...SchemaTable) {
	t.Helper()
	p, err := w.log.Store().Put(t.Context(), chunkstore.KindBytes, []byte("CREATE TABLE "+string('a'+rune(print))), chunkstore.Default)
	must(t, err)
	ext := []record.Extent{{Chunk: p.Ref.D, Gen: p.Ref.Gen, Length: p.Ref.Size}}
	must(t, w.w.SchemaNote(t.Context(), &Schema{
		Custom: ext, Plain: ext, Fingerprint: [32]byte{print}, From: w.w.View().Durable, Tables: tables,
		Sequences: []record.Sequence{{OID: 7, Schema: "public", Name: "s", Last: int64(print), Called: true, At: w.w.View().Durable}},
	}, []chunkstore.Name{p.Name}))
}

func (w *written) verify(t testing.TB) *VerifyReport {
	t.Helper()
	r, err := Verify(t.Context(), w.repo, w.secrets, VerifyOptions{Operators: []age.Identity{w.operator}})
	must(t, err)
	return r
}

func (w *written) view(t testing.TB) *View {
	t.Helper()
	v, err := w.operatorLog().Load(t.Context())
	must(t, err)
	return v
}

func TestH1_WhatIsReachedVerifiesAndWhatIsMissingIsNamed(t *testing.T) {
	w := newWritten(t)
	if r := w.verify(t); len(r.Damage) > 0 || len(r.Strange) > 0 || r.Orphans > 0 || r.Entries == 0 || r.Chunks == 0 {
		t.Fatalf("a whole repository: %+v", r)
	}
	v := w.view(t)
	need := map[string]func() error{
		w.id.key(v.Segments[0].Position):  func() error { _, err := readRows(t.Context(), v, 0, everything, nil); return err },
		w.id.key(v.Histories[0].Position): func() error { _, err := readRows(t.Context(), v, 0, everything, nil); return err },
		w.id.key(v.Bases[0].Position):     func() error { _, err := v.Base(t.Context(), v.Bases[0]); return err },
		w.id.key(v.Schemas[0].Position):   func() error { _, err := v.Schema(t.Context(), v.Schemas[0]); return err },
		w.id.key(v.Checkpoint.At):         func() error { _, err := w.operatorLog().Load(t.Context()); return err },
		w.id.key(Position{Epoch: 1, Seq: v.Segments[0].Seq}): func() error {
			_, err := readRows(t.Context(), v, 0, everything, nil)
			return err
		},
	}
	for _, key := range w.mem.Keys() {
		if strings.HasPrefix(key, "chunk/") {
			need[key] = nil
		}
	}
	for key, read := range need {
		kept := w.mem.Object(key)
		w.mem.Lose(key)
		if read != nil {
			if err := read(); !errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), key) {
				t.Errorf("without %s: %v", key, err)
			}
		}
		if r := w.verify(t); !slices.ContainsFunc(r.Damage, func(s string) bool { return strings.Contains(s, key) }) {
			t.Errorf("verify without %s: %v", key, r.Damage)
		}
		w.mem.Replace(key, kept)
	}
}

func TestH1_AnUnnamedChunkIsFound(t *testing.T) {
	w := newWritten(t)
	p, err := w.log.Store().Put(t.Context(), chunkstore.KindRows, []byte("2\tx\n"), chunkstore.Default)
	must(t, err)
	plain, err := record.Marshal(&Base{Relation: testRelations()[1], Pieces: []Piece{{Rows: &p.Ref}}})
	must(t, err)
	d := draft{body: appendPart(nil, plain, chunkstore.Fast), sum: Summary{Base: &baseSummary{Table: 101}}}
	must(t, w.w.add(t.Context(), func(*View) (draft, error) { return d, nil }))
	if r := w.verify(t); len(r.Damage) != 1 || !strings.Contains(r.Damage[0], p.Name.String()) {
		t.Errorf("damage %v", r.Damage)
	}
}

// Every call that makes something durable, under every way in which its creates fail.
func TestH2_NilMeansDurable(t *testing.T) {
	calls := map[string]func(w *written) error{
		"segment": func(w *written) error {
			s, _ := segmentOf(w.w.View().Durable, []row{ins(100, "9\tz")})
			return w.w.Segment(t.Context(), s, SegmentMeta{})
		},
		"note":       func(w *written) error { return w.w.Note(t.Context(), Note{Kind: NoteMark, Name: "m"}) },
		"checkpoint": func(w *written) error { return w.w.Checkpoint(t.Context()) },
		"rotate":     func(w *written) error { return w.w.Rotate(t.Context(), Opening{}) },
		"merge":      func(w *written) error { return w.w.Merge(t.Context(), 1) },
	}
	for name, call := range calls {
		for fault, lasting := range map[storetest.Fault]bool{
			storetest.ErrBefore: false, storetest.ErrAfter: false, storetest.LostReply: false, storetest.Crash: true, storetest.CrashAfter: true,
		} {
			w := newWritten(t)
			logKey := false
			w.mem.SetFault(func(op storetest.Op, key string) storetest.Fault {
				if op == storetest.OpCreate && strings.HasPrefix(key, "log/") && !logKey {
					logKey = true
					return fault
				}
				return storetest.None
			})
			err := call(w)
			if (err != nil) != lasting {
				t.Fatalf("%s under fault %d: %v", name, fault, err)
			}
			told := w.w.View()
			w.mem.Restart()
			v := w.view(t)
			if v.Durable < told.Durable || v.Head.Before(told.Head) {
				t.Errorf("%s under fault %d: told %s at %s, a reader finds %s at %s", name, fault, told.Durable, told.Head, v.Durable, v.Head)
			}
			if !lasting && v.Head != told.Head {
				t.Errorf("%s under fault %d: written twice, up to %s instead of %s", name, fault, v.Head, told.Head)
			}
			if r := w.verify(t); len(r.Damage) > 0 {
				t.Errorf("%s under fault %d: %v", name, fault, r.Damage)
			}
		}
	}
}

func TestH3_TheAuthorHasReadWhatOthersAdded(t *testing.T) {
	w := newWritten(t)
	must(t, w.operatorLog().AppendNote(t.Context(), Note{Kind: NoteMark, Name: "theirs", From: 1100}))
	w.segment(t, []row{ins(100, "4\tx")})
	if !slices.ContainsFunc(w.w.View().Marks, func(m Mark) bool { return m.Name == "theirs" && m.At == 1100 }) {
		t.Errorf("the writer stepped over a note without reading it: %+v", w.w.View().Marks)
	}
	must(t, w.operatorLog().AppendNote(t.Context(), Note{Kind: NotePin, Name: "theirs"}))
	if absorbed, err := w.w.Probe(t.Context()); err != nil || !absorbed {
		t.Errorf("probe: %v %v", absorbed, err)
	}
	if absorbed, err := w.w.Probe(t.Context()); err != nil || absorbed {
		t.Errorf("probe again: %v %v", absorbed, err)
	}
	mustBe(t, w.operatorLog().AppendNote(t.Context(), Note{Kind: NotePosition, Durable: 5000}), ErrOrder)
}

func TestH4_FencedForEver(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	other := newMemKeys()
	l := w.agentLog(other)
	v, err := l.Load(ctx)
	must(t, err)
	w.segment(t, []row{ins(100, "5\tx")}) // between the other's Load and Begin
	taker, err := l.Begin(ctx, v, other, Opening{Durable: v.Durable, Tables: []TableState{{Table: 100, Known: true}}})
	must(t, err)
	for range 2 {
		mustBe(t, w.w.Note(ctx, Note{Kind: NoteMark, Name: "late"}), ErrFenced)
	}
	mustBe(t, w.w.Rotate(ctx, Opening{}), ErrFenced)
	tv := taker.View()
	if tv.Durable != w.w.View().Durable {
		t.Errorf("the taker stands at %s, the other was told %s", tv.Durable, w.w.View().Durable)
	}
	tables, err := tv.Tables(ctx, tv.Epochs[len(tv.Epochs)-1])
	must(t, err)
	if len(tables) != 1 || tables[0].Known {
		t.Errorf("digests that lack an absorbed segment are known: %+v", tables)
	}
	_, err = l.Begin(ctx, v, other, Opening{})
	mustBe(t, err, ErrFenced)
	mustBe(t, taker.Merge(ctx, 1), ErrNoKey)
	got, err := readRows(ctx, w.view(t), 0, everything, nil)
	must(t, err)
	if !slices.Equal(got, w.rows) {
		t.Errorf("rows %v, want %v", got, w.rows)
	}
}

func TestH6_OpeningNeverCreates(t *testing.T) {
	ctx, mem := t.Context(), storetest.NewMemory(t)
	_, err := Open(ctx, mem)
	mustBe(t, err, ErrNoRepository)
	b := newBench(t)
	b.mem.ClearLog()
	r, err := Open(ctx, b.mem)
	must(t, err)
	s, err := r.Unlock(ctx, b.operator)
	must(t, err)
	if !sameSecrets(s, b.secrets) {
		t.Error("other secrets")
	}
	_, err = r.Log(s, b.id, nil).Load(ctx)
	mustBe(t, err, ErrNoLineage)
	mustBe(t, r.Log(s, b.id, nil).AppendNote(ctx, Note{Kind: NoteMark, Name: "x"}), ErrNoLineage)
	for _, o := range b.mem.Log() {
		if o.Op == storetest.OpCreate || o.Op == storetest.OpRemove {
			t.Errorf("%s %s", o.Op, o.Key)
		}
	}
	_, _, err = Create(ctx, b.mem, CreateOptions{Plaintext: true})
	mustBe(t, err, ErrRepositoryExists)
	_, _, err = Create(ctx, storetest.NewMemory(t), CreateOptions{})
	if err == nil {
		t.Error("created without a recipient")
	}
}

func TestH7_DurableNeverDecreases(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	d := w.w.View().Durable
	mustBe(t, w.w.Note(ctx, Note{Kind: NotePosition, Durable: d - 1}), ErrOrder)
	for _, start := range []record.LSN{d - 100, d + 100} {
		s, _ := segmentOf(start, []row{ins(100, "1\tx")})
		mustBe(t, w.w.Segment(ctx, s, SegmentMeta{}), ErrOrder)
	}
	must(t, w.w.Note(ctx, Note{Kind: NotePosition, Durable: d + 10}))
	must(t, w.w.Rotate(ctx, Opening{Durable: 5}))
	v := w.view(t)
	if v.Durable != d+10 || v.Epochs[len(v.Epochs)-1].Durable != d+10 {
		t.Errorf("durable %s after an opening below, want %s", v.Durable, d+10)
	}
	other := w.id
	other.Database++
	_, err := w.repo.Log(w.secrets, other, w.keys).Begin(ctx, v, w.keys, Opening{})
	mustBe(t, err, ErrOrder)
}

func TestH8_NoCondemnedNameIsReachedAgain(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	content := []byte("8\tagain\n")
	put := func() chunkstore.Put {
		p, err := w.log.Store().Put(ctx, chunkstore.KindRows, content, chunkstore.Default)
		must(t, err)
		return p
	}
	base := func(p chunkstore.Put) error {
		return w.w.Base(ctx, &Base{Relation: testRelations()[1], Pieces: []Piece{{Rows: &p.Ref}}}, []chunkstore.Name{p.Name})
	}
	old := put()
	gen := chunkstore.Gen{1, 2, 3}
	must(t, w.operatorLog().AppendNote(ctx, Note{Kind: NoteCondemn, Gen: gen, Prefixes: [][8]byte{[8]byte(old.Name[:8])}}))
	var c *ErrCondemned
	if err := base(old); !errors.As(err, &c) || !slices.Equal(c.Names, []chunkstore.Name{old.Name}) {
		t.Fatalf("a condemned name was taken: %v", err)
	}
	again := put()
	if again.Name == old.Name || again.Ref.Gen != gen {
		t.Fatalf("put again as %s, generation %s", again.Name, again.Ref.Gen)
	}
	must(t, base(again))
	// A writer that starts from a checkpoint knows it too, and so does a new lineage.
	must(t, w.w.Checkpoint(ctx))
	l := w.agentLog(w.keys)
	v, err := l.Load(ctx)
	must(t, err)
	_, err = l.Begin(ctx, v, w.keys, Opening{})
	must(t, err)
	if !l.Store().Condemned(old.Name) {
		t.Error("forgotten behind a checkpoint")
	}
	id := w.id
	id.Lineage[0]++
	fresh := quick(w.repo.Log(w.secrets.Agent(), id, nil))
	_, err = fresh.Begin(ctx, nil, newMemKeys(), Opening{Durable: 1, Parent: &Parent{ID: w.id, At: 1200}})
	must(t, err)
	late := quick(w.repo.Log(w.secrets.Agent(), id, nil))
	v, err = late.Load(ctx)
	must(t, err)
	if !late.Store().Condemned(old.Name) || v.Epochs[0].Parent == nil || v.Epochs[0].Parent.ID != w.id {
		t.Error("a new lineage does not know its parent or what is condemned")
	}
	ids, err := w.repo.Lineages(ctx)
	must(t, err)
	if len(ids) != 2 {
		t.Errorf("lineages %v", ids)
	}
}
