package history

import (
	"errors"
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
