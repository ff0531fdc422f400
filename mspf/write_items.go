package mspf

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"lifeboat.im/lifeboat/mspf/event"
)

// numbered writes the files of one part, one after the other.
type numbered struct {
	w    *writer
	part part
	b    builder
	n    int // the number of the file that is being collected
}

func (w *writer) numbered(item string) *numbered { return &numbered{w: w, part: w.part(item), n: 1} }

// room makes room for an element of so many bytes.
func (n *numbered) room(bytes int) error {
	if bytes > maxElement {
		return fmt.Errorf("%s: an element of %d bytes is %w", n.part.item, bytes, ErrTooLarge)
	}
	if n.full(bytes) {
		return n.flush()
	}
	return nil
}

func (n *numbered) full(bytes int) bool {
	return n.b.count >= fileElements || n.b.count > 0 && n.b.bytes+bytes > fileBytes
}

func (n *numbered) flush() error {
	name := strings.Replace(n.part.path, "N", strconv.Itoa(n.n), 1)
	elements := n.b.count
	if n.part.form == byKey {
		elements = int64(len(n.b.root.kids))
	}
	err := n.w.stream(n.part.item, name, n.b.size(), elements, func(out io.Writer) error {
		all := bufio.NewWriterSize(out, pieceBytes)
		if err := n.b.writeTo(all); err != nil {
			return err
		}
		return all.Flush()
	})
	n.b.reset()
	n.n++
	return err
}

// finish writes what is left; an item always has a first file.
func (n *numbered) finish() error {
	if n.b.count > 0 || n.n == 1 {
		return n.flush()
	}
	return nil
}

// set puts the one value of a key. A key that the file has already is a mistake.
func (n *numbered) set(v any, path ...string) error {
	raw, err := encodeShallow(v)
	if err != nil {
		return fmt.Errorf("%s %s: %w", n.part.item, path[0], err)
	}
	if err := n.room(len(raw)); err != nil {
		return err
	}
	n.b.count++
	if err := n.b.set(raw, path...); err != nil {
		return fmt.Errorf("%s: %w", n.part.item, err)
	}
	return nil
}

func (n *numbered) add(v any, path ...string) error {
	raw, err := encodeShallow(v)
	if err != nil {
		return fmt.Errorf("%s %s: %w", n.part.item, path[0], err)
	}
	if err := n.room(len(raw)); err != nil {
		return err
	}
	n.b.count++
	return n.b.add(raw, path...)
}

// each writes the elements of an item that has its own files.
func each[T any](w *writer, item string, seq iter.Seq2[T, error], put func(*numbered, T) error) error {
	if seq == nil {
		return nil
	}
	n := w.numbered(item)
	for v, err := range seq {
		if err := cmp.Or(err, w.check()); err != nil {
			return fmt.Errorf("%s: %w", item, err)
		}
		if err := put(n, v); err != nil {
			return err
		}
	}
	return n.finish()
}

// rooms goes through m.rooms twice, because it is one file of any size: once to
// measure it, once to write it.
func (w *writer) rooms(seq iter.Seq2[Room, error]) error {
	var count, size int64
	last := ""
	pass := func(out func([]byte) error) error {
		count, last = 0, ""
		for r, err := range seq {
			if err := cmp.Or(err, w.check()); err != nil {
				return fmt.Errorf("%s: %w", itemRooms, err)
			}
			if count > 0 && keyLess(last, r.ID) >= 0 {
				return fmt.Errorf("%s: %s after %s: %w, or not in order", itemRooms, r.ID, last, ErrTwice)
			}
			last = r.ID
			count++
			raw, err := encode(r)
			if err != nil {
				return fmt.Errorf("%s %s: %w", itemRooms, r.ID, err)
			}
			if err := out(append(appendText(nil, r.ID), raw...)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := pass(func(b []byte) error { size += int64(len(b)); return nil }); err != nil {
		return err
	}
	head, want := event.AppendHead(nil, majorMap, uint64(count)), count
	return w.stream(itemRooms, w.part(itemRooms).path, size+int64(len(head)), count, func(out io.Writer) error {
		if _, err := out.Write(head); err != nil {
			return err
		}
		err := pass(func(b []byte) error { _, err := out.Write(b); return err })
		if err == nil && count != want {
			return ErrChanged
		}
		return err
	})
}

func (w *writer) details(n *numbered, d RoomDetails) error { return n.set(d, d.ID) }
func (w *writer) invite(n *numbered, i Invite) error       { return n.add(i, i.Room) }

// users holds the rule that a user is there once: their ids ascend as the keys of a file do.
func (w *writer) users() func(*numbered, User) error {
	last := ""
	return func(n *numbered, u User) error {
		if last != "" && keyLess(last, u.ID) >= 0 {
			return fmt.Errorf("%s: %s after %s: %w, or not ascending", itemUsers, u.ID, last, ErrTwice)
		}
		last = u.ID
		return n.set(u, u.ID)
	}
}

func (w *writer) profile(n *numbered, u UserDetails) error { return n.set(u, u.ID) }

func (w *writer) toDevice(n *numbered, m ToDevice) error { return n.add(m.Message, m.User, m.Device) }

// states codes each state as its difference from the one before of the same room in
// the same file.
func (w *writer) states() func(*numbered, RoomState) error {
	before := map[[2]string]string{}
	room, file := "", 0
	return func(n *numbered, s RoomState) error {
		now := make(map[[2]string]string, len(s.State))
		for _, e := range s.State {
			now[[2]string{e.Type, e.Key}] = e.EventID
		}
		// The whole state may be what opens the next file, so ask with its size.
		if n.full(100 * len(now)) {
			if err := n.flush(); err != nil {
				return err
			}
		}
		x := Snapshot{EventID: s.Event, Delta: s.Room == room && n.n == file}
		if !x.Delta {
			before = nil
		}
		for k, id := range now {
			if before[k] != id {
				x.Set = append(x.Set, StateEntry{Type: k[0], Key: k[1], EventID: id})
			}
		}
		for k := range before {
			if _, ok := now[k]; !ok {
				x.Gone = append(x.Gone, k)
			}
		}
		slices.SortFunc(x.Set, func(a, b StateEntry) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Key, b.Key)) })
		slices.SortFunc(x.Gone, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
		before, room, file = now, s.Room, n.n
		raw, err := encode(x)
		if err != nil {
			return err
		}
		if len(raw) > maxElement {
			return fmt.Errorf("%s: the state of %s is %w", itemState, s.Room, ErrTooLarge)
		}
		n.b.count++
		return n.b.add(raw, s.Room)
	}
}

// events writes three items that go side by side: the events, what the server keeps
// beside them, and the text of those that CBOR does not carry exactly.
func (w *writer) events(seq iter.Seq2[Event, error]) error {
	ev, meta, rawText := w.numbered(itemEvents), w.numbered(itemMeta), w.numbered(itemRaw)
	unreadable, inexact, deep := map[string]int64{}, int64(0), int64(0)
	text := func(e Event) error {
		own, err := event.StripText(e.JSON)
		if err != nil { // too deep to be read, and not JSON further on
			unreadable[e.Room]++
			return nil
		}
		return rawText.set(strings.ToValidUTF8(string(own), "\uFFFD"), e.Room, e.Meta.EventID)
	}
	for e, err := range seq {
		if err := cmp.Or(err, w.check()); err != nil {
			return fmt.Errorf("%s: %w", itemEvents, err)
		}
		raw, exact := e.CBOR, len(e.JSON) == 0
		if len(raw) == 0 {
			raw, exact, err = encodeText(e.JSON)
		}
		switch {
		case errors.Is(err, event.ErrDeep):
			deep++
			if err := text(e); err != nil {
				return err
			}
			continue
		case errors.Is(err, event.ErrJSON):
			unreadable[e.Room]++
			continue
		case err != nil:
			return fmt.Errorf("%s %s: %w", itemEvents, e.Meta.EventID, err)
		}
		if ev.full(len(raw)) || meta.b.bytes+len(raw) > fileBytes {
			if err := errors.Join(ev.flush(), meta.flush()); err != nil {
				return err
			}
		}
		ev.b.count++
		if err := errors.Join(ev.b.add(raw, e.Room), meta.add(e.Meta, e.Room)); err != nil {
			return err
		}
		if !exact {
			inexact++
			if err := text(e); err != nil {
				return err
			}
		}
	}
	for _, room := range slices.Sorted(maps.Keys(unreadable)) {
		w.losses = append(w.losses, Loss{itemEvents, room, "event_unreadable", Unsupported, unreadable[room], "what is stored is not a JSON object"})
	}
	if inexact > 0 {
		w.losses = append(w.losses, Loss{itemEvents, "", "event_inexact", Lossy, inexact, "CBOR does not carry numbers or half surrogates of these events exactly; " + itemRaw + " has their text"})
	}
	if deep > 0 {
		w.losses = append(w.losses, Loss{itemEvents, "", "event_deep", Lossy, deep, event.ErrDeep.Error() + "; " + itemRaw + " has their text"})
	}
	return errors.Join(ev.finish(), meta.finish(), rawText.finish())
}

func encodeText(text []byte) (raw []byte, exact bool, err error) {
	tree, exact, err := event.Parse(text)
	if err != nil {
		return nil, false, err
	}
	event.Strip(tree)
	raw, err = encode(tree)
	return raw, exact, err
}

// keys puts the parts of a user's record together where they meet in one file.
func (w *writer) keys(n *numbered, k Keys) error {
	put := func(v any, path ...string) error { return n.set(v, append([]string{k.User}, path...)...) }
	for _, m := range []struct {
		name string
		vals map[string]any
	}{{"device_keys", k.DeviceKeys}, {"cross_signing", k.CrossSigning}} {
		for _, id := range slices.Sorted(maps.Keys(m.vals)) {
			if err := put(m.vals[id], m.name, id); err != nil {
				return err
			}
		}
	}
	for _, device := range slices.Sorted(maps.Keys(k.FallbackKeys)) {
		for _, id := range slices.Sorted(maps.Keys(k.FallbackKeys[device])) {
			if err := put(k.FallbackKeys[device][id], "fallback_keys", device, id); err != nil {
				return err
			}
		}
	}
	for _, s := range k.Signatures {
		if err := n.add(s, k.User, "signatures"); err != nil {
			return err
		}
	}
	for _, version := range slices.Sorted(maps.Keys(k.Backups)) {
		if err := backup(k.Backups[version], version, put); err != nil {
			return err
		}
	}
	return nil
}

func backup(b Backup, version string, put func(v any, path ...string) error) error {
	if b.Algorithm != "" {
		for _, f := range []struct {
			name string
			v    any
		}{{"algorithm", b.Algorithm}, {"auth_data", b.AuthData}, {"etag", b.Etag}, {"deleted", b.Deleted}} {
			if err := put(f.v, "backups", version, f.name); err != nil {
				return err
			}
		}
	}
	for _, room := range slices.Sorted(maps.Keys(b.Rooms)) {
		for _, session := range slices.Sorted(maps.Keys(b.Rooms[room])) {
			if err := put(b.Rooms[room][session], "backups", version, "rooms", room, session); err != nil {
				return err
			}
		}
	}
	return nil
}

// oneTimeKeys are kept by Synapse in a table of this name.
const oneTimeKeys = "e2e_one_time_keys_json"

func (w *writer) database(c Contents) error {
	schema, err := document(c.Database)
	if err != nil {
		return err
	}
	if err := w.put(itemDatabase, Prefix+"synapse/schema.json", schema, 1); err != nil {
		return err
	}
	var head []byte
	return each(w, itemDatabase, c.Rows, func(n *numbered, r Row) error {
		if r.Table == oneTimeKeys {
			return fmt.Errorf("%s: %w: rows of %s", itemDatabase, ErrOneTimeKeys, r.Table)
		}
		if !utf8.Valid(r.Line) {
			return fmt.Errorf("%s: %w: a row of %s is not UTF-8", itemDatabase, ErrCBOR, r.Table)
		}
		head = event.AppendHead(head[:0], majorText, uint64(len(r.Line)))
		if err := n.room(len(head) + len(r.Line)); err != nil {
			return err
		}
		n.b.count++
		return n.b.append(head, r.Line, r.Table)
	})
}

// report is M3. That one-time keys are left out is a choice, not a loss: fallback keys
// stand in for them, and so it does not make an archive incomplete.
func (w *writer) report(c Contents) error {
	losses := w.losses
	if c.Losses != nil {
		losses = append(losses, c.Losses()...)
	}
	slices.SortFunc(losses, func(a, b Loss) int {
		return cmp.Or(cmp.Compare(a.Item, b.Item), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Key, b.Key), cmp.Compare(a.State, b.State), cmp.Compare(a.Count, b.Count), cmp.Compare(a.Reason, b.Reason))
	})
	complete := !slices.ContainsFunc(losses, func(l Loss) bool { return l.State != Absent })
	w.summary.Report = Report{Complete: complete, Losses: losses}
	return w.document(itemReport, w.summary.Report)
}
