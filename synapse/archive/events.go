package archive

import (
	"bytes"
	"errors"
	"runtime"

	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// stored is one event as the database has it.
type stored struct {
	id, room, kind, sender string
	json                   []byte
	hasRow                 bool // in table events
	stream, received       int64
	outlier                bool
	rejected               string
	txn, device            string
	meta                   map[string]any // internal_metadata
	facts                  *room
	redactions             []redaction
}

// What an event is put together from, in this order.
const (
	partText byte = iota
	partRow
	partRejected
	partTxn
	partRedaction
)

// prepareEvents puts each event together from its tables, checks that it is what its id
// says, and sorts it to its place in its room.
func (b *builder) prepareEvents(c *mspf.Contents) error {
	c.Archive.Redaction = "applied"
	if b.o.AsStored {
		c.Archive.Redaction = "none"
	}
	if err := b.versions(); err != nil {
		return err
	}
	joined, bans, err := b.joinEvents()
	if err != nil {
		return err
	}
	placed, refs := b.sorter(3), b.sorter(6)
	if err := b.placeEvents(joined, bans, placed, refs); err != nil {
		return err
	}
	if err := joined.Close(); err != nil {
		return err
	}
	if b.events, err = placed.Sorted(); err != nil {
		return err
	}
	if b.refs, err = refs.Sorted(); err != nil {
		return err
	}
	ordered, err := b.lookAtOrder()
	if err != nil {
		return err
	}
	if ordered {
		c.Archive.EventOrder = "dag"
	}
	c.Events = b.eventItems
	return nil
}

// joinEvents sorts everything that is known of an event by its id.
func (b *builder) joinEvents() (*spill.Sorted, map[[2]string][]ban, error) {
	s := b.sorter(3)
	put := func(id string, kind byte, f fields) error { return s.Add(append(key(id), kind), f) }
	for r, err := range b.rows("event_json", "event_id", "room_id", "internal_metadata", "json") {
		if err != nil {
			return nil, nil, err
		}
		if err := put(r.text(0), partText, fields{}.text(r.text(1)).bytes(r.bytes(2)).bytes(r.bytes(3))); err != nil {
			return nil, nil, err
		}
	}
	for r, err := range b.rows("events", "event_id", "type", "sender", "stream_ordering", "received_ts", "outlier", "rejection_reason") {
		if err != nil {
			return nil, nil, err
		}
		f := fields{}.text(r.text(1)).text(r.text(2)).int(r.int(3)).int(r.int(4)).bool(r.bool(5)).text(r.text(6))
		if err := put(r.text(0), partRow, f); err != nil {
			return nil, nil, err
		}
	}
	for r, err := range b.rows("rejections", "event_id", "reason") {
		if err != nil {
			return nil, nil, err
		}
		if err := put(r.text(0), partRejected, fields{}.text(r.text(1))); err != nil {
			return nil, nil, err
		}
	}
	for r, err := range b.rows("event_txn_id_device_id", "event_id", "txn_id", "device_id") {
		if err != nil {
			return nil, nil, err
		}
		if err := put(r.text(0), partTxn, fields{}.text(r.text(1)).text(r.text(2))); err != nil {
			return nil, nil, err
		}
	}
	bans, err := b.redactions(func(target string, x redaction) error { return put(target, partRedaction, x.encode()) })
	if err != nil {
		return nil, nil, err
	}
	sorted, err := s.Sorted()
	return sorted, bans, err
}

// placeEvents reads one event after the other, and has several checked at once.
func (b *builder) placeEvents(joined *spill.Sorted, bans map[[2]string][]ban, placed, refs *spill.Sorter) error {
	jobs := make(chan *stored, 64)
	done := make(chan *placedEvent, 64)
	var work errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			signatures := b.batches()
			for e := range jobs {
				done <- b.place(e, bans, signatures)
			}
			for _, batch := range signatures {
				batch.Flush()
			}
			return nil
		})
	}
	var all errgroup.Group
	all.Go(func() error {
		defer close(done)
		defer work.Wait()
		defer close(jobs)
		return b.eachStored(joined, func(e *stored) { jobs <- e })
	})
	var failed error
	for p := range done {
		if p != nil && failed == nil {
			failed = p.add(placed, refs)
		}
	}
	return errors.Join(all.Wait(), failed)
}

// eachStored gives each event that has a text.
func (b *builder) eachStored(joined *spill.Sorted, each func(*stored)) error {
	for g, err := range b.groups(joined, firstText) {
		if err != nil {
			return err
		}
		e := &stored{id: string(g.key[:len(g.key)-1])}
		for p, err := range g.pairs {
			if err != nil {
				return err
			}
			e.take(p.Key[len(p.Key)-1], reader(p.Value))
		}
		if e.json == nil {
			if e.hasRow {
				b.report.add(1, mspf.Loss{Item: "m.events", Code: "event_without_text", State: mspf.Absent, Reason: "the server itself has lost the text of these events"})
			}
			continue
		}
		e.facts = b.rooms[e.room]
		each(e)
	}
	return nil
}

// versions makes every room known that has an event, and looks for its version in the
// create event where table rooms does not have it.
func (b *builder) versions() error {
	for r, err := range b.rows("event_json", "room_id", "json") {
		if err != nil {
			return err
		}
		x := b.rooms[string(r.fields[0])] // ids of rooms seldom have anything to unescape
		if x == nil {
			id := r.text(0)
			if x = b.rooms[id]; x == nil {
				x = b.room(id)
				if err := b.facts.Add(append(byLength(id), factRoom), fields{}.bool(false).text("")); err != nil {
					return err
				}
			}
		}
		x.events++
		if x.version == "" && bytes.Contains(r.fields[1], []byte(`"m.room.create"`)) {
			if v := createdVersion(r.bytes(1)); v != "" {
				x.is(v)
			}
		}
	}
	return nil
}

// createdVersion is what a create event says of its room's version.
func createdVersion(text []byte) string {
	tree, _, err := event.Parse(text)
	if kind, _ := tree["type"].(string); err != nil || kind != "m.room.create" {
		return ""
	}
	content, _ := tree["content"].(map[string]any)
	if v, ok := content["room_version"].(string); ok {
		return v
	}
	return "1"
}

func (e *stored) take(part byte, v reader) {
	switch part {
	case partText:
		e.room = v.text()
		e.meta, _, _ = event.Parse(v.bytes())
		e.json = append([]byte{}, v.bytes()...)
	case partRow:
		e.hasRow, e.kind, e.sender, e.stream, e.received, e.outlier = true, v.text(), v.text(), v.int(), v.int(), v.bool()
		e.rejected = v.text()
	case partRejected:
		e.rejected = v.text()
	case partTxn:
		e.txn, e.device = v.text(), v.text()
	case partRedaction:
		e.redactions = append(e.redactions, decodeRedaction(v))
	}
}
