package synapse

import (
	"slices"

	"lifeboat.im/lifeboat/record"
)

// handlers say what a change to a row of a table means to a room or a user.
func handlers() map[string]func(*Since, change) {
	return map[string]func(*Since, change){
		"events": (*Since).event, "room_memberships": (*Since).membership, "rooms": (*Since).roomRow,
		"room_aliases": (*Since).alias, "users": (*Since).userRow, "erased_users": (*Since).erased,
		"devices": (*Since).device, "account_data": (*Since).accountData, "room_account_data": (*Since).accountData,
		"room_tags": (*Since).accountData, "profiles": (*Since).profile, "user_threepids": (*Since).threePID,
		"local_media_repository": (*Since).media, "e2e_room_keys": (*Since).backupKey,
		"e2e_room_keys_versions": (*Since).backup, "e2e_cross_signing_keys": (*Since).crossSigning,
		"device_inbox": (*Since).toDevice, "delayed_events": (*Since).delayedEvent,
	}
}

// room gives the entry of a room; past the bound, one that is thrown away.
func (s *Since) room(id string) *RoomLoss {
	r := s.rooms[id]
	if r == nil {
		r = &RoomLoss{Room: id}
		if id == "" || len(s.rooms) >= maxTold {
			s.loss.MoreRooms += one(id != "")
			return r
		}
		s.rooms[id] = r
	}
	return r
}

// user gives the entry of a user of this server; of others, one that is thrown away.
func (s *Since) user(id string) *UserLoss {
	u := s.users[id]
	if u == nil {
		u = &UserLoss{User: id}
		if id == "" || s.foreign(id) {
			return u
		}
		if len(s.users) >= maxTold {
			s.loss.MoreUsers++
			return u
		}
		s.users[id] = u
	}
	return u
}

// foreign reports that an id is another server's.
func (s *Since) foreign(id string) bool { return s.server != "" && Domain(id) != s.server }

// event counts by type. What a member event is, its row in room_memberships says.
// An event that lies beside the room's history (an outlier) is none of the room's;
// one with a negative position was fetched from another server, and is of before.
func (s *Since) event(c change) {
	r := c.now()
	position, _ := r.number("stream_ordering")
	if r.yes("outlier") {
		return
	}
	if c.op == record.Update && (c.old.fields == nil || !c.old.yes("outlier")) {
		return // censored, or a flag
	}
	room := s.room(r.text("room_id"))
	kind, state := r.text("type"), !r.null("state_key")
	if c.op == record.Delete {
		switch {
		case position < 0 && room.Fetched > 0:
			room.Fetched--
		case s.firstEvent == 0 || position < s.firstEvent:
			room.Back++
		case kind != "m.room.member":
			if n := class(&room.Events, kind, state); *n > 0 {
				*n--
			}
		}
		return
	}
	if position < 0 {
		room.Fetched++
		return
	}
	if s.firstEvent == 0 || position < s.firstEvent {
		s.firstEvent = position
	}
	sender := r.text("sender")
	room.Held = room.Held || s.foreign(sender)
	s.user(sender).Sent++
	if kind == "m.room.member" && state {
		if len(s.members) > maxTold {
			clear(s.members)
		}
		s.members[r.text("event_id")] = room.Room
		return
	}
	*class(&room.Events, kind, state)++
}

// class gives the count that an event belongs to.
func class(e *Events, kind string, state bool) *int {
	switch {
	case kind == "m.room.redaction":
		return &e.Redactions
	case state:
		return &e.State
	case kind == "m.room.message" || kind == "m.room.encrypted" || kind == "m.sticker":
		return &e.Messages
	case kind == "m.reaction":
		return &e.Reactions
	}
	return &e.Other
}

func (s *Since) membership(c change) {
	r := c.now()
	count := func(e *Events) *int {
		switch r.text("membership") {
		case "join":
			return &e.Joins
		case "leave", "ban":
			return &e.Leaves
		}
		return &e.Invites
	}
	id := r.text("event_id")
	switch c.op {
	case record.Insert:
		room, ok := s.members[id]
		if !ok {
			return
		}
		delete(s.members, id)
		e := s.room(room)
		*count(&e.Events)++
		e.Held = e.Held || r.text("membership") == "join" && s.foreign(r.text("user_id"))
	case record.Delete:
		position, ok := r.number("event_stream_ordering")
		if e := s.room(r.text("room_id")); ok && s.firstEvent > 0 && position >= s.firstEvent && *count(&e.Events) > 0 {
			*count(&e.Events)--
		}
	}
}

func (s *Since) roomRow(c change) {
	room := s.room(c.now().text("room_id"))
	switch {
	case c.op == record.Insert && !room.Purged:
		room.Created = true
	case c.op == record.Delete:
		room.Purged = true
	}
}

func (s *Since) alias(c change) {
	r := c.now()
	room, name := s.room(r.text("room_id")), r.text("room_alias")
	switch {
	case c.op == record.Insert && len(room.Aliases) < 20:
		room.Aliases = append(room.Aliases, name)
	case c.op == record.Delete:
		room.Aliases = slices.DeleteFunc(room.Aliases, func(a string) bool { return a == name })
	}
}

func (s *Since) userRow(c change) {
	u := s.user(c.now().text("name"))
	switch c.op {
	case record.Insert:
		u.Registered = true
	case record.Update:
		switch {
		case c.changed("deactivated"):
			u.Deactivated = c.new.yes("deactivated")
		case c.changed("password_hash"):
			u.Password = true
		}
		u.Restricted = u.Restricted || c.changed("locked") || c.changed("suspended") || c.changed("shadow_banned")
		u.Admin = u.Admin || c.changed("admin")
	}
}

func (s *Since) erased(c change) {
	s.user(c.now().text("user_id")).Erased = c.op != record.Delete
}

// device leaves out hidden ones: they are cross-signing keys, not devices.
func (s *Since) device(c change) {
	r := c.now()
	if r.yes("hidden") || c.op == record.Update {
		return
	}
	u, key := s.user(r.text("user_id")), r.text("user_id")+"\t"+r.text("device_id")
	switch {
	case c.op == record.Insert:
		u.LoggedIn++
		if len(s.devices) < maxTold {
			s.devices[key] = true
		}
	case s.devices[key]:
		delete(s.devices, key)
		u.LoggedIn--
	default:
		u.LoggedOut++
	}
}

func (s *Since) accountData(c change) { s.user(c.now().text("user_id")).AccountData++ }

func (s *Since) profile(c change) { s.user(c.now().text("full_user_id")).Profile++ }

func (s *Since) threePID(c change) { s.user(c.now().text("user_id")).ThreePIDs++ }

// media leaves out previews of links.
func (s *Since) media(c change) {
	r := c.now()
	if !r.null("url_cache") {
		return
	}
	u := s.user(r.text("user_id"))
	size, _ := r.number("media_length")
	switch {
	case c.op == record.Insert:
		u.Media++
		u.MediaBytes += size
	case c.op == record.Delete:
		u.MediaDeleted++
	case c.changed("media_length"): // reserved first, uploaded now (MSC2246)
		u.MediaBytes += size
	}
}

func (s *Since) backupKey(c change) { s.user(c.now().text("user_id")).BackupKeys++ }

func (s *Since) backup(c change) {
	if c.op != record.Update || c.changed("deleted") {
		s.user(c.now().text("user_id")).Backups++
	}
}

func (s *Since) crossSigning(c change) {
	if c.op == record.Insert {
		s.user(c.now().text("user_id")).Identity = true
	}
}

// toDevice: a message that went away had been fetched by its device, or the device
// was logged out.
func (s *Since) toDevice(c change) {
	r := c.now()
	position, _ := r.number("stream_id")
	u := s.user(r.text("user_id"))
	switch {
	case c.op == record.Insert:
		if s.firstInbox == 0 || position < s.firstInbox {
			s.firstInbox = position
		}
		u.ToDevice++
	case c.op == record.Delete && (s.firstInbox == 0 || position < s.firstInbox):
		u.ToDeviceAgain++
	case c.op == record.Delete && u.ToDevice > 0:
		u.ToDevice--
	}
}

// delayedEvent leaves out what came and went: the restored database has never heard of
// it, and each call that somebody joins makes one.
func (s *Since) delayedEvent(c change) {
	id := c.now().text("delay_id")
	switch {
	case c.op == record.Insert && len(s.delays) < maxGone:
		s.delays[id] = true
	case c.op == record.Delete && s.delays[id]:
		delete(s.delays, id)
	case c.op == record.Delete && len(s.gone) < maxGone:
		s.gone = append(s.gone, id)
	}
}
