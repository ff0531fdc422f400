package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// ErrNoAlarm: no alarm of that id is open.
var ErrNoAlarm = errors.New("no such alarm is open")

// Acknowledge says in the log of v that somebody has looked at an alarm. No agent need
// run; one that does reads it at its next entry.
func Acknowledge(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options, v *history.View, at history.Position) error {
	o = o.defaults()
	if !slices.ContainsFunc(v.Alarms, func(a history.Alarm) bool { return a.At == at }) {
		return fmt.Errorf("acknowledge %d-%d: %w", at.Epoch, at.Seq, ErrNoAlarm)
	}
	n := history.Note{Kind: history.NoteAcknowledge, Alarm: &at, Time: record.FromTime(o.Now())}
	if err := appendNote(ctx, repo.Log(s, v.ID, nil), v, n, o.Now); err != nil {
		return fmt.Errorf("acknowledge %d-%d: %w", at.Epoch, at.Seq, err)
	}
	return nil
}

// alarmFindings name the open alarms, each with what undoes it and what ends it.
func alarmFindings(v *history.View) (out []Finding) {
	for i := range v.Alarms {
		a := &v.Alarms[i]
		out = append(out, Finding{
			Name: "alarm", State: "warn", Why: a.String() + "; nothing is pruned until somebody has looked",
			Mend: fmt.Sprintf("if it was meant: lifeboat alarm ack %s; else: lifeboat restore --at %s --to DSN --key FILE", a.ID(), a.Before()),
		})
	}
	return out
}
