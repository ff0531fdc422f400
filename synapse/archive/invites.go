package archive

import (
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// member is what an event says of a user of this server.
type member struct{ user, membership string }

// members gathers invitations and knocks of this server's users that are not
// memberships yet, and what may be an invitation that was declined without ever having
// the room.
func (j *join) members() error {
	for r, err := range j.b.rows("local_current_membership", "user_id", "event_id", "membership") {
		if err != nil {
			return err
		}
		switch m := r.text(2); m {
		case "invite", "knock", "leave":
			if err := j.event(r.text(1), partMember, fields{}.text(r.text(0)).text(m)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepInvite keeps an event as it goes into the archive, and what the inviting server
// said of the room: it stands in the event's unsigned, which m.events leaves out.
func (p *placedEvent) keepInvite(e *stored, text []byte) {
	if e.member == nil || len(text) == 0 || e.member.membership == "leave" && !e.flag("out_of_band_membership") {
		return
	}
	p.inviteKey = append(append(byLength(e.room), 0), e.member.user...)
	p.invite = fields{}.text(e.room).text(e.member.user).bool(e.member.membership == "leave").bytes(text)
}

func (b *builder) prepareInvites(c *mspf.Contents) error {
	c.Invites = func(yield func(mspf.Invite, error) bool) {
		for p, err := range b.pairs(b.invites) {
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
	event.Strip(tree)
	i.Event = tree
	if r := b.rooms[i.Room]; r != nil {
		i.Version = r.version
	}
	if sender, _ := tree["sender"].(string); sender != "" && !b.local(sender) {
		i.Via = []string{domain(sender)}
	}
	return i, true
}
