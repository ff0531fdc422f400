package history

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lifeboat.im/lifeboat/record"
)

// MassChange counts what an alarm is about.
type MassChange struct {
	// Before is how many rows the table had before the change.
	Before int64 `cbor:"1,keyasint"`
	// Changed is how many of those were deleted, truncated or rewritten.
	Changed int64 `cbor:"2,keyasint"`
	// After is how many rows the table had after it.
	After int64 `cbor:"3,keyasint"`
}

// Alarm is a mass change that nobody has acknowledged. While one is open nothing of
// its lineage is pruned.
type Alarm struct {
	// At is the place of the first note about it, and the alarm's id.
	At    Position `cbor:"1,keyasint"`
	Table uint32   `cbor:"2,keyasint"`
	Name  string   `cbor:"3,keyasint"` // schema.name
	// From is the end LSN of the first commit of the change, Until of the last.
	From   record.LSN  `cbor:"4,keyasint"`
	Until  record.LSN  `cbor:"5,keyasint"`
	Time   record.Time `cbor:"6,keyasint"` // commit time of the last one
	Change MassChange  `cbor:"7,keyasint"`
}

// ID is what a person types to acknowledge the alarm: its entry's epoch and number.
func (a *Alarm) ID() string { return fmt.Sprintf("%d-%d", a.At.Epoch, a.At.Seq) }

// String says in one line what happened.
func (a *Alarm) String() string {
	span := "at " + a.From.String()
	if a.Until != a.From {
		span = fmt.Sprintf("from %s to %s", a.From, a.Until)
	}
	return fmt.Sprintf("%s: %d of %d rows were deleted or rewritten %s (%s), %d are left", a.Name, a.Change.Changed, a.Change.Before, span, a.Time, a.Change.After)
}

// Before is the restore target just before the change.
func (a *Alarm) Before() string { return "before:lsn:" + a.From.String() }

// ParseAlarmID reads what [Alarm.ID] gives.
func ParseAlarmID(s string) (Position, error) {
	e, n, ok := strings.Cut(s, "-")
	epoch, err := strconv.ParseUint(e, 10, 64)
	seq, err2 := strconv.ParseUint(n, 10, 64)
	if !ok || err != nil || err2 != nil {
		return Position{}, fmt.Errorf("alarm %q: want an id such as 12-345", s)
	}
	return Position{Epoch: epoch, Seq: seq}, nil
}

// foldAlarm adds an alarm, or lets one grow.
func (s *State) foldAlarm(at Position, n *Note) {
	a := Alarm{At: at, Table: n.Table, Name: n.Name, From: n.From, Until: n.Until, Time: n.Time, Change: *n.Change}
	same := func(o Alarm) bool { return o.Table == n.Table && o.From == n.From }
	if i := slices.IndexFunc(s.Alarms, same); i >= 0 {
		a.At = s.Alarms[i].At
		s.Alarms[i] = a
		return
	}
	s.Alarms = append(s.Alarms, a)
}
