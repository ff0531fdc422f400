package history

import (
	"testing"

	"lifeboat.im/lifeboat/record"
)

// TestDroppedCloses: a table that is gone is not incomplete any more, in whatever
// order its notes came: the stream may be far behind the catalog.
func TestDroppedCloses(t *testing.T) {
	dropped := func(at record.LSN) *Note { return &Note{Kind: NoteDropped, Table: 1, Name: "s.t", From: at} }
	incomplete := func(from record.LSN) *Note { return &Note{Kind: NoteIncomplete, Table: 1, Name: "s.t", From: from} }
	for _, c := range []struct {
		name  string
		notes []*Note
		want  record.LSN // until, of the last interval
	}{
		{"before", []*Note{incomplete(10), dropped(20)}, 20},
		{"at once", []*Note{incomplete(10), dropped(10)}, 10},
		{"after", []*Note{dropped(20), incomplete(10)}, 20},
		{"twice", []*Note{incomplete(5), dropped(20), incomplete(10), dropped(22)}, 20},
		{"a new table of that number", []*Note{dropped(20), incomplete(30)}, 0},
	} {
		var s State
		for _, n := range c.notes {
			if err := s.foldNote(Position{}, n); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Incompletes[len(s.Incompletes)-1].Until; got != c.want {
			t.Errorf("%s: until %s, want %s", c.name, got, c.want)
		}
	}
}
