package mspf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
	"lifeboat.im/lifeboat/mspf/event"
)

// What is wrong with the files of an archive.
var (
	ErrOrder     = errors.New("a file that is not where an archive has it")
	ErrOwner     = errors.New("a file of no item that the manifest lists")
	ErrIntegrity = errors.New("the archive was altered: it is not what its integrity item says")
	ErrDocument  = errors.New("not the JSON of an archive")
)

// ReadOptions say how an archive is read.
type ReadOptions struct {
	Identities []age.Identity // that may open an encrypted archive
	// AcceptUnknown names m.* items that are passed over although they are not understood.
	// Their loss is the caller's decision; they are listed in [Outcome.Skipped].
	AcceptUnknown []string
	// AllowIncomplete reads an archive without an integrity item. It may be cut off; other
	// implementations of MSC2783 write none.
	AllowIncomplete bool
	Limits          Limits
}

// Element is one entry of an item: the document of a JSON item, the value of a key, or
// one entry of a key's array.
type Element struct {
	Item  string
	File  string
	Key   string // room id, user id or table; "" of a document
	Index int    // the place in the key's array in this file
	raw   []byte
}

// Tree gives the element as a tree (see package event).
func (e Element) Tree() (any, error) { return decodeTree(e.raw) }

// Decode puts the element into the Go type that this package has for it, or into one
// with the same tags: [Core], [Archive], [Server], [Room], [RoomDetails], [Snapshot],
// [Invite], [EventMeta], [User], [UserDetails], [Keys], [Database], [Report]. An event
// is a map[string]any, raw_events a map[string]string from event id to text, to_device
// a map[string][]any by device, a row a string. The fields that the key stands for
// (Room.ID, User.ID, …) stay empty.
func (e Element) Decode(into any) error {
	if err := coding().dec.Unmarshal(e.raw, into); err != nil {
		return fmt.Errorf("decode %s of %s: %w: %w", e.Key, e.Item, ErrCBOR, err)
	}
	return nil
}

// Outcome is what was learned on the way through an archive.
type Outcome struct {
	Core     Core
	Archive  *Archive // nil in archives of other writers
	Report   *Report
	Items    map[string]ItemSize // as counted
	Skipped  []string            // items that were passed over
	Complete bool                // the integrity item was there and is right
	Files    int
	SHA256   string // of the integrity item
}

// Read goes through an archive once, in its order, and hands f every element of the
// items that the manifest lists. Before the first one the manifest's rules are applied,
// but whether the archive is whole is known only at its end: who writes somewhere what
// f gets goes through it with [Verify] before.
//
// What f returns ends it. Errors are those of this package, one for each way in which
// an archive can be hostile or broken.
func Read(ctx context.Context, path string, o ReadOptions, f func(Element) error) (*Outcome, error) {
	return walk(ctx, path, o, hooks{element: f})
}

// hooks are what walk does beside reading. Nil ones are left out.
type hooks struct {
	element func(Element) error
	// file is called when a numbered or whole file ends; plain says that its CBOR was in
	// shortest form.
	file func(p part, name string, n int, plain bool) error
	// sizes: elements are not read, only counted from the integrity item.
	sizes bool
}

// walker goes through the files of an archive.
type walker struct {
	hooks
	o       ReadOptions
	check   func() error // of the context
	table   []part
	plan    plan
	sums    map[string]FileSum
	next    map[string]int // by part: the number of its next file
	rank    int
	done    bool // the integrity item was read
	wanted  Integrity
	outcome Outcome
}

func walk(ctx context.Context, path string, o ReadOptions, h hooks) (_ *Outcome, err error) {
	o.Limits = o.Limits.orDefault()
	src, err := openSource(path, o.Identities, o.Limits)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	w := newWalker(ctx, o, h)
	if err := w.files(src); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := w.finish(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	w.outcome.Skipped = w.plan.skipped
	w.outcome.Files = len(w.sums)
	return &w.outcome, nil
}

func newWalker(ctx context.Context, o ReadOptions, h hooks) *walker {
	return &walker{
		hooks: h, o: o, check: ctx.Err, table: parts(), sums: map[string]FileSum{}, next: map[string]int{},
		outcome: Outcome{Items: map[string]ItemSize{}},
	}
}

func (w *walker) files(src source) error {
	for first := true; ; first = false {
		if err := w.check(); err != nil {
			return err
		}
		m, err := src.next()
		if errors.Is(err, io.EOF) {
			if first {
				return fmt.Errorf("%w: there is no %s", ErrManifest, manifestPath)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if err := checkPath(m.name); err != nil {
			return err
		}
		if _, twice := w.sums[m.name]; twice {
			return fmt.Errorf("%w: %s", ErrDuplicate, m.name)
		}
		if first != (m.name == manifestPath) {
			return fmt.Errorf("%w: %s comes first, not %s", ErrOrder, manifestPath, m.name)
		}
		sum := &summer{r: m.body, hash: sha256.New()}
		if err := w.one(m, sum, first); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if _, err := io.Copy(io.Discard, sum); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		digest := hex.EncodeToString(sum.hash.Sum(nil))
		w.sums[m.name] = FileSum{SHA256: digest, Bytes: sum.n}
		if w.done {
			w.outcome.SHA256 = digest
		}
	}
}

func (w *walker) one(m *member, body *summer, first bool) error {
	if first {
		text, err := w.small(m, body)
		if err != nil {
			return err
		}
		w.plan, err = readManifest(text, w.o.AcceptUnknown)
		return err
	}
	if w.done {
		return fmt.Errorf("%w: it comes after the integrity item", ErrOrder)
	}
	p, n, ok := partOf(w.table, m.name)
	if !ok || !w.plan.known[p.item] {
		return w.foreign(m.name)
	}
	if p.rank < w.rank {
		return fmt.Errorf("%w: it comes too late", ErrOrder)
	}
	w.rank = p.rank
	if n > 0 {
		if want := w.next[p.path] + 1; n != want {
			return fmt.Errorf("%w: number %d is missing", ErrOrder, want)
		}
		w.next[p.path] = n
	}
	if p.item != itemRooms && m.size > w.o.Limits.FileBytes {
		return fmt.Errorf("%w: %d bytes; at most %d", ErrTooLarge, m.size, w.o.Limits.FileBytes)
	}
	size := w.outcome.Items[p.item]
	elements, err := w.content(p, n, m, body)
	if err != nil {
		return err
	}
	w.outcome.Items[p.item] = ItemSize{Files: size.Files + 1, Bytes: size.Bytes + m.size, Elements: size.Elements + elements}
	return nil
}

// foreign finds the item that a file of a passed-over item belongs to.
func (w *walker) foreign(name string) error {
	for _, item := range w.plan.skipped {
		if owns(item, name) {
			return nil
		}
	}
	return ErrOwner
}

// small reads a JSON file whole.
func (w *walker) small(m *member, body io.Reader) ([]byte, error) {
	if m.size > w.o.Limits.FileBytes {
		return nil, fmt.Errorf("%w: %d bytes; at most %d", ErrTooLarge, m.size, w.o.Limits.FileBytes)
	}
	return io.ReadAll(io.LimitReader(body, w.o.Limits.FileBytes))
}

func (w *walker) content(p part, n int, m *member, body io.Reader) (elements int64, err error) {
	plain := true
	switch {
	case p.form == doc:
		elements, err = 1, w.document(p, m, body)
	case w.sizes:
		return 0, nil
	default:
		s := newScanner(body)
		elements, err = w.entries(p, m.name, s)
		plain = s.plain
	}
	if err != nil || w.file == nil {
		return elements, err
	}
	return elements, w.file(p, m.name, n, plain)
}

func (w *walker) document(p part, m *member, body io.Reader) error {
	text, err := w.small(m, body)
	if err != nil {
		return err
	}
	tree, _, err := event.Parse(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	raw, err := encode(tree)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDocument, err)
	}
	e := Element{Item: p.item, File: m.name, raw: raw}
	if err := w.learn(e); err != nil {
		return err
	}
	if w.element == nil {
		return nil
	}
	return w.element(e)
}

// learn keeps what the walker itself needs of a document.
func (w *walker) learn(e Element) error {
	switch e.Item {
	case itemCore:
		return e.Decode(&w.outcome.Core)
	case itemArchive:
		w.outcome.Archive = &Archive{}
		return e.Decode(w.outcome.Archive)
	case itemReport:
		w.outcome.Report = &Report{}
		return e.Decode(w.outcome.Report)
	case itemIntegrity:
		w.done = true
		return e.Decode(&w.wanted)
	}
	return nil
}

// entries reads the one map of a CBOR file.
func (w *walker) entries(p part, name string, s *scanner) (int64, error) {
	keys, err := s.count(majorMap, "a map")
	if err != nil {
		return 0, err
	}
	var elements int64
	last := ""
	for i := range keys {
		key, err := s.key()
		if err != nil {
			return 0, err
		}
		if !utf8.ValidString(key) {
			return 0, s.fail("a key is not UTF-8")
		}
		if i > 0 && keyLess(last, key) >= 0 {
			return 0, s.fail("the key %q after %q: not in order, or twice", key, last)
		}
		last = key
		n := uint64(1)
		if p.form == lists {
			if n, err = s.count(majorArray, "an array"); err != nil {
				return 0, err
			}
		}
		for j := range n {
			raw, err := s.value()
			if err != nil {
				return 0, err
			}
			if err := w.check(); err != nil {
				return 0, err
			}
			elements++
			if w.element == nil {
				continue
			}
			if err := w.element(Element{Item: p.item, File: name, Key: key, Index: int(j), raw: raw}); err != nil {
				return 0, err
			}
		}
	}
	return elements, s.end()
}

// finish holds what was read against what the archive says of itself.
func (w *walker) finish() error {
	for item := range w.plan.known {
		if w.outcome.Items[item].Files == 0 && !w.o.AllowIncomplete {
			return fmt.Errorf("%w: the manifest lists %s, and no file of it is there", ErrTruncated, item)
		}
	}
	if !w.done {
		if w.o.AllowIncomplete {
			return nil
		}
		return fmt.Errorf("%w: it has no integrity item. It may be cut off, or of another writer", ErrTruncated)
	}
	var wrong []string
	for name, want := range w.wanted.Files {
		if got, ok := w.sums[name]; !ok {
			wrong = append(wrong, name+" is missing")
		} else if got != want {
			wrong = append(wrong, name+" is another one")
		}
	}
	for name := range w.sums {
		if _, ok := w.wanted.Files[name]; !ok && name != Prefix+"integrity.json" {
			wrong = append(wrong, name+" was added")
		}
	}
	for item, want := range w.wanted.Items {
		if got := w.outcome.Items[item]; w.plan.known[item] && !w.sizes && got != want && item != itemIntegrity {
			wrong = append(wrong, fmt.Sprintf("%s has %d elements, not %d", item, got.Elements, want.Elements))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrIntegrity, first(wrong, 5))
	}
	if w.sizes {
		for item, s := range w.wanted.Items {
			w.outcome.Items[item] = s
		}
	}
	w.outcome.Complete = true
	return nil
}

// summer hashes what is read.
type summer struct {
	r    io.Reader
	hash hash.Hash
	n    int64
}

func (s *summer) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.hash.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func first(list []string, n int) string {
	slices.Sort(list)
	if len(list) > n {
		return strings.Join(list[:n], ", ") + fmt.Sprintf(" and %d more", len(list)-n)
	}
	return strings.Join(list, ", ")
}
