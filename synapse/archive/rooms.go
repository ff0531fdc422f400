package archive

import (
	"bytes"
	"iter"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// room is what is kept of a room in memory.
type room struct {
	version string // "" as long as nothing says it
	rules   event.Version
	known   bool // there are rules for its version
	shared  bool // somebody of another server is in it
	// stateful: its current state is known. Synapse forgets it when the last of its users
	// leaves; then a room is called shared if anybody else ever sent something to it.
	stateful bool
	events   int64
}

// What a room's details are put together from, in this order.
const (
	factRoom byte = iota
	factAlias
	factForward
	factBackward
	factState
	factMember
	factForgotten
	factBlocked
	factPartial
	factPartialServer
	factRetention
)

// prepareRooms gathers what is known of each room by itself.
func (b *builder) prepareRooms(c *mspf.Contents) error {
	b.rooms = map[string]*room{}
	b.facts = b.sorter(8)
	for _, gather := range []func(fact) error{b.roomRows, b.aliases, b.extremities, b.currentState, b.members, b.blocked} {
		if err := gather(func(roomID string, kind byte, f fields) error { return b.facts.Add(append(byLength(roomID), kind), f) }); err != nil {
			return err
		}
	}
	return nil
}

// finishRooms comes when the events have said which rooms and versions there are.
func (b *builder) finishRooms(c *mspf.Contents) (err error) {
	for id, r := range b.rooms {
		if r.version == "" {
			b.report.add(max(r.events, 1), mspf.Loss{Item: "m.rooms", Key: id, Code: "room_version_unknown", State: mspf.Unsupported, Reason: "nothing says which version the room has, so its events cannot be read"})
		}
	}
	b.details, err = b.facts.Sorted()
	c.Rooms, c.Details = b.roomItems, b.detailItems
	return err
}

// fact keeps something of a room.
type fact func(roomID string, kind byte, f fields) error

func (b *builder) room(id string) *room {
	r := b.rooms[id]
	if r == nil {
		r = &room{}
		b.rooms[id] = r
	}
	return r
}

func (r *room) is(version string) {
	r.version = version
	r.rules, r.known = event.Lookup(version)
}

func (b *builder) roomRows(add fact) error {
	for r, err := range b.rows("rooms", "room_id", "is_public", "creator", "room_version") {
		if err != nil {
			return err
		}
		id := r.text(0)
		if x := b.room(id); !r.null(3) {
			x.is(r.text(3))
		}
		if err := add(id, factRoom, fields{}.bool(r.bool(1)).text(r.text(2))); err != nil {
			return err
		}
	}
	return nil
}

// aliases puts an alias and its servers together. Of the directory only: what events
// say of aliases is worth nothing (MSC2432).
func (b *builder) aliases(add fact) error {
	s := b.sorter(16)
	for r, err := range b.rows("room_aliases", "room_alias", "room_id", "creator") {
		if err != nil {
			return err
		}
		if err := s.Add(append(key(r.text(0)), 0), fields{}.text(r.text(1)).text(r.text(2))); err != nil {
			return err
		}
	}
	for r, err := range b.rows("room_alias_servers", "room_alias", "server") {
		if err != nil {
			return err
		}
		if err := s.Add(append(key(r.text(0)), 1), fields{}.text(r.text(1))); err != nil {
			return err
		}
	}
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	defer sorted.Close()
	for g, err := range b.groups(sorted, firstText) {
		if err != nil {
			return err
		}
		alias, roomID := string(g.key[:len(g.key)-1]), ""
		var f fields
		for p, err := range g.pairs {
			if err != nil {
				return err
			}
			v := reader(p.Value)
			if p.Key[len(p.Key)-1] == 0 {
				roomID = v.text()
				f = fields{}.text(alias).text(v.text())
				continue
			}
			f = f.text(v.text())
		}
		if roomID == "" {
			continue // servers of no alias
		}
		if err := add(roomID, factAlias, f); err != nil {
			return err
		}
	}
	return nil
}

// firstText is where the first text of a [key] ends.
func firstText(k []byte) int { return bytes.IndexByte(k, 0) + 1 }

func (b *builder) extremities(add fact) error {
	for table, kind := range map[string]byte{"event_forward_extremities": factForward, "event_backward_extremities": factBackward} {
		for r, err := range b.rows(table, "room_id", "event_id") {
			if err != nil {
				return err
			}
			if err := add(r.text(0), kind, fields{}.text(r.text(1))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) currentState(add fact) error {
	for r, err := range b.rows("current_state_events", "room_id", "type", "state_key", "event_id", "membership") {
		if err != nil {
			return err
		}
		id := r.text(0)
		x := b.room(id)
		x.stateful = true
		if r.text(4) == "join" && !b.local(r.text(2)) {
			x.shared = true
		}
		if err := add(id, factState, fields{}.text(r.text(1)).text(r.text(2)).text(r.text(3))); err != nil {
			return err
		}
	}
	return nil
}

// local says whether a user is of this server.
func (b *builder) local(user string) bool { return domain(user) == b.server }

// domain gives the server of a user.
func domain(user string) string {
	_, server, _ := strings.Cut(user, ":")
	return server
}

// members are those of this server. A room is forgotten when every membership that
// the user ever had there is (Synapse, databases/main/roommember.py, did_forget).
func (b *builder) members(add fact) error {
	for r, err := range b.rows("local_current_membership", "room_id", "user_id", "membership") {
		if err != nil {
			return err
		}
		if err := add(r.text(0), factMember, fields{}.text(r.text(1)).text(r.text(2))); err != nil {
			return err
		}
	}
	for r, err := range b.rows("room_memberships", "room_id", "user_id", "forgotten") {
		if err != nil {
			return err
		}
		if user := r.text(1); b.local(user) {
			if err := add(r.text(0), factForgotten, fields{}.text(user).bool(r.bool(2))); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *builder) blocked(add fact) error {
	for _, t := range []struct {
		name   string
		kind   byte
		column string
	}{{"blocked_rooms", factBlocked, ""}, {"partial_state_rooms", factPartial, ""}, {"partial_state_rooms_servers", factPartialServer, "server_name"}} {
		for r, err := range b.rows(t.name, "room_id", t.column) {
			if err != nil {
				return err
			}
			b.room(r.text(0)).shared = b.room(r.text(0)).shared || t.kind != factBlocked
			if err := add(r.text(0), t.kind, fields{}.text(r.text(1))); err != nil {
				return err
			}
		}
	}
	for r, err := range b.rows("room_retention", "room_id", "min_lifetime", "max_lifetime") {
		if err != nil {
			return err
		}
		f := fields{}.bool(r.null(1)).int(r.int(1)).bool(r.null(2)).int(r.int(2))
		if err := add(r.text(0), factRetention, f); err != nil {
			return err
		}
	}
	return nil
}

// roomItems are the rooms of m.rooms: those whose version is known.
func (b *builder) roomItems(yield func(mspf.Room, error) bool) {
	for d, err := range b.eachRoom() {
		if err == nil && b.rooms[d.ID].version == "" {
			continue
		}
		r := mspf.Room{ID: d.ID, Aliases: []string{}}
		if err == nil {
			r.Version = b.rooms[d.ID].version
		}
		for alias := range d.Aliases {
			if domain(alias) == b.server {
				r.Aliases = append(r.Aliases, alias)
			}
		}
		slices.Sort(r.Aliases)
		if !yield(r, err) || err != nil {
			return
		}
	}
}

func (b *builder) detailItems(yield func(mspf.RoomDetails, error) bool) {
	for d, err := range b.eachRoom() {
		if err == nil && b.rooms[d.ID].version == "" {
			continue
		}
		if !yield(d, err) || err != nil {
			return
		}
	}
}

// eachRoom puts the facts of each room together, in the order of m.rooms.
func (b *builder) eachRoom() iter.Seq2[mspf.RoomDetails, error] {
	return func(yield func(mspf.RoomDetails, error) bool) {
		for g, err := range b.groups(b.details, func(k []byte) int { return len(k) - 1 }) {
			if err != nil {
				yield(mspf.RoomDetails{}, err)
				return
			}
			d := mspf.RoomDetails{ID: string(g.key[4:]), ForwardExtremities: []string{}, BackwardExtremities: []string{}, State: []mspf.StateEntry{}}
			remembered := map[string]bool{}
			for p, err := range g.pairs {
				if err != nil {
					yield(d, err)
					return
				}
				addFact(&d, p.Key[len(p.Key)-1], reader(p.Value), remembered)
			}
			for user, m := range d.Members {
				if kept, met := remembered[user]; met && !kept {
					m.Forgotten = true
					d.Members[user] = m
				}
			}
			r := b.room(d.ID)
			d.LocalOnly = !r.shared
			if !yield(d, nil) {
				return
			}
		}
	}
}

func addFact(d *mspf.RoomDetails, kind byte, v reader, remembered map[string]bool) {
	switch kind {
	case factRoom:
		d.Public, d.Creator = v.bool(), v.text()
	case factAlias:
		name := v.text()
		a := mspf.Alias{Creator: v.text()}
		for len(v) > 0 {
			a.Servers = append(a.Servers, v.text())
		}
		slices.Sort(a.Servers)
		if d.Aliases == nil {
			d.Aliases = map[string]mspf.Alias{}
		}
		d.Aliases[name] = a
	case factForward:
		d.ForwardExtremities = append(d.ForwardExtremities, v.text())
	case factBackward:
		d.BackwardExtremities = append(d.BackwardExtremities, v.text())
	case factState:
		d.State = append(d.State, mspf.StateEntry{Type: v.text(), Key: v.text(), EventID: v.text()})
	case factMember:
		if d.Members == nil {
			d.Members = map[string]mspf.Membership{}
		}
		d.Members[v.text()] = mspf.Membership{Membership: v.text()}
	case factForgotten:
		user := v.text()
		remembered[user] = remembered[user] || !v.bool()
	case factBlocked:
		d.Blocked = true
	case factPartial:
		d.PartialState = true
	case factPartialServer:
		d.PartialServers = append(d.PartialServers, v.text())
	case factRetention:
		d.Retention = retention(v)
	}
}

// retention is the content of the policy that is in force: lifetimes in milliseconds.
func retention(v reader) any {
	content := map[string]any{}
	for _, name := range []string{"min_lifetime", "max_lifetime"} {
		none, n := v.bool(), v.int()
		if !none {
			content[name] = n
		}
	}
	return content
}
