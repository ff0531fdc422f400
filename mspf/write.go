package mspf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"

	"filippo.io/age"
)

// What is wrong with contents that are to be written.
var (
	ErrTwice       = errors.New("the same element twice")
	ErrChanged     = errors.New("the second reading of an item was another one than the first")
	ErrOneTimeKeys = errors.New("one-time keys are never archived")
	ErrTooLarge    = errors.New("larger than an archive may have it")
)

// Contents is what an archive is made of. Every item is an iterator that ends with an
// error or at its end; a nil one means that the item is not in the archive. They are
// gone through in the order of the fields, one element at a time. What order the
// elements come in, the archive keeps: the same contents give the same bytes only if
// the order is the same, too.
type Contents struct {
	Core     Core
	Archive  Archive
	Server   *Server
	Rooms    iter.Seq2[Room, error] // every room of Events; gone through twice, as m.rooms is one file; ids ascending by length, then bytes
	Details  iter.Seq2[RoomDetails, error]
	States   iter.Seq2[RoomState, error] // those of one room follow each other
	Invites  iter.Seq2[Invite, error]
	Events   iter.Seq2[Event, error] // those of one room follow each other
	Users    iter.Seq2[User, error]  // ids ascending by length, then bytes
	Profiles iter.Seq2[UserDetails, error]
	Keys     iter.Seq2[Keys, error]
	ToDevice iter.Seq2[ToDevice, error] // by user and device in order of delivery
	Database *Database
	Rows     iter.Seq2[Row, error] // those of one table follow each other; only with Database
	// Losses is called when all else is written.
	Losses func() []Loss
}

// WriteOptions say who may read the archive.
type WriteOptions struct {
	Recipients []age.Recipient // an archive whose name ends in .age is encrypted to them
	// Plaintext allows an archive that is not encrypted. Whoever reads one can be the
	// server: it holds the signing key and the password hashes.
	Plaintext bool
}

// Summary is what Write wrote.
type Summary struct {
	Integrity Integrity
	SHA256    string // of the integrity item: who keeps it can tell this archive from every other
	Report    Report
}

// Limits of the files that are written.
const (
	fileBytes    = 32 << 20  // a file is closed when it has as many
	fileElements = 100_000   // or as many elements
	maxElement   = 128 << 20 // larger ones are refused; MSC2783 knows none
)

// Write makes an archive at path. Its form follows from the name: a directory, .tar,
// .tar.gz (.tgz), .tar.zst, and each but the first with .age behind it. Until it is
// complete its name ends in .partial; whatever fails, nothing stays.
//
// Errors are [ErrPlaintext], [ErrName], [ErrExists], [ErrTwice], [ErrOneTimeKeys], [ErrTooLarge],
// and what the iterators return.
func Write(ctx context.Context, path string, c Contents, o WriteOptions) (*Summary, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	s, err := openSink(path, o, time.UnixMilli(c.Archive.Point.Time).UTC())
	if err != nil {
		return nil, err
	}
	w := &writer{
		sink: s, check: ctx.Err, table: parts(),
		sums: Integrity{Files: map[string]FileSum{}, Items: map[string]ItemSize{}},
	}
	if err := w.all(c); err != nil {
		s.abort()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	if err := s.finish(); err != nil {
		s.abort()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &w.summary, nil
}

func (c Contents) check() error {
	switch {
	case c.Core.ServerName == "":
		return errors.New("write an archive: it needs the name of its server")
	case c.Events != nil && c.Rooms == nil:
		return errors.New("write an archive: events cannot be read without the rooms that they are in")
	case (c.Database == nil) != (c.Rows == nil):
		return errors.New("write an archive: the schema and the rows of a database belong together")
	}
	return nil
}

// writer puts items into a sink and keeps what the integrity item will say.
type writer struct {
	sink    sink
	check   func() error // of the context
	table   []part
	sums    Integrity
	losses  []Loss
	summary Summary
}

func (w *writer) all(c Contents) error {
	if err := w.manifest(c); err != nil {
		return err
	}
	steps := []func() error{
		func() error { return w.document(itemCore, c.Core) },
		func() error { return w.document(itemArchive, c.Archive) },
		func() error {
			return optional(c.Server != nil, func() error { return w.document(itemServer, c.Server) })
		},
		func() error { return optional(c.Rooms != nil, func() error { return w.rooms(c.Rooms) }) },
		func() error { return each(w, itemDetails, c.Details, w.details) },
		func() error { return each(w, itemState, c.States, w.states()) },
		func() error { return each(w, itemInvites, c.Invites, w.invite) },
		func() error { return optional(c.Events != nil, func() error { return w.events(c.Events) }) },
		func() error { return each(w, itemUsers, c.Users, w.users()) },
		func() error { return each(w, itemProfiles, c.Profiles, w.profile) },
		func() error { return each(w, itemKeys, c.Keys, w.keys) },
		func() error { return each(w, itemToDevice, c.ToDevice, w.toDevice) },
		func() error { return optional(c.Database != nil, func() error { return w.database(c) }) },
		func() error { return w.report(c) },
		w.integrity,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func optional(present bool, f func() error) error {
	if !present {
		return nil
	}
	return f()
}

// manifest lists what is there and nothing else.
func (w *writer) manifest(c Contents) error {
	items := map[string]any{}
	for item, present := range map[string]bool{
		itemCore: true, itemArchive: true, itemServer: c.Server != nil, itemRooms: c.Rooms != nil, itemDetails: c.Details != nil,
		itemState: c.States != nil, itemInvites: c.Invites != nil, itemEvents: c.Events != nil, itemMeta: c.Events != nil, itemRaw: c.Events != nil,
		itemUsers: c.Users != nil, itemProfiles: c.Profiles != nil, itemKeys: c.Keys != nil, itemToDevice: c.ToDevice != nil,
		itemDatabase: c.Database != nil, itemReport: true, itemIntegrity: true,
	} {
		if !present {
			continue
		}
		v := map[string]any{"v": 1}
		if layout(item) {
			v[layoutKey] = 1
		}
		items[item] = v
	}
	b, err := document(map[string]any{"version": 0, "items": items})
	if err != nil {
		return err
	}
	return w.put("", manifestPath, b, 0)
}

func (w *writer) document(item string, v any) error {
	b, err := document(v)
	if err != nil {
		return fmt.Errorf("%s: %w", item, err)
	}
	return w.put(item, w.part(item).path, b, 1)
}

func (w *writer) part(item string) part {
	var found part
	for _, p := range w.table {
		if p.item == item {
			found = p // of two parts the numbered one, which comes last
		}
	}
	return found
}

func (w *writer) put(item, name string, b []byte, elements int64) error {
	return w.stream(item, name, int64(len(b)), elements, func(out io.Writer) error {
		_, err := out.Write(b)
		return err
	})
}

// stream writes a file whose size is known.
func (w *writer) stream(item, name string, size, elements int64, body func(io.Writer) error) error {
	out, err := w.sink.create(name, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	sum := &counter{w: out, hash: sha256.New(), size: size}
	if err := body(sum); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if sum.n != size {
		return fmt.Errorf("%s: %w", name, ErrChanged)
	}
	digest := hex.EncodeToString(sum.hash.Sum(nil))
	if item == itemIntegrity {
		w.summary.SHA256 = digest
		return nil
	}
	w.sums.Files[name] = FileSum{SHA256: digest, Bytes: size}
	add := func(s ItemSize) ItemSize {
		return ItemSize{Files: s.Files + 1, Bytes: s.Bytes + size, Elements: s.Elements + elements}
	}
	if item != "" {
		w.sums.Items[item] = add(w.sums.Items[item])
	}
	w.sums.Total = add(w.sums.Total)
	return nil
}

type counter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
	size int64 // that was announced
}

func (c *counter) Write(p []byte) (int, error) {
	if c.n+int64(len(p)) > c.size {
		return 0, ErrChanged
	}
	n, err := c.w.Write(p)
	c.hash.Write(p[:n])
	c.n += int64(n)
	return n, err
}

func (w *writer) integrity() error {
	w.summary.Integrity = w.sums
	return w.document(itemIntegrity, w.sums)
}
