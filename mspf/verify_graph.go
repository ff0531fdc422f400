package mspf

import "maps"

// graph follows the events of rooms from file to file, with eight bytes for an id. A
// room is forgotten when a file comes that does not go on with it.
type graph struct {
	file     string // the file of m.events that is being read
	open     map[string]*roomGraph
	closed   map[uint64]bool
	declared map[uint64]bool // room and event that a gap is declared for: the missing one, or the one behind the gap
}

type roomGraph struct {
	seen    map[uint64]bool
	missing map[uint64]reference // named so far and not seen
	fresh   bool                 // the file that is being read has events of it
}

// reference is by whom a missing event is named.
type reference struct {
	id      string // the event that names it
	hash    uint64
	prev    bool // as a previous event only
	excused bool // by an event whose place in the room is not known
}

func newGraph() *graph {
	return &graph{open: map[string]*roomGraph{}, closed: map[uint64]bool{}, declared: map[uint64]bool{}}
}

// gaps keeps what im.lifeboat.rooms and im.lifeboat.room_state declare.
func (v *verifier) gaps(e Element) {
	if e.Item == itemState {
		var s Snapshot
		if e.Decode(&s) == nil {
			v.graph.declared[v.hash(e.Key, s.EventID)] = true
		}
		return
	}
	var d RoomDetails
	if e.Decode(&d) == nil {
		for _, id := range d.BackwardExtremities {
			v.graph.declared[v.hash(e.Key, id)] = true
		}
	}
}

// add puts an event into its room. Loose events (outliers, rejected ones) may name
// events that nobody has.
func (g *graph) add(v *verifier, p *pendingEvent, loose bool) {
	room := g.open[p.room]
	if room == nil {
		room = &roomGraph{seen: map[uint64]bool{}, missing: map[uint64]reference{}}
		g.open[p.room] = room
		if g.closed[v.hash(p.room, "")] {
			v.report(CodeSplit, itemEvents, "a room goes on after a file without it", p.room)
		}
	}
	room.fresh = true
	h := v.hash(p.room, p.id)
	if room.seen[h] && p.id != "" {
		v.report(CodeDuplicate, itemEvents, "the same event twice in a room", p.room+" "+p.id)
	}
	room.seen[h] = true
	if named, ok := room.missing[h]; ok {
		delete(room.missing, h)
		if v.archive != nil && v.archive.EventOrder == "dag" {
			v.report(CodeOrder, itemEvents, "an event comes before one that it names", p.room+" "+named.id+" before "+p.id)
		}
	}
	name := func(refs []uint64, prev bool) {
		for _, ref := range refs {
			if room.seen[ref] {
				continue
			}
			r := reference{id: p.id, hash: h, prev: prev, excused: loose}
			if old, ok := room.missing[ref]; ok && !old.excused && (!old.prev || r.excused) {
				continue // the stricter reference stays
			}
			room.missing[ref] = r
		}
	}
	name(p.prev, true)
	name(p.auth, false)
}

// fileEnds closes the rooms that the file did not go on with.
func (g *graph) fileEnds(v *verifier) {
	for id, room := range g.open {
		if !room.fresh {
			g.close(v, id, room)
		}
		room.fresh = false
	}
}

func (g *graph) close(v *verifier, id string, room *roomGraph) {
	for ref, by := range room.missing {
		switch {
		case by.excused:
		case by.prev && (g.declared[ref] || g.declared[by.hash]):
			v.report(CodeGapKnown, itemEvents, "history that the server does not have, declared as such", id+" before "+by.id)
		case by.prev:
			v.report(CodeGap, itemEvents, "an event that another one names is missing, and no gap is declared", id+" before "+by.id)
		default:
			v.report(CodeGap, itemEvents, "an event that authorizes another one is missing", id+" for "+by.id)
		}
	}
	g.closed[v.hash(id, "")] = true
	delete(g.open, id)
}

func (g *graph) end(v *verifier) {
	for id, room := range maps.Clone(g.open) {
		g.close(v, id, room)
	}
}
