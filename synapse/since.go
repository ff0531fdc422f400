package synapse

import (
	"fmt"
	"strconv"

	"lifeboat.im/lifeboat/record"
)

// maxTold bounds the rooms, and the users, that a loss report tells apart; what
// happened in the others is counted.
const maxTold = 50_000

// maxGone bounds the ids of delayed events that are remembered.
const maxGone = 10_000

// maxHoles bounds the holes that a loss report names.
const maxHoles = 100

// Since gathers, from the records after a restore point, what a rollback has to
// know of them: values of sequences, and the loss. Feed it every record of the
// tables that [Since.Wants] names, in commit order.
type Since struct {
	server string
	rooms  map[string]*RoomLoss
	users  map[string]*UserLoss
	loss   Loss
	newest map[string]int64
	gone   []string
	shapes map[uint32]*shape
	feeds  map[string][]feed
	does   map[string]func(*Since, change)
	stream map[string]string // name in stream_positions to sequence
	// members are member events whose row in room_memberships is still to come, in the
	// same transaction: event id to room.
	members map[string]string
	// devices are those that were made since: user, tab, device.
	devices map[string]bool
	delays  map[string]bool // delayed events that were scheduled since and still are
	// The least stream position that was inserted since: a row below it that goes away
	// was there at the point.
	firstEvent, firstInbox int64
}

// feed says that a column carries values of a sequence.
type feed struct {
	sequence, column string
	negated          bool
}

// shape is what is known of the rows of a relation.
type shape struct {
	rel    *record.Relation
	places map[string]int
	feeds  []feed
	do     func(*Since, change)
}

// NewSince begins; server is the homeserver's name, "" when it is not known.
func NewSince(server string) *Since {
	s := &Since{
		server: server, rooms: map[string]*RoomLoss{}, users: map[string]*UserLoss{},
		newest: map[string]int64{}, shapes: map[uint32]*shape{}, feeds: map[string][]feed{},
		does: handlers(), stream: map[string]string{}, members: map[string]string{}, devices: map[string]bool{}, delays: map[string]bool{},
	}
	for _, q := range Sequences() {
		if q.Stream != "" {
			s.stream[q.Stream] = q.Name
		}
		for _, c := range q.Feeds {
			s.feeds[c.Table] = append(s.feeds[c.Table], feed{sequence: q.Name, column: c.Column, negated: c.Negated})
		}
	}
	return s
}

// Wants reports whether the records of a table say anything.
func (s *Since) Wants(schema, table string) bool {
	if schema != "public" {
		return false
	}
	return s.feeds[table] != nil || s.does[table] != nil || table == "stream_positions"
}

// Newest gives the greatest value seen of each sequence.
func (s *Since) Newest() map[string]int64 { return s.newest }

// DelayedGone gives the ids of delayed events that went away.
func (s *Since) DelayedGone() []string { return s.gone }

// Held notes rooms that users of other servers are in, besides those that the
// records show.
func (s *Since) Held(rooms []string) {
	for _, id := range rooms {
		if r := s.rooms[id]; r != nil {
			r.Held = true
		}
	}
}

// Hole notes a time of which not all records exist.
func (s *Since) Hole(what string) {
	if len(s.loss.Holes) < maxHoles {
		s.loss.Holes = append(s.loss.Holes, what)
	}
}

// Loss makes the report.
func (s *Since) Loss() *Loss {
	l := s.loss
	l.Server = s.server
	for _, r := range s.rooms {
		if r.Created && r.Purged { // it came and went
			continue
		}
		if r.weight() > 0 || r.Created || r.Purged {
			l.Rooms = append(l.Rooms, *r)
		}
	}
	for _, u := range s.users {
		v := *u
		v.Password = v.Password && !v.Deactivated // a deactivation takes the password away first
		if v.weight() > 0 {
			l.Users = append(l.Users, v)
		}
	}
	l.sum()
	return &l
}

// Record takes one record; read is for the lines that stand outside of it.
func (s *Since) Record(rel *record.Relation, r *record.Record, read ReadExtent) error {
	if rel.Schema != "public" || r.Op == record.Truncate {
		return nil
	}
	sh := s.shapes[rel.OID]
	if sh == nil || sh.rel != rel && !sh.rel.Equal(rel) {
		sh = s.shape(rel)
		s.shapes[rel.OID] = sh
	}
	sh.rel = rel // the next entry's relation is another pointer to the same
	c, long := change{op: r.Op, shape: sh}, false
	for _, side := range []struct {
		line record.Line
		to   *row
	}{{r.Old, &c.old}, {r.New, &c.new}} {
		if side.line.Absent() {
			continue
		}
		f, cut, err := fields(side.line, len(rel.Columns), read)
		if err != nil {
			return fmt.Errorf("read a row of %s: %w", rel, err)
		}
		*side.to, long = row{shape: sh, fields: f}, long || cut
	}
	s.loss.Unread += one(long && sh.do != nil)
	s.values(c)
	if sh.do != nil {
		sh.do(s, c)
	}
	return nil
}

func (s *Since) shape(rel *record.Relation) *shape {
	sh := &shape{rel: rel, places: map[string]int{}, feeds: s.feeds[rel.Name], do: s.does[rel.Name]}
	for i, c := range rel.Columns {
		sh.places[c.Name] = i
	}
	return sh
}

// values notes what the row says of sequences; an old image too, because the insert
// may lie before the point.
func (s *Since) values(c change) {
	for _, r := range []row{c.old, c.new} {
		for _, f := range c.shape.feeds {
			v, ok := r.number(f.column)
			if f.negated {
				v = -v
			}
			if ok {
				s.newest[f.sequence] = max(s.newest[f.sequence], v)
			}
		}
		if c.shape.rel.Name == "stream_positions" {
			v, ok := r.number("stream_id")
			if q := s.stream[r.text("stream_name")]; ok && q != "" {
				s.newest[q] = max(s.newest[q], v)
			}
		}
	}
}

// change is one record, split into fields.
type change struct {
	op       record.Op
	shape    *shape
	old, new row
}

// now is the row that the record is about: the new one, of a delete the old one.
func (c change) now() row {
	if c.op == record.Delete {
		return c.old
	}
	return c.new
}

// changed reports that an update gave a column another value.
func (c change) changed(column string) bool {
	if c.op != record.Update || c.old.fields == nil {
		return false
	}
	a, b := c.old.field(column), c.new.field(column)
	return !record.Unknown(a) && string(a) != string(b)
}

// row is one image of a row; the zero value has no columns.
type row struct {
	shape  *shape
	fields [][]byte
}

// field gives a column as COPY writes it; nil when there is none.
func (r row) field(column string) []byte {
	if r.shape == nil {
		return nil
	}
	i, ok := r.shape.places[column]
	if !ok || i >= len(r.fields) {
		return nil
	}
	return r.fields[i]
}

// null reports that a column is NULL, not there, or not known.
func (r row) null(column string) bool {
	f := r.field(column)
	return f == nil || record.IsNull(f) || record.Unknown(f)
}

// text gives a column's value; "" for NULL.
func (r row) text(column string) string {
	if r.null(column) {
		return ""
	}
	return string(record.AppendUnescaped(nil, r.field(column)))
}

// yes reports that a column is true, or a number that is not 0.
func (r row) yes(column string) bool {
	t := r.text(column)
	return t == "t" || t != "" && t != "f" && t != "0"
}

func (r row) number(column string) (int64, bool) {
	if r.null(column) {
		return 0, false
	}
	v, err := strconv.ParseInt(string(r.field(column)), 10, 64)
	return v, err == nil
}
