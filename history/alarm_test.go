package history

import (
	"errors"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// TestAlarms: an alarm grows under its id, is carried by a checkpoint, and is open
// until that id is acknowledged.
func TestAlarms(t *testing.T) {
	w := newWritten(t)
	ctx := t.Context()
	note := func(table uint32, from, until record.LSN, changed int64) {
		must(t, w.w.Note(ctx, Note{
			Kind: NoteAlarm, Table: table, Name: "public.t", From: from, Until: until,
			Change: &MassChange{Before: 100, Changed: changed, After: 100 - changed},
		}))
	}
	note(7, 100, 110, 40)
	note(8, 100, 110, 50)
	note(7, 100, 120, 90)
	note(7, 200, 210, 5)
	got := w.w.View().Alarms
	if len(got) != 3 || got[0].Change.Changed != 90 || got[0].Until != 120 || got[0].Before() != "before:lsn:0/64" || got[2].From != 200 {
		t.Fatalf("alarms %+v", got)
	}
	id, err := ParseAlarmID(got[0].ID())
	if err != nil || id != got[0].At {
		t.Fatalf("id %q: %v, %v", got[0].ID(), id, err)
	}
	must(t, w.w.Note(ctx, Note{Kind: NoteRound, Name: Weekly, From: 1, Until: 5, Point: 7, Time: 9}))
	must(t, w.w.Rotate(ctx, Opening{Durable: w.w.View().Durable}))
	must(t, w.w.Checkpoint(ctx))
	must(t, w.operatorLog().AppendNote(ctx, Note{Kind: NoteAcknowledge, Alarm: &id}))
	v, err := w.operatorLog().Load(ctx)
	must(t, err)
	if len(v.Alarms) != 2 || v.Alarms[0].Table != 8 || v.Alarms[1].From != 200 {
		t.Errorf("after the acknowledgement: %+v", v.Alarms)
	}
	if want := (Round{Weekly, 1, 5, 7, 9}); len(v.Rounds) != 1 || v.Rounds[0] != want {
		t.Errorf("rounds %+v, want %+v", v.Rounds, want)
	}
	for _, bad := range []Note{{Kind: NoteAlarm}, {Kind: NoteAcknowledge}, {Kind: NoteReady, Alarm: &id}, {Kind: NoteRound}, {Kind: NoteRound, Name: Weekly, From: 2, Until: 1, Point: 3}} {
		if err := bad.validate(); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("%+v is let through: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "1", "1-", "-1", "1-2-3", "a-b"} {
		if _, err := ParseAlarmID(bad); err == nil {
			t.Errorf("id %q is taken", bad)
		}
	}
}
