package archive

import (
	"bytes"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// prepareInvites gathers invitations and knocks of this server's users that are not
// memberships yet, and invitations that were declined without ever having the room. What
// the inviting server said of the room stands in the event's unsigned, which m.events
// leaves out.
func (b *builder) prepareInvites(c *mspf.Contents) error {
	type member struct{ room, user, membership string }
	wanted := map[string]member{} // by event
	for r, err := range b.rows("local_current_membership", "room_id", "user_id", "event_id", "membership") {
		if err != nil {
			return err
		}
		switch m := r.text(3); m {
		case "invite", "knock", "leave":
			wanted[r.text(2)] = member{r.text(0), r.text(1), m}
		}
	}
	s := b.sorter(16)
	for r, err := range b.rows("event_json", "event_id", "internal_metadata", "json") {
		if err != nil {
			return err
		}
		m, ok := wanted[string(r.fields[0])]
		if !ok {
			continue
		}
		if m.membership == "leave" && !bytes.Contains(r.fields[1], []byte(`"out_of_band_membership": true`)) && !bytes.Contains(r.fields[1], []byte(`"out_of_band_membership":true`)) {
			continue
		}
		k := append(append(byLength(m.room), 0), m.user...)
		if err := s.Add(k, fields{}.text(m.room).text(m.user).bool(m.membership == "leave").bytes(r.bytes(2))); err != nil {
			return err
		}
	}
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	c.Invites = func(yield func(mspf.Invite, error) bool) {
		for p, err := range b.pairs(sorted) {
			if err != nil {
				yield(mspf.Invite{}, err)
				return
			}
			i, ok := b.invite(reader(p.Value))
			if ok && !yield(i, nil) {
				return
			}
		}
	}
	return nil
}

func (b *builder) invite(v reader) (i mspf.Invite, ok bool) {
	i = mspf.Invite{Room: v.text(), User: v.text(), Rejected: v.bool()}
	tree, _, err := event.Parse(v.bytes())
	if err != nil {
		b.report.add(1, mspf.Loss{Item: mspf.Prefix + "invites", Key: i.Room, Code: "event_unreadable", State: mspf.Unsupported, Reason: "what is stored is not a JSON object"})
		return i, false
	}
	unsigned, _ := tree["unsigned"].(map[string]any)
	for _, name := range []string{"invite_room_state", "knock_room_state"} {
		if state, ok := unsigned[name].([]any); ok {
			i.State = state
		}
	}
	for _, k := range []string{"unsigned", "age_ts", "outlier", "destinations"} {
		delete(tree, k)
	}
	i.Event = tree
	if r := b.rooms[i.Room]; r != nil {
		i.Version = r.version
	}
	if sender, _ := tree["sender"].(string); sender != "" && !b.local(sender) {
		i.Via = []string{domain(sender)}
	}
	return i, true
}
