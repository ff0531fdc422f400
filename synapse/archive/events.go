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
	meta                   map[string]any // internal_metadata, if anything of it matters
	facts                  *room
	redactions             []redaction
	member                 *member // it says so of a user of this server
}

// What an event is put together from, in this order.
const (
	partText byte = iota
	partRow
	partRejected
	partTxn
	partRedaction
	partMember
)

// prepareEvents puts each event together from its tables, checks that it is what its id
// says, and sorts it to its place in its room.
func (b *builder) prepareEvents(c *mspf.Contents) error {
	c.Archive.Redaction = "applied"
	if b.o.AsStored {
		c.Archive.Redaction = "none"
	}
	joined, bans, err := b.joinEvents()
	if err != nil {
		return err
	}
	placed, refs, invites := b.sorter(3), b.sorter(6), b.sorter(16)
	err = b.placeEvents(joined, bans, func(p *placedEvent) error {
		err := errors.Join(placed.Add(p.key, p.text), refs.Add(p.key, p.refs))
		if err == nil && p.invite != nil {
			err = invites.Add(p.inviteKey, p.invite)
		}
		return err
	})
	if err != nil {
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
	if b.invites, err = invites.Sorted(); err != nil {
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

// joinEvents sorts everything that is known of an event by its id. The large tables are
// gone through once, for whoever needs something of them.
func (b *builder) joinEvents() (*spill.Sorted, map[[2]string][]ban, error) {
	j := &join{b: b, events: b.sorter(3), redactions: b.sorter(16), banned: map[string]bool{}}
	for _, gather := range []func() error{j.redacting, j.texts, j.eventRows, j.rejections, j.transactions, j.members} {
		if err := gather(); err != nil {
			return nil, nil, err
		}
	}
	facts, err := j.redactions.Sorted()
	if err != nil {
		return nil, nil, err
	}
	bans, err := b.redactions(facts, func(target string, x redaction) error { return j.event(target, partRedaction, x.encode()) })
	if err != nil {
		return nil, nil, err
	}
	sorted, err := j.events.Sorted()
	return sorted, bans, err
}

// join collects what belongs together.
type join struct {
	b                  *builder
	events, redactions *spill.Sorter   // by event, by redaction
	banned             map[string]bool // events that redact what a user sent

	key   []byte // used again for every row
	value fields
}

func (j *join) event(id string, part byte, f fields) error {
	return j.events.Add(append(key(id), part), f)
}

// row is event for a row whose first column is the id.
func (j *join) row(r *row, part byte) error {
	j.key = append(r.append(j.key[:0], 0), 0, part)
	return j.events.Add(j.key, j.value)
}

// texts gathers the events themselves.
func (j *join) texts() error {
	for r, err := range j.b.rows("event_json", "event_id", "room_id", "internal_metadata", "json") {
		if err != nil {
			return err
		}
		if err := j.b.meet(r); err != nil {
			return err
		}
		j.value = j.value[:0].column(r, 1).column(r, 2).column(r, 3)
		if err := j.row(r, partText); err != nil {
			return err
		}
		if err := j.recheck(r); err != nil {
			return err
		}
	}
	return nil
}

// meet makes every room known that has an event, and looks for its version in the
// create event where table rooms does not have it.
func (b *builder) meet(r *row) error {
	x := b.rooms[string(r.fields[1])] // ids of rooms seldom have anything to unescape
	if x == nil {
		id := r.text(1)
		if x = b.rooms[id]; x == nil {
			x = b.room(id)
			if err := b.facts.Add(append(byLength(id), factRoom), fields{}.bool(false).text("")); err != nil {
				return err
			}
		}
	}
	x.events++
	if x.version == "" && bytes.Contains(r.fields[3], []byte(`"m.room.create"`)) {
		if v := createdVersion(r.bytes(3)); v != "" {
			x.is(v)
		}
	}
	return nil
}

func (j *join) eventRows() error {
	for r, err := range j.b.rows("events", "event_id", "type", "sender", "stream_ordering", "received_ts", "outlier", "rejection_reason", "room_id") {
		if err != nil {
			return err
		}
		id, kind, sender := r.text(0), r.text(1), r.text(2)
		if x := j.b.rooms[string(r.fields[7])]; x != nil && !x.stateful && !j.b.local(sender) {
			x.shared = true // who is in it nobody here knows any more
		}
		j.value = j.value[:0].text(kind).text(sender).int(r.int(3)).int(r.int(4)).bool(r.bool(5)).text(r.text(6))
		if err := j.row(r, partRow); err != nil {
			return err
		}
		if kind != "m.room.redaction" && !j.banned[id] {
			continue
		}
		if err := j.redactions.Add(append(key(id), redactionRow), fields{}.text(r.text(7)).text(sender)); err != nil {
			return err
		}
		if !r.null(6) {
			if err := j.redactions.Add(append(key(id), redactionRejected), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *join) rejections() error {
	for r, err := range j.b.rows("rejections", "event_id", "reason") {
		if err != nil {
			return err
		}
		id := r.text(0)
		if err := j.event(id, partRejected, fields{}.text(r.text(1))); err != nil {
			return err
		}
		if err := j.redactions.Add(append(key(id), redactionRejected), nil); err != nil {
			return err
		}
	}
	return nil
}

func (j *join) transactions() error {
	for r, err := range j.b.rows("event_txn_id_device_id", "event_id", "txn_id", "device_id") {
		if err != nil {
			return err
		}
		if err := j.event(r.text(0), partTxn, fields{}.text(r.text(1)).text(r.text(2))); err != nil {
			return err
		}
	}
	return nil
}

// placeEvents reads one event after the other, and has several checked at once.
func (b *builder) placeEvents(joined *spill.Sorted, bans map[[2]string][]ban, add func(*placedEvent) error) error {
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
			failed = add(p)
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

// metadata reads what the server noted beside an event. Of most events nothing in it
// matters, and it need not be read.
func metadata(text []byte) map[string]any {
	for _, name := range []string{"soft_failed", "out_of_band_membership", "_spammy"} {
		if bytes.Contains(text, []byte(name)) {
			tree, _, _ := event.Parse(text)
			return tree
		}
	}
	return nil
}

func (e *stored) take(part byte, v reader) {
	switch part {
	case partText:
		e.room = v.text()
		e.meta = metadata(v.bytes())
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
	case partMember:
		e.member = &member{user: v.text(), membership: v.text()}
	}
}
