package history

import (
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// NoteKind says what a note means; the number stands in the log.
type NoteKind uint8

// The kinds of notes, and which fields of [Note] they use.
const (
	// NotePosition: Durable moved without a transaction (Durable, Time, SchemaCertain).
	NotePosition NoteKind = 1
	// NoteReady: the bases made so far cover every table there was at the start; from
	// the greatest of their exact-from LSNs on, the lineage can be restored.
	NoteReady NoteKind = 2
	// NoteIncomplete opens an interval in which a table (0: the whole database) is not
	// exact (Table, Name, Reason, From: exact up to and including it). A table that is
	// open already keeps the earlier From.
	NoteIncomplete NoteKind = 3
	// NoteComplete closes the open interval of a table at Until (Table, Until).
	NoteComplete NoteKind = 4
	// NoteMark names a restore point (Name, From: its LSN, 0 = what is durable where
	// the note stands, Time).
	NoteMark NoteKind = 5
	// NotePin keeps what a restore to it needs from prune (as NoteMark).
	NotePin NoteKind = 6
	// NoteUnpin takes the pin Name away.
	NoteUnpin NoteKind = 7
	// NoteIdentity says which replica identities we are about to change, or have put
	// back (Identities).
	NoteIdentity NoteKind = 8
	// NoteMismatch: a copy did not meet the digest that the records predict (Table,
	// Name, Reason, From: last LSN at which the table was proved, Until: the copy's).
	NoteMismatch NoteKind = 9
	// NoteDropped: a table is gone at From; its open interval closes there.
	NoteDropped NoteKind = 10
	// NoteHandover: the writer stops in good order (Durable, Time, Reason).
	NoteHandover NoteKind = 11
	// NoteCondemn: a prune condemns names and entries (Gen, Prefixes, Logs, MAC); the
	// same note in every log.
	NoteCondemn NoteKind = 12
	// NoteDeleting: the prune removes from here on (Gen, Entries: those of this log, Kept,
	// MAC). Readers do without the entries.
	NoteDeleting NoteKind = 13
	// NoteDone: it is all gone (Gen, MAC).
	NoteDone NoteKind = 14
	// NoteRound: every table was copied within a short span, so that the log can be
	// thinned to this point (Name: [Weekly] or [Monthly], From, Until, Point, Time: as in
	// [Round]).
	NoteRound NoteKind = 15
	// NoteAlarm: many rows of a table were deleted or rewritten at once (Table, Name,
	// Time, From: end LSN of the first commit, Until: of the last, Change). An alarm of
	// the same table with the same From is the same alarm, grown.
	NoteAlarm NoteKind = 16
	// NoteAcknowledge: somebody has looked at the alarm (Alarm, Time, Reason).
	NoteAcknowledge NoteKind = 17
	// NoteUndelete calls a prune off that has not begun to delete (Gen, MAC).
	NoteUndelete NoteKind = 18
	// NoteHold is a legal hold: while it stands nothing of the lineage is pruned (Name,
	// Reason, Time). NoteRelease ends it (Name, Time, MAC).
	NoteHold NoteKind = 19
	// NoteRelease: see NoteHold.
	NoteRelease NoteKind = 20
	// NoteUnmark takes the mark Name away (Time, MAC).
	NoteUnmark NoteKind = 21
)

var noteNames = [...]string{
	NotePosition: "position", NoteReady: "ready", NoteIncomplete: "incomplete", NoteComplete: "complete",
	NoteMark: "mark", NotePin: "pin", NoteUnpin: "unpin", NoteIdentity: "identity", NoteMismatch: "mismatch",
	NoteDropped: "dropped", NoteHandover: "handover", NoteCondemn: "condemn", NoteDeleting: "deleting", NoteDone: "done",
	NoteRound: "round", NoteAlarm: "alarm", NoteAcknowledge: "acknowledge",
	NoteUndelete: "undelete", NoteHold: "hold", NoteRelease: "release", NoteUnmark: "unmark",
}

// String gives the kind's name.
func (k NoteKind) String() string {
	if int(k) < len(noteNames) && noteNames[k] != "" {
		return noteNames[k]
	}
	return fmt.Sprintf("note kind %d", uint8(k))
}

// Note is a small fact. All of it stands under K_seal, so every process that may
// read positions may read it: never values of rows.
type Note struct {
	Kind          NoteKind         `cbor:"1,keyasint"`
	Durable       record.LSN       `cbor:"2,keyasint,omitempty"`
	Time          record.Time      `cbor:"3,keyasint,omitempty"`
	SchemaCertain record.LSN       `cbor:"4,keyasint,omitempty"`
	Table         uint32           `cbor:"5,keyasint,omitempty"`
	Name          string           `cbor:"6,keyasint,omitempty"`
	Reason        string           `cbor:"7,keyasint,omitempty"`
	From          record.LSN       `cbor:"8,keyasint,omitempty"`
	Until         record.LSN       `cbor:"9,keyasint,omitempty"`
	Identities    []IdentityChange `cbor:"10,keyasint,omitempty"`
	Gen           chunkstore.Gen   `cbor:"11,keyasint"`
	Prefixes      [][8]byte        `cbor:"12,keyasint,omitempty"`
	MAC           []byte           `cbor:"13,keyasint,omitempty"`
	Point         record.LSN       `cbor:"14,keyasint,omitempty"`
	Change        *MassChange      `cbor:"16,keyasint,omitempty"`
	Alarm         *Position        `cbor:"17,keyasint,omitempty"`
	Logs          []logEntries     `cbor:"18,keyasint,omitempty"`
	Entries       entryRuns        `cbor:"19,keyasint,omitempty"`
	Kept          *Kept            `cbor:"20,keyasint,omitempty"`
}

// validate says the law of a note.
func (n *Note) validate() error {
	if int(n.Kind) >= len(noteNames) || noteNames[n.Kind] == "" {
		return fmt.Errorf("%s: %w", n.Kind, record.ErrCorrupt)
	}
	for _, l := range n.Logs {
		if err := l.Entries.validate(); err != nil {
			return err
		}
	}
	if err := n.Entries.validate(); err != nil {
		return err
	}
	switch n.Kind {
	case NoteMark, NotePin, NoteUnpin, NoteHold, NoteRelease, NoteUnmark:
		if n.Name == "" {
			return fmt.Errorf("%s without a name: %w", n.Kind, record.ErrCorrupt)
		}
	case NoteDeleting:
		if n.Kept == nil {
			return fmt.Errorf("%s without what is kept: %w", n.Kind, record.ErrCorrupt)
		}
	}
	if n.Kind == NoteRound && (n.Name != Weekly && n.Name != Monthly || n.From > n.Until || n.Until > n.Point) {
		return fmt.Errorf("%s %q of copies from %s to %s at %s: %w", n.Kind, n.Name, n.From, n.Until, n.Point, record.ErrCorrupt)
	}
	if (n.Kind == NoteAlarm) != (n.Change != nil) || (n.Kind == NoteAcknowledge) != (n.Alarm != nil) {
		return fmt.Errorf("%s without what it is about: %w", n.Kind, record.ErrCorrupt)
	}
	return nil
}
