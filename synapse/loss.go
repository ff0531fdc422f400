package synapse

import (
	"cmp"
	"slices"
	"strings"
)

// Loss is what a rollback undid: what the repository holds of the time between the
// restore point and its newest commit. It is what was lost, and what came back.
type Loss struct {
	// Server is the homeserver's name, the part of its users' ids after the colon; ""
	// when it is not known, and then nothing is known of other servers either.
	Server string `json:"server,omitempty"`
	Totals Totals `json:"totals"`
	// Rooms and Users are those that something was undone of, the most concerned first.
	Rooms []RoomLoss `json:"rooms,omitempty"`
	Users []UserLoss `json:"users,omitempty"`
	// MoreRooms and MoreUsers count changes in rooms and of users beyond those that are
	// told apart.
	MoreRooms int `json:"changes_in_more_rooms,omitempty"`
	MoreUsers int `json:"changes_of_more_users,omitempty"`
	// Holes are times of which the repository does not know all changes: more may have
	// been undone than the report says.
	Holes []string `json:"holes,omitempty"`
	// Unread are records with a field so large that it was not looked into.
	Unread int `json:"unread,omitempty"`
}

// Events counts events by what they are to a person.
type Events struct {
	Messages   int `json:"messages,omitempty"`   // texts, encrypted events, stickers
	Reactions  int `json:"reactions,omitempty"`  //
	Redactions int `json:"redactions,omitempty"` // undone: what they hid is readable again
	Joins      int `json:"joins,omitempty"`
	Leaves     int `json:"leaves,omitempty"` // kicks, bans and refused invites too
	Invites    int `json:"invites,omitempty"`
	State      int `json:"state,omitempty"`
	Other      int `json:"other,omitempty"`
}

// Sum is the number of all of them.
func (e Events) Sum() int {
	return e.Messages + e.Reactions + e.Redactions + e.Joins + e.Leaves + e.Invites + e.State + e.Other
}

func (e *Events) add(o Events) {
	e.Messages += o.Messages
	e.Reactions += o.Reactions
	e.Redactions += o.Redactions
	e.Joins += o.Joins
	e.Leaves += o.Leaves
	e.Invites += o.Invites
	e.State += o.State
	e.Other += o.Other
}

// RoomLoss is what was undone in one room.
type RoomLoss struct {
	Room string `json:"room"`
	Events
	// Created: the room did not exist at the point. Purged: it was deleted since, and
	// is there again.
	Created bool `json:"created,omitempty"`
	Purged  bool `json:"purged,omitempty"`
	// Back counts events of before the point that were purged since and are there again.
	Back int `json:"events_back,omitempty"`
	// Fetched counts events of before that were fetched from other servers since; they
	// can be fetched again.
	Fetched int `json:"fetched,omitempty"`
	// Aliases are names of the room that were made since and are gone.
	Aliases []string `json:"aliases,omitempty"`
	// Held: users of other servers are in the room. Their servers hold its events, and
	// give them back over federation as soon as somebody there speaks or a client reads
	// back.
	Held bool `json:"held_by_other_servers,omitempty"`
}

func (r *RoomLoss) weight() int { return r.Sum() + r.Back + r.Fetched + len(r.Aliases) }

// UserLoss is what was undone of one user of this server.
type UserLoss struct {
	User string `json:"user"`
	// Registered: the account did not exist at the point.
	Registered bool `json:"registered,omitempty"`
	// Deactivated and Erased: asked for since, and undone. Whoever asked for it has a
	// right to it: do it again.
	Deactivated bool `json:"deactivated,omitempty"`
	Erased      bool `json:"erased,omitempty"`
	// Password: it is the one of before again. Restricted: a lock, a suspension or a
	// shadow ban since is gone. Admin: rights as an admin changed since.
	Password   bool `json:"password,omitempty"`
	Restricted bool `json:"restricted,omitempty"`
	Admin      bool `json:"admin,omitempty"`
	// Identity: cross-signing keys were uploaded since; the ones of before are back, and
	// the user's clients must upload theirs again.
	Identity bool `json:"cross_signing,omitempty"`
	// LoggedIn are devices of since that must log in anew; LoggedOut are devices that
	// were logged out since, and whose tokens are valid again.
	LoggedIn  int `json:"logged_in,omitempty"`
	LoggedOut int `json:"logged_out,omitempty"`
	// Sent counts the user's own events.
	Sent        int `json:"sent,omitempty"`
	AccountData int `json:"account_data,omitempty"`
	Profile     int `json:"profile,omitempty"`
	// ThreePIDs are mail addresses and phone numbers added or removed.
	ThreePIDs int `json:"threepids,omitempty"`
	// Media are uploads that the database does not know any more; the files are still
	// in the media store. MediaDeleted are entries that are back without their files.
	Media        int   `json:"media,omitempty"`
	MediaBytes   int64 `json:"media_bytes,omitempty"`
	MediaDeleted int   `json:"media_deleted,omitempty"`
	// BackupKeys are changes to the keys in the server-side key backup; Backups are
	// versions of it that were made or deleted.
	BackupKeys int `json:"backup_keys,omitempty"`
	Backups    int `json:"backups,omitempty"`
	// ToDevice are to-device messages that no device had fetched; ToDeviceAgain are
	// there again though they were fetched.
	ToDevice      int `json:"to_device,omitempty"`
	ToDeviceAgain int `json:"to_device_again,omitempty"`
}

func (u *UserLoss) weight() int {
	n := u.Sent + u.AccountData + u.Profile + u.ThreePIDs + u.Media + u.MediaDeleted + u.BackupKeys + u.Backups +
		u.ToDevice + u.ToDeviceAgain + u.LoggedIn + u.LoggedOut
	for _, b := range []bool{u.Registered, u.Deactivated, u.Erased, u.Password, u.Restricted, u.Admin, u.Identity} {
		if b {
			n += 1000 // first in the list: somebody has to act
		}
	}
	return n
}

// Totals are sums over all rooms and users.
type Totals struct {
	Events // all that were undone, returning ones too
	// Returns are those of Events in rooms that other servers hold.
	Returns      int   `json:"returns"`
	RoomsCreated int   `json:"rooms_created,omitempty"`
	RoomsPurged  int   `json:"rooms_purged,omitempty"`
	Registered   int   `json:"registered,omitempty"`
	Deactivated  int   `json:"deactivated,omitempty"`
	Passwords    int   `json:"passwords,omitempty"`
	LoggedIn     int   `json:"logged_in,omitempty"`
	LoggedOut    int   `json:"logged_out,omitempty"`
	AccountData  int   `json:"account_data,omitempty"`
	Media        int   `json:"media,omitempty"`
	MediaBytes   int64 `json:"media_bytes,omitempty"`
	BackupKeys   int   `json:"backup_keys,omitempty"`
	ToDevice     int   `json:"to_device,omitempty"`
}

// Lost counts the events that no other server holds.
func (t Totals) Lost() int { return t.Sum() - t.Returns }

// Empty reports that nothing was undone.
func (l *Loss) Empty() bool {
	return len(l.Rooms) == 0 && len(l.Users) == 0 && l.MoreRooms == 0 && l.MoreUsers == 0 && l.Unread == 0 && len(l.Holes) == 0
}

// Again gives the users whose deactivation or erasure was undone, ascending.
func (l *Loss) Again() []string {
	var out []string
	for _, u := range l.Users {
		if u.Deactivated || u.Erased {
			out = append(out, u.User)
		}
	}
	slices.Sort(out)
	return out
}

// Domain is the server's part of a user id, an alias, or a room id that has one.
func Domain(id string) string {
	_, domain, _ := strings.Cut(id, ":")
	return domain
}

// sum sorts the lists and fills the totals.
func (l *Loss) sum() {
	t := &l.Totals
	*t = Totals{}
	for i := range l.Rooms {
		r := &l.Rooms[i]
		t.add(r.Events)
		if r.Held {
			t.Returns += r.Sum()
		}
		t.RoomsCreated += one(r.Created)
		t.RoomsPurged += one(r.Purged)
	}
	for i := range l.Users {
		u := &l.Users[i]
		t.Registered += one(u.Registered)
		t.Deactivated += one(u.Deactivated || u.Erased)
		t.Passwords += one(u.Password)
		t.LoggedIn += u.LoggedIn
		t.LoggedOut += u.LoggedOut
		t.AccountData += u.AccountData
		t.Media += u.Media
		t.MediaBytes += u.MediaBytes
		t.BackupKeys += u.BackupKeys
		t.ToDevice += u.ToDevice
	}
	slices.SortFunc(l.Rooms, func(a, b RoomLoss) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), strings.Compare(a.Room, b.Room))
	})
	slices.SortFunc(l.Users, func(a, b UserLoss) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), strings.Compare(a.User, b.User))
	})
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
