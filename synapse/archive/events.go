package archive

import (
	"bytes"
	"errors"
	"iter"
	"runtime"

	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
	"lifeboat.im/lifeboat/record"
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

// What is known of an event beside its text, in this order.
const (
	partRow byte = iota
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
	texts, err := b.sortedBy("event_json", "event_id")
	if err != nil {
		return err
	}
	parts, bans, err := b.joinEvents(texts)
	if err != nil {
		return err
	}
	placed, refs, invites := b.sorter(3), b.sorter(6), b.sorter(16)
	err = b.placeEvents(texts, parts, bans, func(p *placedEvent) error {
		err := errors.Join(placed.Add(p.key, p.text), refs.Add(p.key, p.refs))
		if err == nil && p.invite != nil {
			err = invites.Add(p.inviteKey, p.invite)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := parts.Close(); err != nil {
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

// joinEvents sorts what is known of an event beside its text by its id. The large tables
// are gone through once, for whoever needs something of them.
func (b *builder) joinEvents(texts Tables) (*spill.Sorted, map[[2]string][]ban, error) {
	j := &join{b: b, events: b.sorter(3), redactions: b.sorter(16), banned: map[string]bool{}}
	first := func() error { return j.texts(texts) }
	for _, gather := range []func() error{j.redacting, first, j.eventRows, j.rejections, j.transactions, j.members} {
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
	events, redactions *spill.Sorter   // by event as its rows spell it, by redaction
	banned             map[string]bool // events that redact what a user sent

	key   []byte // used again for every row
	value fields
}

func (j *join) event(id string, part byte, f fields) error {
	j.key = append(record.AppendValue(j.key[:0], []byte(id)), endOfID, part)
	return j.events.Add(j.key, f)
}

// endOfID is what follows the id in a row: so the parts of events are in the order of
// their rows.
const endOfID = '\t'

// row is event for a row whose first column is the id.
func (j *join) row(r *row, part byte) error {
	j.key = append(append(j.key[:0], r.fields[0]...), endOfID, part)
	return j.events.Add(j.key, j.value)
}

// texts looks at the events themselves for what decides about others.
func (j *join) texts(texts Tables) error {
	for r, err := range j.b.rowsOf(texts, "event_json", "event_id", "room_id", "internal_metadata", "json") {
		if err != nil {
			return err
		}
		if err := j.b.meet(r); err != nil {
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

// batch is some events on their way, with the memory that they are in.
type batch struct {
	events []stored
	placed []placedEvent
	text   []byte // of events
	out    []byte // of placed
}

// Of one batch: so that goroutines meet seldom, and little is on the way.
const (
	batchEvents = 64
	batchBytes  = 256 << 10
)

// placeEvents reads one event after the other, and has several checked at once.
func (b *builder) placeEvents(texts Tables, parts *spill.Sorted, bans map[[2]string][]ban, add func(*placedEvent) error) error {
	jobs, done, free := make(chan *batch, 4), make(chan *batch, 4), make(chan *batch, 16)
	var work errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			p := &placer{builder: b, bans: bans, signatures: b.batches()}
			for x := range jobs {
				p.batch(x)
				done <- x
			}
			for _, batch := range p.signatures {
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
		return b.eachBatch(texts, parts, free, func(x *batch) { jobs <- x })
	})
	var failed error
	for x := range done {
		for i := range x.placed {
			if failed == nil {
				failed = add(&x.placed[i])
			}
		}
		select {
		case free <- x:
		default:
		}
	}
	return errors.Join(all.Wait(), failed)
}

// eachBatch gives the events that have a text.
func (b *builder) eachBatch(texts Tables, parts *spill.Sorted, free chan *batch, each func(*batch)) error {
	take := func() *batch {
		select {
		case x := <-free:
			x.events, x.placed, x.text, x.out = x.events[:0], x.placed[:0], x.text[:0], x.out[:0]
			return x
		default:
			return &batch{}
		}
	}
	x := take()
	err := b.eachStored(texts, parts, func(r *row) *stored {
		if len(x.events) == batchEvents || len(x.text) > batchBytes {
			each(x)
			x = take()
		}
		n := len(x.text)
		x.text = r.append(x.text, 3)
		x.events = append(x.events, stored{id: r.text(0), room: r.text(1), json: x.text[n:len(x.text):len(x.text)]})
		return &x.events[len(x.events)-1]
	})
	if err == nil && len(x.events) > 0 {
		each(x)
	}
	return err
}

// eachStored puts the rows of the texts and what else is known of each event together,
// which are in the same order.
func (b *builder) eachStored(texts Tables, parts *spill.Sorted, begin func(*row) *stored) error {
	next, stop := iter.Pull2(b.pairs(parts))
	defer stop()
	p, err, more := next()
	var id, last []byte
	// before passes over parts of events that have no text: those before an id.
	before := func(id []byte) {
		for more && err == nil && (id == nil || bytes.Compare(p.Key[:len(p.Key)-1], id) < 0) {
			if p.Key[len(p.Key)-1] == partRow {
				b.report.add(1, mspf.Loss{Item: "m.events", Code: "event_without_text", State: mspf.Absent, Reason: "the server itself has lost the text of these events"})
			}
			p, err, more = next()
		}
	}
	for r, failed := range b.rowsOf(texts, "event_json", "event_id", "room_id", "internal_metadata", "json") {
		if failed != nil {
			return failed
		}
		id, last = append(append(last[:0], r.fields[0]...), endOfID), id
		if bytes.Compare(last, id) >= 0 {
			return errors.New("table event_json: its rows do not ascend")
		}
		before(id)
		e := begin(r)
		for more && err == nil && bytes.Equal(p.Key[:len(p.Key)-1], id) {
			e.take(p.Key[len(p.Key)-1], reader(p.Value))
			p, err, more = next()
		}
		e.meta, e.facts = metadata(r, 2), b.rooms[e.room]
	}
	before(nil)
	return err
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
func metadata(r *row, i int) map[string]any {
	for _, name := range []string{"soft_failed", "out_of_band_membership", "_spammy"} {
		if bytes.Contains(r.fields[i], []byte(name)) {
			tree, _, _ := event.Parse(r.bytes(i))
			return tree
		}
	}
	return nil
}

func (e *stored) take(part byte, v reader) {
	switch part {
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
