package archive

import (
	"cmp"
	"slices"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// groupState resolves groups of states: a group is what it holds over the group that
// it builds on (Synapse, databases/state/store.py).
type groupState struct {
	edges, entries *spill.Sorted
}

// prepareStates finds the state before each event that follows a gap.
func (b *builder) prepareStates(c *mspf.Contents) error {
	for _, table := range []string{"event_to_state_groups", "state_groups", "state_group_edges", "state_groups_state"} {
		b.read[table] = true // read only where there is a gap
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
		for _, at := range b.gaps {
			if at.group == 0 || b.rooms[at.room].version == "" {
				continue
			}
			state, err := g.before(at)
			if !yield(mspf.RoomState{Room: at.room, Event: at.id, State: state}, err) || err != nil {
				return
			}
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

func (b *builder) groupStates() (*groupState, error) {
	edges, entries := b.sorter(8), b.sorter(4)
	for r, err := range b.rows("state_group_edges", "state_group", "prev_state_group") {
		if err != nil {
			return nil, err
		}
		if err := edges.Add(appendInt(nil, r.int(0)), appendInt(nil, r.int(1))); err != nil {
			return nil, err
		}
	}
	for r, err := range b.rows("state_groups_state", "state_group", "type", "state_key", "event_id") {
		if err != nil {
			return nil, err
		}
		if err := entries.Add(appendInt(nil, r.int(0)), fields{}.text(r.text(1)).text(r.text(2)).text(r.text(3))); err != nil {
			return nil, err
		}
	}
	var g groupState
	var err error
	if g.edges, err = edges.Sorted(); err != nil {
		return nil, err
	}
	g.entries, err = entries.Sorted()
	return &g, err
}

// before gives the state before an event. The group of an event that is itself part of
// the state has it already: then what it replaced is looked for further down.
func (g *groupState) before(at gap) ([]mspf.StateEntry, error) {
	have := map[[2]string]string{}
	for group, met := at.group, map[int64]bool{}; group != 0 && !met[group]; {
		met[group] = true
		k := appendInt(nil, group)
		for p, err := range g.entries.Prefix(k) {
			if err != nil {
				return nil, err
			}
			v := reader(p.Value)
			name, id := [2]string{v.text(), v.text()}, v.text()
			if _, newer := have[name]; !newer && !(at.state && id == at.id) {
				have[name] = id
			}
		}
		group = 0
		for p, err := range g.edges.Prefix(k) {
			if err != nil {
				return nil, err
			}
			group = keyInt(p.Value)
		}
	}
	state := make([]mspf.StateEntry, 0, len(have))
	for name, id := range have {
		state = append(state, mspf.StateEntry{Type: name[0], Key: name[1], EventID: id})
	}
	slices.SortFunc(state, func(a, b mspf.StateEntry) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Key, b.Key)) })
	return state, nil
}
