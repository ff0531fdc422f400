package archive

import (
	"encoding/hex"
	"iter"
	"strings"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/mspf/event"
)

// prepareAccounts gathers what belongs to the users of this server.
func (b *builder) prepareAccounts(c *mspf.Contents) error {
	// What users ignore follows from their account data.
	b.read["ignored_users"] = true
	// The caller has looked at these: they are [Options.Floors].
	b.read["stream_positions"] = true
	for _, step := range []func(*mspf.Contents) error{b.prepareUsers, b.prepareProfiles, b.prepareKeys, b.prepareToDevice} {
		if err := step(c); err != nil {
			return err
		}
	}
	return nil
}

const noAccount = "rows of users of this server that have no account here"

// The parts of an entry of m.users.
const (
	userRow byte = iota
	userTag
	userDevice
)

func (b *builder) prepareUsers(c *mspf.Contents) error {
	s := b.sorter(16)
	put := func(user string, kind byte, f fields) error { return s.Add(append(byLength(user), kind), f) }
	for r, err := range b.rows("users", "name", "password_hash", "creation_ts") {
		if err != nil {
			return err
		}
		b.highest = max(b.highest, highestLocalpart(r.text(0)))
		if err := put(r.text(0), userRow, fields{}.text(r.text(1)).int(r.int(2))); err != nil {
			return err
		}
	}
	for r, err := range b.rows("room_tags", "user_id", "room_id", "tag", "content") {
		if err != nil {
			return err
		}
		if err := put(r.text(0), userTag, fields{}.text(r.text(1)).text(r.text(2)).bytes(r.bytes(3))); err != nil {
			return err
		}
	}
	for r, err := range b.rows("devices", "user_id", "device_id", "display_name", "hidden") {
		if err != nil {
			return err
		}
		if r.bool(3) || !b.local(r.text(0)) {
			continue // it reserves the id of a cross-signing key, or is somebody else's
		}
		if err := put(r.text(0), userDevice, fields{}.text(r.text(1)).bool(r.null(2)).text(r.text(2))); err != nil {
			return err
		}
	}
	c.Server.HighestLocalpart = b.highest
	sorted, err := s.Sorted()
	if err != nil {
		return err
	}
	c.Users = func(yield func(mspf.User, error) bool) {
		for g, err := range b.byUser(sorted) {
			if err != nil {
				yield(mspf.User{}, err)
				return
			}
			u, account, err := b.user(g)
			if err == nil && !account {
				for _, tags := range u.RoomTags {
					b.report.add(int64(len(tags)), mspf.Loss{Item: "m.users", Key: "room_tags", Code: "no_account", State: mspf.Unsupported, Reason: noAccount})
				}
				continue
			}
			if !yield(u, err) || err != nil {
				return
			}
		}
	}
	return nil
}

func (b *builder) user(g group) (u mspf.User, account bool, err error) {
	u = mspf.User{ID: string(g.key[4:]), RoomTags: map[string]map[string]any{}, Devices: map[string]mspf.Device{}}
	for p, err := range g.pairs {
		if err != nil {
			return u, account, err
		}
		switch v := reader(p.Value); p.Key[len(p.Key)-1] {
		case userRow:
			account = true
			u.PasswordHash, u.CreatedAt = v.text(), v.int()
			if b.o.AuthService {
				b.report.add(1, mspf.Loss{Item: "m.users", Code: "auth_service", State: mspf.Absent, Reason: "passwords, mail addresses and sessions are in the database of the Matrix Authentication Service"})
			}
			if b.o.withoutPasswords() {
				u.PasswordHash = ""
			}
		case userTag:
			room, tag := v.text(), v.text()
			if u.RoomTags[room] == nil {
				u.RoomTags[room] = map[string]any{}
			}
			u.RoomTags[room][tag] = b.json("m.users", u.ID, v.bytes())
		case userDevice:
			id, none, name := v.text(), v.bool(), v.text()
			d := mspf.Device{}
			if !none {
				d.DisplayName = &name
			}
			u.Devices[id] = d
		}
	}
	return u, account, nil
}

// json reads any JSON value. What is none, or what CBOR does not carry exactly, is
// reported.
func (b *builder) json(item, of string, text []byte) any {
	wrapped := append(append([]byte(`{"v":`), text...), '}')
	tree, exact, err := event.Parse(wrapped)
	switch {
	case err != nil:
		b.report.add(1, mspf.Loss{Item: item, Key: of, Code: "json_unreadable", State: mspf.Unsupported, Reason: "what is stored is not JSON"})
		return nil
	case !exact:
		b.report.add(1, mspf.Loss{Item: item, Key: of, Code: "json_inexact", State: mspf.Lossy, Reason: "CBOR does not carry its numbers or half surrogates exactly"})
	}
	return tree["v"]
}

// object is json for what should be an object.
func (b *builder) object(item, of string, text []byte) map[string]any {
	o, _ := b.json(item, of, text).(map[string]any)
	return o
}

// full gives a user's id; some tables have only the localpart of local users.
func (b *builder) full(user string) string {
	if strings.HasPrefix(user, "@") {
		return user
	}
	return "@" + user + ":" + b.server
}

// bytea gives the value of a column of bytes, as PostgreSQL spells it (bytea_output hex).
func bytea(text []byte) []byte {
	h, ok := strings.CutPrefix(string(text), `\x`)
	if !ok {
		return text
	}
	out, err := hex.DecodeString(h)
	if err != nil {
		return nil
	}
	return out
}

// table puts the rows of a table into a sorter under their user: the columns are the
// user's and those of the value.
func (b *builder) table(s *spill.Sorter, kind byte, name, user string, columns ...string) error {
	for r, err := range b.rows(name, append([]string{user}, columns...)...) {
		if err != nil {
			return err
		}
		id := b.full(r.text(0))
		if !b.local(id) {
			continue
		}
		var f fields
		for i := range columns {
			f = f.bool(r.null(i + 1)).bytes(r.bytes(i + 1))
		}
		if err := s.Add(append(byLength(id), kind), f); err != nil {
			return err
		}
	}
	return nil
}

// column gives the next column of what table has put there.
func (r *reader) column() (text []byte, null bool) {
	null = r.bool()
	return r.bytes(), null
}

func (r *reader) columnText() string {
	text, _ := r.column()
	return string(text)
}

// columnInt gives a number; 0 for NULL. PostgreSQL spells only numbers in such a column.
func (r *reader) columnInt() (n int64) {
	text, _ := r.column()
	negative := len(text) > 0 && text[0] == '-'
	for _, c := range text {
		if c >= '0' && c <= '9' {
			n = n*10 + int64(c-'0')
		}
	}
	if negative {
		return -n
	}
	return n
}

func (r *reader) columnBool() bool {
	text, _ := r.column()
	return string(text) == "t" || string(text) == "1"
}

// byUser gives what a sorter has of each user.
func (b *builder) byUser(s *spill.Sorted) iter.Seq2[group, error] {
	return b.groups(s, func(k []byte) int { return len(k) - 1 })
}
