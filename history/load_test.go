package history

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/chunkstore"
)

// TestLoadNoticesAHole: whichever entry of the open epoch is lost, or the first one of
// an epoch, Load says so, except of the very last: nothing behind it tells.
func TestLoadNoticesAHole(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	v, err := w.operatorLog().Load(ctx)
	must(t, err)
	must(t, w.w.Rotate(ctx, Opening{Durable: v.Durable}))
	must(t, w.w.Rotate(ctx, Opening{Durable: v.Durable}))
	for _, name := range []string{"one", "two", "three", "four"} {
		must(t, w.w.Note(ctx, Note{Kind: NoteMark, Name: name}))
	}
	v, err = w.operatorLog().Load(ctx)
	must(t, err)
	checked := 0
	for _, key := range w.mem.Keys() {
		_, at, ok := parseEntryKey(key)
		if !ok || (at.Epoch != v.Head.Epoch && at.Seq != 0) || at == v.Head {
			continue
		}
		whole := w.mem.Object(key)
		w.mem.Lose(key)
		if _, err := w.operatorLog().Load(ctx); (at.Epoch >= v.Head.Epoch-1 || at == Position{}) && (!errors.Is(err, chunkstore.ErrDamaged) || !strings.Contains(err.Error(), key)) {
			t.Errorf("without %s: %v, want it named as damage", at, err)
		}
		if at.Epoch == v.Head.Epoch {
			// A command that appends must not fill the hole.
			if err := w.operatorLog().AppendNote(ctx, Note{Kind: NoteMark, Name: "late"}); !errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("without %s a mark was made: %v", at, err)
			}
		}
		w.mem.Replace(key, whole)
		checked++
	}
	if checked < 6 {
		t.Errorf("%d entries looked at", checked)
	}
}

// Advance gives what Load gives, over epochs, merges and checkpoints, and reads only
// what is new.
func TestAdvance(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	l := w.operatorLog()
	first, err := l.Load(ctx)
	must(t, err)
	head, v := first.Head, first
	for i := range 4 {
		w.segment(t, []row{ins(100, fmt.Sprintf("%d\tx", 10+i))})
		if i%2 == 1 {
			must(t, w.w.Rotate(ctx, Opening{Host: "h"}))
			must(t, w.w.Merge(ctx, w.w.View().Head.Epoch-1))
		}
		must(t, w.operatorLog().AppendNoteAfter(ctx, first, Note{Kind: NoteMark, Name: fmt.Sprint("after ", i)}))
		_, err := w.w.Probe(ctx)
		must(t, err)
		v, err = l.Advance(ctx, v)
		must(t, err)
		want, err := w.operatorLog().Load(ctx)
		must(t, err)
		if v.Head != want.Head || v.head != want.head || !reflect.DeepEqual(v.State, want.State) {
			t.Fatalf("step %d: %+v\nwant %+v", i, v, want)
		}
	}
	if first.Head != head || len(first.Marks) != 1 {
		t.Errorf("the picture that was advanced from is another one: %+v", first)
	}
}

// meddler is a store in which something happens at a read of an entry.
type meddler struct {
	chunkstore.Backend
	at func(p Position)
}

func (m *meddler) Get(ctx context.Context, key string) ([]byte, error) {
	if _, p, ok := parseEntryKey(key); ok {
		m.at(p)
	}
	return m.Backend.Get(ctx, key)
}

// Entries that another process merged and removed while they were read are no damage;
// what is lost is, also of a log that grows at every look.
func TestLoadBesideAPrune(t *testing.T) {
	for _, merged := range []bool{true, false} {
		ctx, w := t.Context(), newWritten(t)
		w.segment(t, []row{ins(100, "10\tx")})
		must(t, w.w.Rotate(ctx, Opening{Host: "h"}))
		head := w.w.View().Head
		old, tries, busy := head.Epoch-1, 0, false
		m := &meddler{Backend: w.mem}
		m.at = func(p Position) {
			if busy || p.Epoch != old || p.Seq == 0 {
				return
			}
			busy = true // the writer reads too
			defer func() { busy = false }()
			if tries++; !merged {
				must(t, w.w.Note(ctx, Note{Kind: NoteMark, Name: fmt.Sprint("mark ", tries)}))
			} else {
				must(t, w.w.Merge(ctx, old))
			}
			for _, key := range w.mem.Keys() {
				if id, q, ok := parseEntryKey(key); ok && id == w.id && q.Epoch == old && q.Seq > 0 {
					w.mem.Lose(key)
				}
			}
		}
		repo, err := Open(ctx, m)
		must(t, err)
		v, err := quick(repo.Log(w.secrets, w.id, nil)).Load(ctx)
		switch {
		case merged && (err != nil || !head.Before(v.Head) || tries != 1):
			t.Errorf("beside a prune: %v, after %d reads", err, tries)
		case !merged && (!errors.Is(err, chunkstore.ErrDamaged) || tries != loadTries):
			t.Errorf("what is lost: %v, after %d tries", err, tries)
		}
	}
}
