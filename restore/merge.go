package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// errAsBag: a key changed while its columns did not: the table is merged as a
// multiset, from the start.
var errAsBag = errors.New("merge as a bag")

// lineReader gives the bytes of a record's line.
type lineReader func(ctx context.Context, l record.Line) ([]byte, error)

// merge computes the rows of one table: the base's lines changed by records. Its
// passes come in this order: note for each record, keep for each base line, apply
// for each record again, finish. Not safe for concurrent use, but keep may run
// for different tables at once.
type merge struct {
	name     string
	from     record.LSN // records that end at or before it are in the base
	snapshot record.Snapshot
	rel      *record.Relation // the shape of the rows; nil: no base and no record yet
	bag      bool             // merge as a multiset even when there is a key
	keyed    bool
	hasher   *record.Hasher
	keys     *keyHasher
	lines    lineReader

	index
	bits uint   // the keys are done in 1<<bits ranges of their hash
	part uint64 // the range of this round

	pos      uint64 // records met in this pass
	resetPos uint64 // records up to it are void: it is the last TRUNCATE's; 0: none
	adopt    bool   // the next record's relation is the new shape (nothing is left of the old)

	digest   record.Digest // of the commit, as base and records predict
	unknown  bool          // the digest cannot be predicted
	mixed    string        // relations of different columns met: why
	fills    int           // keys with values that the source did not send
	crossing bool          // such a value moves from one key to another
	// versions are the rows, at this moment of pass 2, of keys with slotFill.
	versions map[keyHash][]byte

	last *record.Relation // the last record's relation, and how it fits
	fit  relationFit

	key    []byte
	fields [][]byte
	other  [][]byte
	text   []byte
}

// relationFit says how a record's relation relates to the table's shape.
type relationFit struct {
	same bool
	from []int // else for each of our columns its place in theirs, -1: none
}

// begin starts round part of 1<<bits; the digest is predicted in the first.
func (m *merge) begin(base record.Digest, shape *record.Relation) {
	m.index.clear()
	m.pos, m.resetPos, m.adopt, m.rel = 0, 0, shape == nil, shape
	if m.part == 0 {
		m.digest, m.unknown, m.mixed = base, shape == nil, ""
	}
	m.keyed = !m.bag && shape != nil && len(shape.Key) > 0
	m.fills, m.crossing, m.versions = 0, false, map[keyHash][]byte{}
	m.last = nil
}

// again starts the pass after note: the same records come from the start.
func (m *merge) again() { m.pos = 0 }

// wants reports whether a transaction's records are not in the base.
func (m *merge) wants(t *record.Transaction) bool {
	return t.End > m.from && !m.snapshot.Sees(t.XID)
}

// mine reports whether a key belongs to this round.
func (m *merge) mine(k keyHash) bool { return m.bits == 0 || k.hi>>(64-m.bits) == m.part }

// whole reports that every line of the base is part of the result.
func (m *merge) whole() bool { return m.n == 0 && m.bits == 0 && m.resetPos == 0 }

// empty reports that no line of the base is.
func (m *merge) empty() bool { return m.resetPos != 0 }

// note is pass 1. It returns errBudget, before it has done anything, when the
// index cannot grow; the caller makes room and calls again.
func (m *merge) note(ctx context.Context, rel *record.Relation, r *record.Record) error {
	if r.Op != record.Insert && r.Op != record.Truncate {
		if err := m.reserve(2); err != nil {
			return err
		}
	}
	m.pos++
	if r.Op == record.Truncate {
		m.index.clear()
		m.resetPos, m.adopt = m.pos, true
		m.fills, m.crossing = 0, false
		if m.part == 0 {
			m.digest, m.unknown, m.mixed = record.Digest{}, false, ""
		}
		return nil
	}
	if m.adopt {
		m.reshape(rel)
	}
	if err := m.relate(rel); err != nil {
		return err
	}
	before, after, err := m.images(ctx, r)
	if err != nil {
		return err
	}
	if m.part == 0 {
		m.predict(r.Op, before, after)
	}
	if m.keyed {
		return m.noteKeyed(r.Op, before, after)
	}
	if before == nil {
		if r.Op != record.Insert {
			return m.hole("an update or delete without its old row in a table without a key")
		}
		return nil
	}
	k := m.keys.sum(before)
	if !m.mine(k) {
		return nil
	}
	s := m.take(k)
	if s.v>>32&bagMax == bagMax {
		return m.hole("more than 2^31 deletions of equal rows")
	}
	s.v += bagTake
	return nil
}

func (m *merge) noteKeyed(op record.Op, before, after []byte) error {
	if op == record.Insert {
		k, err := m.keyOf(after)
		if err != nil || !m.mine(k) {
			return err
		}
		if s := m.find(k); s != nil {
			s.v = s.v&^slotPos | m.pos
		}
		return nil
	}
	fill := after != nil && hasUnknown(after)
	newKey, oldKey, err := m.bothKeys(before, after)
	if err != nil {
		return err
	}
	if fill && oldKey != newKey {
		m.crossing = true
	}
	m.noteKey(oldKey, fill)
	if newKey != oldKey {
		m.noteKey(newKey, fill)
	}
	return nil
}

func (m *merge) noteKey(k keyHash, fill bool) {
	if !m.mine(k) {
		return
	}
	s := m.take(k)
	if fill && s.v&slotFill == 0 {
		s.v |= slotFill
		m.fills++
	}
	s.v = s.v&^slotPos | m.pos
}

// bothKeys gives the keys of an update or a delete; for a delete both are that
// of the old row.
func (m *merge) bothKeys(before, after []byte) (newKey, oldKey keyHash, err error) {
	if after != nil {
		if newKey, err = m.keyOf(after); err != nil {
			return
		}
	}
	if before == nil { // a minimal identity whose key did not change
		return newKey, newKey, nil
	}
	if oldKey, err = m.keyOf(before); err != nil {
		return
	}
	if after == nil {
		newKey = oldKey
	}
	return newKey, oldKey, nil
}

func (m *merge) keyOf(line []byte) (keyHash, error) {
	var err error
	m.key, m.fields, err = record.AppendKey(m.key[:0], line, m.rel, m.fields)
	if err != nil {
		return keyHash{}, fmt.Errorf("table %s: %w", m.name, err)
	}
	if len(m.key) >= 2 && bytes.Contains(m.key, []byte(`\U`)) {
		for _, c := range m.rel.Key {
			if record.Unknown(m.fields[c]) {
				return keyHash{}, m.hole("a record without its key")
			}
		}
	}
	return m.keys.sum(m.key), nil
}

// predict carries the digest along a record.
func (m *merge) predict(op record.Op, before, after []byte) {
	if m.unknown {
		return
	}
	if (op == record.Update && before == nil) || (before != nil && hasUnknown(before)) || (after != nil && hasUnknown(after)) {
		m.unknown = true
		return
	}
	if before != nil {
		m.digest.Sub(m.hasher.Line(before))
	}
	if after != nil {
		m.digest.Add(m.hasher.Line(after))
	}
}

// keep is pass 2 for the base: whether the line is part of the result as it is.
// It must not be called after a TRUNCATE ([merge.empty]).
func (m *merge) keep(line []byte) (bool, error) {
	k, err := m.lineKey(line)
	if err != nil || !m.mine(k) {
		return false, err
	}
	s := m.find(k)
	if s == nil {
		return true, nil
	}
	if !m.keyed {
		return m.keepBag(s), nil
	}
	if s.v&slotLive != 0 {
		return false, m.hole("two rows of one key in its base")
	}
	s.v |= slotLive
	if s.v&slotFill != 0 {
		m.versions[k] = bytes.Clone(line)
	}
	return false, nil
}

// lineKey hashes what names a line: its key, or all of it.
func (m *merge) lineKey(line []byte) (keyHash, error) {
	if m.keyed {
		return m.keyOf(line)
	}
	return m.keys.sum(line), nil
}

func (m *merge) keepBag(s *slot) bool {
	if s.v>>32&bagMax == 0 {
		return true
	}
	s.v = s.v - bagTake + bagHeld
	return false
}

// apply is pass 2 for a record; emit gets the rows that the result has from it,
// valid during the call.
func (m *merge) apply(ctx context.Context, rel *record.Relation, r *record.Record, emit func(line []byte) error) error {
	m.pos++
	if m.pos <= m.resetPos {
		return nil
	}
	if err := m.relate(rel); err != nil {
		return err
	}
	before, after, err := m.images(ctx, r)
	if err != nil {
		return err
	}
	if !m.keyed {
		return m.applyBag(before, after, emit)
	}
	if r.Op == record.Insert {
		k, err := m.keyOf(after)
		if err != nil || !m.mine(k) {
			return err
		}
		s := m.find(k)
		if s == nil {
			return emit(after)
		}
		return m.arrive(s, k, after, nil, emit)
	}
	newKey, oldKey, err := m.bothKeys(before, after)
	if err != nil {
		return err
	}
	var prior []byte
	if m.mine(oldKey) {
		if prior, err = m.leave(oldKey); err != nil {
			return err
		}
	}
	if after == nil || !m.mine(newKey) {
		return nil
	}
	return m.arrive(m.find(newKey), newKey, after, prior, emit)
}

// leave ends the life of a key's row and gives what is known of it.
func (m *merge) leave(k keyHash) ([]byte, error) {
	s := m.find(k)
	if s == nil {
		return nil, errors.New("merge: a key that pass 1 did not see")
	}
	if s.v&slotLive == 0 {
		return nil, m.hole("an update or delete that meets no row")
	}
	s.v &^= slotLive
	v := m.versions[k]
	delete(m.versions, k)
	return v, nil
}

// arrive begins the life of a key's row; it is emitted when it is the newest.
func (m *merge) arrive(s *slot, k keyHash, line []byte, prior []byte, emit func([]byte) error) error {
	if s.v&slotLive != 0 {
		return m.hole("an insert that meets a live key")
	}
	s.v |= slotLive
	if s.v&slotFill == 0 {
		if s.v&slotPos == m.pos {
			return emit(line)
		}
		return nil
	}
	full := bytes.Clone(line)
	if hasUnknown(line) {
		if prior == nil {
			return m.hole("an unknown value whose row is not there")
		}
		if full = m.fillFrom(nil, line, prior); hasUnknown(full) {
			return m.hole("a value that no record and no base has")
		}
	}
	if s.v&slotPos == m.pos {
		return emit(full)
	}
	m.versions[k] = full
	return nil
}

// fillFrom appends line with its unknown values taken from older; both have the
// table's shape, which images and keep have checked.
func (m *merge) fillFrom(dst, line, older []byte) []byte {
	n := len(m.rel.Columns)
	m.fields, m.other = m.fields[:0], m.other[:0]
	_ = record.Fields(line, n, func(_ int, f []byte) { m.fields = append(m.fields, f) })
	_ = record.Fields(older, n, func(_ int, f []byte) { m.other = append(m.other, f) })
	for i, f := range m.fields {
		if i > 0 {
			dst = append(dst, '\t')
		}
		if record.Unknown(f) && i < len(m.other) {
			f = m.other[i]
		}
		dst = append(dst, f...)
	}
	return dst
}

func (m *merge) applyBag(before, after []byte, emit func([]byte) error) error {
	if before != nil {
		if k := m.keys.sum(before); m.mine(k) {
			s := m.find(k)
			if s == nil || uint32(s.v) == 0 {
				return m.hole("an update or delete that meets no row")
			}
			s.v -= bagHeld
		}
	}
	if after == nil {
		return nil
	}
	k := m.keys.sum(after)
	if !m.mine(k) {
		return nil
	}
	if s := m.find(k); s != nil && !m.keepBag(s) {
		return nil
	}
	return emit(after)
}

// finish checks, after the last record, that nothing is left over.
func (m *merge) finish() error {
	if m.keyed {
		return nil
	}
	for i := range m.slots {
		if s := &m.slots[i]; s.v != 0 && (s.v>>32&bagMax != 0 || uint32(s.v) != 0) {
			return m.hole("an update or delete that meets no row")
		}
	}
	return nil
}

func (m *merge) hole(what string) error {
	return fmt.Errorf("table %s: the records have a hole: %s: %w", m.name, what, chunkstore.ErrDamaged)
}

// hasUnknown reports whether a line has a field that the source did not send. \U
// after another backslash is a value.
func hasUnknown(line []byte) bool {
	for off := 0; ; {
		i := bytes.Index(line[off:], []byte(`\U`))
		if i < 0 {
			return false
		}
		i += off
		if (i == 0 || line[i-1] == '\t') && (i+2 == len(line) || line[i+2] == '\t') {
			return true
		}
		off = i + 2
	}
}
