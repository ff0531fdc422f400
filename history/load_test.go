package history

import (
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
