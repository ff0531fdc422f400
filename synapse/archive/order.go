package archive

import (
	"container/heap"
	"encoding/binary"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// mostOrdered is how many events of one room are put in order: what is kept of each in
// memory is some 100 bytes. Of a larger room the order is that of depth, and unproven.
const mostOrdered = 1_000_000

// gap is an event that names a previous event which is not in the archive.
type gap struct {
	room, id string
	// Of a part of the state itself: what it is, and what it replaced, as far as Synapse
	// noted that.
	state          bool
	kind, stateKey string
	replaced       string
	group          int64
}

// roomGraph is what the events of one room name, in the order in which they are sorted.
type roomGraph struct {
	own   []uint64
	loose []bool
	first []int32 // where the references of each begin
	prevs []int32 // how many of them are previous events
	refs  []uint64
	at    map[uint64]int32
}

func (g *roomGraph) of(i int) []uint64 {
	if i+1 < len(g.first) {
		return g.refs[g.first[i]:g.first[i+1]]
	}
	return g.refs[g.first[i]:]
}

func (g *roomGraph) add(v reader) {
	g.loose = append(g.loose, v.bool())
	(&gap{}).take(&v)
	g.at[binary.BigEndian.Uint64(v)] = int32(len(g.own))
	g.own = append(g.own, binary.BigEndian.Uint64(v))
	v = v[8:]
	g.first, g.prevs = append(g.first, int32(len(g.refs))), append(g.prevs, int32(v.int()))
	for ; len(v) >= 8; v = v[8:] {
		g.refs = append(g.refs, binary.BigEndian.Uint64(v))
	}
}

// take reads what [builder.references] wrote of the state.
func (g *gap) take(v *reader) {
	if g.state = v.bool(); g.state {
		g.kind, g.stateKey, g.replaced = v.text(), v.text(), v.text()
	}
}

// lookAtOrder finds the rooms in which depth is not enough of an order, and the events
// before which something is missing. It says whether every room can be written so that
// each event comes after those that it names.
func (b *builder) lookAtOrder() (ordered bool, err error) {
	ordered = true
	for g, err := range b.groups(b.refs, roomOf) {
		if err != nil {
			return false, err
		}
		id := string(g.key[5:])
		if b.rooms[id].events > mostOrdered {
			b.report.add(1, mspf.Loss{Item: "m.events", Key: id, Code: "event_order", State: mspf.Lossy, Reason: "a room of more than a million events is ordered by depth, and states at its gaps are left out"})
			ordered = false
			continue
		}
		graph, gaps, err := b.graph(g, id)
		if err != nil {
			return false, err
		}
		b.gaps = append(b.gaps, gaps...)
		if !graph.sorted() {
			b.unruly[id] = true
			if _, cycles := graph.order(); cycles > 0 {
				b.report.add(int64(cycles), mspf.Loss{Item: "m.events", Key: id, Code: "event_cycle", State: mspf.Lossy, Reason: "events name each other in a circle; they are ordered by depth"})
				ordered = false
			}
		}
	}
	return ordered, nil
}

func (b *builder) graph(g group, id string) (*roomGraph, []gap, error) {
	graph := &roomGraph{at: make(map[uint64]int32, b.rooms[id].events)}
	for p, err := range g.pairs {
		if err != nil {
			return nil, nil, err
		}
		graph.add(reader(p.Value))
	}
	wanted := graph.afterGaps()
	if len(wanted) == 0 {
		return graph, nil, nil
	}
	var missing []gap
	i := int32(-1)
	for p, err := range b.refs.Prefix(g.key) {
		if err != nil {
			return nil, nil, err
		}
		if i++; len(wanted) > 0 && wanted[0] == i {
			wanted = wanted[1:]
			v, m := reader(p.Value), gap{room: id, id: string(p.Key[len(g.key)+17:])}
			_ = v.bool()
			m.take(&v)
			missing = append(missing, m)
		}
	}
	return graph, missing, nil
}

// afterGaps gives the events that name a previous event which is not here.
func (g *roomGraph) afterGaps() (at []int32) {
	for i := range g.own {
		if g.loose[i] {
			continue
		}
		for _, ref := range g.of(i)[:g.prevs[i]] {
			if _, here := g.at[ref]; !here {
				at = append(at, int32(i))
				break
			}
		}
	}
	return at
}

// sorted says whether each event comes after those that it names.
func (g *roomGraph) sorted() bool {
	for i := range g.own {
		for _, ref := range g.of(i) {
			if at, here := g.at[ref]; here && int(at) > i {
				return false
			}
		}
	}
	return true
}

// order gives each event its place, so that it comes after those that it names, the
// earlier ones of the old order first; and how many circles had to be broken.
func (g *roomGraph) order() (rank []int32, cycles int) {
	n := len(g.own)
	rank, waits := make([]int32, n), make([]int32, n)
	after := make([][]int32, n)
	for i := range n {
		for _, ref := range g.of(i) {
			if at, here := g.at[ref]; here && int(at) != i {
				after[at] = append(after[at], int32(i))
				waits[i]++
			}
		}
	}
	var ready indexes
	for i := range n {
		if waits[i] == 0 {
			ready = append(ready, int32(i))
		}
	}
	heap.Init(&ready)
	given, broken := make([]bool, n), 0
	for next := int32(0); int(next) < n; next++ {
		if len(ready) == 0 {
			for broken < n && given[broken] {
				broken++
			}
			cycles++
			waits[broken] = 0
			ready = append(ready, int32(broken))
		}
		i := heap.Pop(&ready).(int32)
		rank[i], given[i] = next, true
		for _, j := range after[i] {
			if waits[j]--; waits[j] == 0 && !given[j] {
				heap.Push(&ready, j)
			}
		}
	}
	return rank, cycles
}

// indexes is a heap.
type indexes []int32

func (x indexes) Len() int           { return len(x) }
func (x indexes) Less(i, j int) bool { return x[i] < x[j] }
func (x indexes) Swap(i, j int)      { x[i], x[j] = x[j], x[i] }
func (x *indexes) Push(v any)        { *x = append(*x, v.(int32)) }
func (x *indexes) Pop() any {
	old := *x
	v := old[len(old)-1]
	*x = old[:len(old)-1]
	return v
}

// eventItems gives the events of all rooms.
func (b *builder) eventItems(yield func(mspf.Event, error) bool) {
	for g, err := range b.groups(b.events, roomOf) {
		if err != nil {
			yield(mspf.Event{}, err)
			return
		}
		id := string(g.key[5:])
		if b.rooms[id].version == "" {
			continue
		}
		pairs := g.pairs
		if b.unruly[id] {
			s, err := b.reorder(g)
			if err != nil {
				yield(mspf.Event{}, err)
				return
			}
			pairs = s.All()
		}
		for p, err := range pairs {
			var e mspf.Event
			if err == nil {
				if e = decodeEvent(reader(p.Value)); len(e.CBOR)+len(e.JSON) == 0 {
					continue // its redaction failed, and the report says so
				}
			}
			e.Room = id
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// reorder sorts the events of one room by what they name.
func (b *builder) reorder(g group) (*spill.Sorted, error) {
	graph := &roomGraph{at: map[uint64]int32{}}
	for p, err := range b.refs.Prefix(g.key) {
		if err != nil {
			return nil, err
		}
		graph.add(reader(p.Value))
	}
	rank, _ := graph.order()
	s := b.sorter(6)
	i := 0
	for p, err := range g.pairs {
		if err != nil {
			return nil, err
		}
		if err := s.Add(binary.BigEndian.AppendUint32(nil, uint32(rank[i])), p.Value); err != nil {
			return nil, err
		}
		i++
	}
	return s.Sorted()
}
