package archive

import (
	"cmp"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// groupState resolves groups of states: a group is what it holds over the group that
// it builds on (Synapse, databases/state/store.py). Only groups on the way from a gap are
// kept: a few words of each, and what they hold sorted by room.
type groupState struct {
	below   map[int64]int64 // the group that each builds on; 0: none
	room    map[int64]int32 // of each group the first gap of its room
	entries *spill.Sorted   // by room and group
}

// prepareStates finds the state before each event that follows a gap.
func (b *builder) prepareStates(c *mspf.Contents) error {
	// Read only where there is a gap; state_groups not even then: it says which room and
	// event a group is of, and that is what a gap begins with.
	for _, table := range []string{"event_to_state_groups", "state_groups", "state_group_edges", "state_groups_state"} {
		b.read[table] = true
	}
	c.States = func(func(mspf.RoomState, error) bool) {}
	if len(b.gaps) == 0 {
		return nil
	}
	if err := b.groupsOfGaps(); err != nil {
		return err
	}
	g, err := b.groupStates()
	if err != nil {
		return err
	}
	c.States = func(yield func(mspf.RoomState, error) bool) {
		err := b.eachState(g, func(s mspf.RoomState) bool { return yield(s, nil) })
		if err != nil {
			yield(mspf.RoomState{}, err)
		}
	}
	return nil
}

// groupsOfGaps finds the group of states of each gap.
func (b *builder) groupsOfGaps() error {
	wanted := make(map[string]int, len(b.gaps))
	for i, g := range b.gaps {
		wanted[g.id] = i
	}
	for r, err := range b.rows("event_to_state_groups", "event_id", "state_group") {
		if err != nil {
			return err
		}
		if i, ok := wanted[r.text(0)]; ok {
			b.gaps[i].group = r.int(1)
		}
	}
	for _, g := range b.gaps {
		if g.group == 0 {
			b.report.add(1, mspf.Loss{Item: mspf.Prefix + "room_state", Key: g.room, Code: "state_unknown", State: mspf.Absent, Reason: "the server does not have the state before some events that follow a gap"})
		}
	}
	return nil
}

// groupStates gathers the groups that lead to a gap, and what they hold.
func (b *builder) groupStates() (*groupState, error) {
	g := &groupState{below: map[int64]int64{}, room: map[int64]int32{}}
	first := int32(0)
	for i, at := range b.gaps {
		if at.room != b.gaps[first].room {
			first = int32(i)
		}
		if at.group != 0 {
			g.below[at.group], g.room[at.group] = 0, first
		}
	}
	if err := b.chains(g); err != nil {
		return nil, err
	}
	entries := b.sorter(4)
	for r, err := range b.rows("state_groups_state", "state_group", "type", "state_key", "event_id") {
		if err != nil {
			return nil, err
		}
		group := r.int(0)
		room, ok := g.room[group]
		if !ok {
			continue
		}
		f := fields{}.text(r.text(1)).text(r.text(2)).text(r.text(3))
		if err := entries.Add(appendInt(appendInt(nil, int64(room)), group), f); err != nil {
			return nil, err
		}
	}
	var err error
	g.entries, err = entries.Sorted()
	return g, err
}

// chains follows the groups down. A group mostly builds on one with a lower number, so
// from the highest down one walk is enough; tools that compress states also make
// others, and then it takes some more.
func (b *builder) chains(g *groupState) error {
	s := b.sorter(8)
	for r, err := range b.rows("state_group_edges", "state_group", "prev_state_group") {
		if err != nil {
			return err
		}
		if err := s.Add(appendInt(nil, -r.int(0)), appendInt(nil, r.int(1))); err != nil {
			return err
		}
	}
	edges, err := s.Sorted()
	if err != nil {
		return err
	}
	for more := true; more; {
		more = false
		for p, err := range b.pairs(edges) {
			if err != nil {
				return err
			}
			group, below := -keyInt(p.Key), keyInt(p.Value)
			room, needed := g.room[group]
			if !needed || g.below[group] != 0 {
				continue
			}
			g.below[group], more = below, true
			if _, met := g.room[below]; !met {
				g.below[below], g.room[below] = 0, room
			}
		}
	}
	return edges.Close()
}

// eachState gives the states of all gaps, room by room.
func (b *builder) eachState(g *groupState, yield func(mspf.RoomState) bool) error {
	for first := 0; first < len(b.gaps); {
		end := first
		for end < len(b.gaps) && b.gaps[end].room == b.gaps[first].room {
			end++
		}
		s := b.sorter(6) // those of one room: mostly they fit the memory
		for p, err := range g.entries.Prefix(appendInt(nil, int64(first))) {
			if err != nil {
				return err
			}
			if err := s.Add(p.Key[8:], p.Value); err != nil {
				return err
			}
		}
		entries, err := s.Sorted()
		if err != nil {
			return err
		}
		for _, at := range b.gaps[first:end] {
			if at.group == 0 || b.rooms[at.room].version == "" {
				continue
			}
			state, err := g.before(at, entries)
			if err != nil {
				return fmt.Errorf("state before %s: %w", at.id, err)
			}
			if !yield(mspf.RoomState{Room: at.room, Event: at.id, State: state}) {
				return entries.Close()
			}
		}
		if err := entries.Close(); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// before gives the state before an event. The group of an event that is itself part of
// the state has it already: then what it replaced is further down, or, where a group
// holds all of the state, it is what Synapse noted.
func (g *groupState) before(at gap, entries *spill.Sorted) ([]mspf.StateEntry, error) {
	have := map[[2]string]string{}
	for group, met := at.group, map[int64]bool{}; group != 0 && !met[group]; group = g.below[group] {
		met[group] = true
		for p, err := range entries.Prefix(appendInt(nil, group)) {
			if err != nil {
				return nil, err
			}
			v := reader(p.Value)
			name, id := [2]string{v.text(), v.text()}, v.text()
			if _, newer := have[name]; !newer && !(at.state && id == at.id) {
				have[name] = id
			}
		}
	}
	if own := [2]string{at.kind, at.stateKey}; at.state && at.replaced != "" && have[own] == "" {
		have[own] = at.replaced
	}
	state := make([]mspf.StateEntry, 0, len(have))
	for name, id := range have {
		state = append(state, mspf.StateEntry{Type: name[0], Key: name[1], EventID: id})
	}
	slices.SortFunc(state, func(a, b mspf.StateEntry) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Key, b.Key)) })
	return state, nil
}
