package archive

import (
	"bytes"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf/event"
)

// redaction is one that names an event.
type redaction struct {
	id        string
	room      string
	sender    string // of the redaction
	confirmed bool   // Synapse has found it allowed
	usable    bool   // it exists and was not rejected
	recheck   bool   // allowed only from a user of the same server
}

func (x redaction) encode() fields {
	return fields{}.text(x.id).text(x.room).text(x.sender).bool(x.confirmed).bool(x.usable).bool(x.recheck)
}

func decodeRedaction(v reader) redaction {
	return redaction{id: v.text(), room: v.text(), sender: v.text(), confirmed: v.bool(), usable: v.bool(), recheck: v.bool()}
}

// applies decides as Synapse does when it reads an event (databases/main/events_worker.py,
// _maybe_redact_event_row). Create events are never redacted.
func (x redaction) applies(e *stored) bool {
	switch {
	case e.kind == "m.room.create":
		return false
	case x.confirmed:
		return true
	case !x.usable || x.room != e.room:
		return false
	}
	return !x.recheck || domain(x.sender) == domain(e.sender)
}

// ban redacts what a user sent to a room before a position (MSC4293).
type ban struct {
	redaction
	end int64 // 0: there is none
}

// What is known of a redaction, by its own id.
const (
	redactsEvent byte = iota
	redactsUser
	redactionRow
	redactionRejected
	redactionMeta
)

// redactions puts together what is known of each redaction, and gives each to the
// event that it names: add is called with the target.
func (b *builder) redactions(s *spill.Sorted, add func(target string, x redaction) error) (bans map[[2]string][]ban, err error) {
	defer s.Close()
	bans = map[[2]string][]ban{}
	for g, err := range b.groups(s, firstText) {
		if err != nil {
			return nil, err
		}
		x := redaction{id: string(g.key[:len(g.key)-1])}
		type target struct {
			id, room, user string
			end            int64
			confirmed      bool
		}
		var targets []target
		for p, err := range g.pairs {
			if err != nil {
				return nil, err
			}
			switch v := reader(p.Value); p.Key[len(p.Key)-1] {
			case redactsEvent:
				targets = append(targets, target{id: v.text(), confirmed: v.bool()})
			case redactsUser:
				targets = append(targets, target{room: v.text(), user: v.text(), end: v.int()})
			case redactionRow:
				x.room, x.sender, x.usable = v.text(), v.text(), true
			case redactionRejected:
				x.usable = false
			case redactionMeta:
				x.recheck = v.bool()
			}
		}
		for _, t := range targets {
			x.confirmed = t.confirmed
			if t.id == "" {
				k := [2]string{t.room, t.user}
				bans[k] = append(bans[k], ban{x, t.end})
			} else if err := add(t.id, x); err != nil {
				return nil, err
			}
		}
	}
	return bans, nil
}

// redacting gathers which events take something back.
func (j *join) redacting() error {
	for r, err := range j.b.rows("room_ban_redactions", "redacting_event_id", "room_id", "user_id", "redact_end_ordering") {
		if err != nil {
			return err
		}
		id := r.text(0)
		j.banned[id] = true
		if err := j.redactions.Add(append(key(id), redactsUser), fields{}.text(r.text(1)).text(r.text(2)).int(r.int(3))); err != nil {
			return err
		}
	}
	for r, err := range j.b.rows("redactions", "event_id", "redacts", "recheck") {
		if err != nil {
			return err
		}
		// Before schema 94 nothing said that a redaction was found allowed.
		f := fields{}.text(r.text(1)).bool(!r.null(2) && !r.bool(2))
		if err := j.redactions.Add(append(key(r.text(0)), redactsEvent), f); err != nil {
			return err
		}
	}
	return nil
}

// recheck notes that a redaction is allowed only from a user of the same server.
func (j *join) recheck(r *row) error {
	if !bytes.Contains(r.fields[2], []byte("recheck_redaction")) {
		return nil
	}
	tree, _ := r.object(2)
	recheck, _ := tree["recheck_redaction"].(bool)
	return j.redactions.Add(append(key(r.text(0)), redactionMeta), fields{}.bool(recheck))
}

// redactedBy gives the id of the event that takes another back; "" when none does.
func (b *builder) redactedBy(e *stored, bans map[[2]string][]ban) string {
	for _, x := range e.redactions {
		if x.applies(e) {
			return x.id
		}
	}
	for _, x := range bans[[2]string{e.room, e.sender}] {
		if (x.end == 0 || e.stream < x.end) && x.applies(e) {
			return x.id
		}
	}
	return ""
}

// isRedacted says whether an event is what a redaction leaves of it: so it is kept when
// its content came without fitting its hash, and when Synapse has censored it.
func isRedacted(rules event.Version, tree map[string]any) bool {
	all, err1 := event.Canonical(tree)
	kept, err2 := event.Canonical(rules.Redact(tree))
	return err1 == nil && err2 == nil && bytes.Equal(all, kept)
}
