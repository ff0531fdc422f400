package synapse

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// script feeds records written as text: table, operation, columns=values. Old and new
// values of an update are divided by |.
func script(t *testing.T, server string, lines ...string) *Since {
	t.Helper()
	s := NewSince(server)
	oids := map[string]uint32{}
	for _, line := range lines {
		f := strings.Fields(line)
		table, op := f[0], record.Op(f[1][0])
		if oids[table] == 0 {
			oids[table] = uint32(len(oids) + 1)
		}
		rel := &record.Relation{OID: oids[table], Schema: "public", Name: table}
		var before, after []string
		for _, pair := range f[2:] {
			column, value, _ := strings.Cut(pair, "=")
			rel.Columns = append(rel.Columns, record.Column{Name: column})
			a, b, two := strings.Cut(value, "|")
			if !two {
				b = a
			}
			before, after = append(before, a), append(after, b)
		}
		r := &record.Record{Op: op}
		if op != record.Insert {
			r.Old.Text = []byte(strings.Join(before, "\t"))
		}
		if op != record.Delete {
			r.New.Text = []byte(strings.Join(after, "\t"))
		}
		if err := s.Record(rel, r, nil); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	return s
}

func room(t *testing.T, l *Loss, id string) RoomLoss {
	t.Helper()
	for _, r := range l.Rooms {
		if r.Room == id {
			return r
		}
	}
	return RoomLoss{}
}

func user(l *Loss, id string) UserLoss {
	for _, u := range l.Users {
		if u.User == id {
			return u
		}
	}
	return UserLoss{}
}

func TestLossOfRooms(t *testing.T) {
	s := script(t, "here",
		`events i event_id=$a type=m.room.message room_id=!r sender=@u:here outlier=f stream_ordering=100 state_key=\N`,
		`events i event_id=$b type=m.room.topic room_id=!r sender=@u:here outlier=f stream_ordering=101 state_key=`,
		`events i event_id=$c type=m.room.redaction room_id=!r sender=@u:here outlier=f stream_ordering=102 state_key=\N`,
		`events i event_id=$d type=m.room.member room_id=!r sender=@v:here outlier=f stream_ordering=103 state_key=@v:here`,
		`room_memberships i event_id=$d user_id=@v:here room_id=!r membership=join event_stream_ordering=103`,
		// A member event beside the history, and a censored one, count for nothing.
		`events i event_id=$e type=m.room.member room_id=!r sender=@v:here outlier=t stream_ordering=104 state_key=@v:here`,
		`room_memberships i event_id=$e user_id=@v:here room_id=!r membership=leave event_stream_ordering=104`,
		`events u event_id=$a type=m.room.message room_id=!r sender=@u:here outlier=f stream_ordering=100 state_key=\N`,
		// Fetched from another server, which has it still.
		`events i event_id=$f type=m.room.message room_id=!far sender=@x:there outlier=f stream_ordering=-5 state_key=\N`,
		`events i event_id=$g type=m.reaction room_id=!far sender=@x:there outlier=f stream_ordering=105 state_key=\N`,
		// A purge: one event of before, one of since.
		`events d event_id=$old type=m.room.message room_id=!gone sender=@u:here outlier=f stream_ordering=9 state_key=\N`,
		`events i event_id=$h type=m.room.message room_id=!gone sender=@u:here outlier=f stream_ordering=106 state_key=\N`,
		`events d event_id=$h type=m.room.message room_id=!gone sender=@u:here outlier=f stream_ordering=106 state_key=\N`,
		`rooms d room_id=!gone`, `rooms i room_id=!new`, `rooms i room_id=!short`, `rooms d room_id=!short`,
		`room_aliases i room_alias=#n:here room_id=!new`,
	)
	s.Held([]string{"!unknown"})
	l := s.Loss()
	if r := room(t, l, "!r"); r.Messages != 1 || r.State != 1 || r.Redactions != 1 || r.Joins != 1 || r.Sum() != 4 || r.Held {
		t.Errorf("!r: %+v", r)
	}
	if r := room(t, l, "!far"); r.Fetched != 1 || r.Reactions != 1 || !r.Held {
		t.Errorf("!far: %+v", r)
	}
	if r := room(t, l, "!gone"); !r.Purged || r.Back != 1 || r.Sum() != 0 {
		t.Errorf("!gone: %+v", r)
	}
	if r := room(t, l, "!new"); !r.Created || len(r.Aliases) != 1 {
		t.Errorf("!new: %+v", r)
	}
	if len(l.Rooms) != 4 {
		t.Errorf("rooms: %+v", l.Rooms)
	}
	if l.Totals.Sum() != 5 || l.Totals.Returns != 1 || l.Totals.Lost() != 4 || l.Totals.RoomsPurged != 1 || l.Totals.RoomsCreated != 1 {
		t.Errorf("totals: %+v", l.Totals)
	}
	if n := s.Newest(); n["events_stream_seq"] != 106 || n["events_backfill_stream_seq"] != 5 {
		t.Errorf("values seen: %v", n)
	}
}

func TestLossOfUsers(t *testing.T) {
	s := script(t, "here",
		`users i name=@new:here password_hash=x deactivated=0`,
		`users u name=@gone:here password_hash=x|\N deactivated=0`,
		`users u name=@gone:here password_hash=\N deactivated=0|1`,
		`erased_users i user_id=@gone:here`,
		`users u name=@pw:here password_hash=x|y deactivated=0 locked=f`,
		`users u name=@locked:here password_hash=x deactivated=0 locked=f|t`,
		`devices i user_id=@pw:here device_id=A hidden=f`, `devices i user_id=@pw:here device_id=B hidden=f`,
		`devices d user_id=@pw:here device_id=B hidden=f`, `devices d user_id=@pw:here device_id=OLD hidden=f`,
		`devices i user_id=@pw:here device_id=KEY hidden=t`,
		`device_inbox i user_id=@pw:here device_id=A stream_id=10`, `device_inbox i user_id=@pw:here device_id=A stream_id=11`,
		`device_inbox d user_id=@pw:here device_id=A stream_id=10`, `device_inbox d user_id=@pw:here device_id=A stream_id=4`,
		`local_media_repository i media_id=m user_id=@pw:here media_length=7 url_cache=\N`,
		`local_media_repository i media_id=p user_id=@pw:here media_length=7 url_cache=http`,
		`e2e_cross_signing_keys i user_id=@pw:here stream_id=3`, `e2e_cross_signing_keys i user_id=@x:there stream_id=4`,
		`account_data u user_id=@pw:here stream_id=1|2`,
		`stream_positions u stream_name=receipts stream_id=5|6`,
		`delayed_events i delay_id=d3`, `delayed_events d delay_id=d3`, `delayed_events d delay_id=d1`, `delayed_events u delay_id=d2`,
	)
	l := s.Loss()
	if again := l.Again(); len(again) != 1 || again[0] != "@gone:here" {
		t.Errorf("again: %v", again)
	}
	if u := user(l, "@gone:here"); !u.Deactivated || !u.Erased || u.Password {
		t.Errorf("@gone: %+v", u)
	}
	u := user(l, "@pw:here")
	want := UserLoss{
		User: "@pw:here", Password: true, Identity: true, LoggedIn: 1, LoggedOut: 1, ToDevice: 1, ToDeviceAgain: 1, Media: 1, MediaBytes: 7, AccountData: 1,
	}
	if u != want {
		t.Errorf("@pw:\n%+v\nwant\n%+v", u, want)
	}
	if !user(l, "@new:here").Registered || !user(l, "@locked:here").Restricted || len(l.Users) != 4 {
		t.Errorf("users: %+v", l.Users)
	}
	if s.Newest()["receipts_sequence"] != 6 || len(s.DelayedGone()) != 1 {
		t.Errorf("seen: %v, %v", s.Newest(), s.DelayedGone())
	}
}

// Rooms and users beyond the bound are counted, not kept.
func TestLossIsBounded(t *testing.T) {
	s := NewSince("here")
	for i := range maxTold {
		s.rooms[strconv.Itoa(i)] = &RoomLoss{}
	}
	s.room("!one more").Messages++
	if l := s.Loss(); l.MoreRooms != 1 {
		t.Errorf("%d changes in more rooms, want 1", l.MoreRooms)
	}
}

// The values in a line that stands outside of its record count like any other, wherever
// the pieces are cut, and its long field is not kept.
func TestY3_LongLinesHoldValuesToo(t *testing.T) {
	rel := &record.Relation{OID: 1, Schema: "public", Name: "account_data", Columns: []record.Column{{Name: "user_id"}, {Name: "content"}, {Name: "stream_id"}}}
	line := func(id string) []byte { return []byte("@u:here\t" + strings.Repeat("x", 3*maxField) + "\t" + id) }
	for _, step := range []int{7, 64, maxField, maxField + 9, 1 << 20} {
		s := NewSince("here")
		pieces := map[uint64][]byte{}
		cut := func(b []byte) (l record.Line) {
			for len(b) > 0 {
				n := min(step, len(b))
				e := record.Extent{Offset: uint64(len(pieces)), Length: uint64(n)}
				pieces[e.Offset], b = b[:n], b[n:]
				l.Extents = append(l.Extents, e)
			}
			return l
		}
		r := &record.Record{Op: record.Update, Old: cut(line("41")), New: cut(line("70000"))}
		if err := s.Record(rel, r, func(e record.Extent) ([]byte, error) { return pieces[e.Offset], nil }); err != nil {
			t.Fatal(err)
		}
		l := s.Loss()
		if v := s.Newest()["account_data_sequence"]; v != 70000 || user(l, "@u:here").AccountData != 1 || l.Unread != 1 {
			t.Errorf("in pieces of %d: seen %d, %+v", step, v, l)
		}
		r = &record.Record{Op: record.Insert, New: cut([]byte("@u:here\tx"))}
		if err := s.Record(rel, r, func(e record.Extent) ([]byte, error) { return pieces[e.Offset], nil }); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("a line with too few fields: %v", err)
		}
	}
}
