package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Writer appends to the epoch that Begin opened. It is safe for concurrent use:
// one entry is created at a time, in the order of the calls. After ErrFenced, or an
// error that leaves a create in doubt, every call returns that error: the agent
// stops (H4), and the next start reads what became of it (H5).
type Writer struct {
	log  *Log
	keys EpochKeys

	// turn is held, by a token in it, while an entry is created; waiters are served in
	// order. Its holder owns dead, and is the only one to change view, key.
	turn chan struct{}
	dead error

	mu   sync.Mutex        // guards view and key for readers beside the holder of turn
	view *View             // all that is in the log
	key  chunkstore.Secret // of the open epoch
	met  uint64            // maintenance entries absorbed
}

// graceAfterCancel is how long a create may still take when its context has ended:
// cut short, its outcome would be in doubt, and the writer with it.
const graceAfterCancel = 20 * time.Second

// unhurried gives a context that ends graceAfterCancel after ctx.
func unhurried(ctx context.Context) (context.Context, func()) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(graceAfterCancel, cancel)
		context.AfterFunc(out, func() { t.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// maxTries is how many entries of others an entry steps over before it gives up.
const maxTries = 100

// createTries is how often one create is tried with the same bytes.
const createTries = 5

// draft is an entry that has no place yet.
type draft struct {
	sum     Summary
	body    []byte             // frames; empty: part 2 is sealed under K_seal
	bodyKey *chunkstore.Secret // nil: the open epoch's
}

func newWriter(l *Log, keys EpochKeys, v *View) *Writer {
	return &Writer{log: l, keys: keys, view: v, turn: make(chan struct{}, 1)}
}

// take waits for the turn; release gives it back.
func (w *Writer) take(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if w.dead != nil {
		<-w.turn
		return w.dead
	}
	return nil
}

func (w *Writer) release() { <-w.turn }

// kill makes an error final.
func (w *Writer) kill(err error) error {
	w.dead = err
	return err
}

// add creates one entry. plan says what it holds, given what is in the log; it is
// asked again when another entry took the number.
func (w *Writer) add(ctx context.Context, plan func(*View) (draft, error)) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.release()
	ctx, done := unhurried(ctx)
	defer done()
	return w.addHeld(ctx, plan, (*entry).absorbable)
}

// absorbable reports whether a writer may step over an entry that took its number.
func (e *entry) absorbable() bool { return e.sum.Maintenance && e.sum.Note != nil }

// addHeld is add for the holder of the turn.
func (w *Writer) addHeld(ctx context.Context, plan func(*View) (draft, error), absorb func(*entry) bool) error {
	for range maxTries {
		d, err := plan(w.view)
		if err != nil {
			return err
		}
		if err := w.log.checkReach(d.sum.Reach); err != nil {
			return err
		}
		e, err := w.log.build(w.view, d, w.key)
		if err != nil {
			return err
		}
		found, err := w.log.create(ctx, e)
		if err != nil {
			if w.log.faults.ackUnwritten && e.kind == KindSegment {
				return nil
			}
			if w.log.faults.otherNumber {
				w.view.Head = e.at
				continue
			}
			return w.kill(err)
		}
		// Durable from here on. A crash now leaves an entry that the next Load reads;
		// the caller's Confirm comes after this, so PostgreSQL sends it again at worst,
		// and transactions that end at or before Durable are dropped then.
		if found == nil {
			return w.accept(e)
		}
		if !absorb(found) {
			return w.kill(fmt.Errorf("create %s: it is a %s of another writer: %w", w.log.id.key(e.at), found.kind, ErrFenced))
		}
		if w.log.faults.unreadMaintenance {
			w.view.Head = found.at
			continue
		}
		if err := w.absorb(found); err != nil {
			return err
		}
		if found.kind == KindEnd {
			return nil // only an opener absorbs one: the epoch is closed, which is what it wants
		}
	}
	return fmt.Errorf("create after %s: %d entries of others in a row", w.view.Head, maxTries)
}

// absorb accepts an entry of somebody else's.
func (w *Writer) absorb(e *entry) error {
	if err := w.accept(e); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.met++
	return nil
}

// Absorbed counts the maintenance entries that were met so far, by Probe or by an
// append. Whoever wrote one may wait for Durable to move.
func (w *Writer) Absorbed() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.met
}

// accept takes an entry of the log into the picture.
func (w *Writer) accept(e *entry) error {
	v := w.view.clone()
	if err := v.fold(e); err != nil {
		return w.kill(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
	return nil
}

// View gives the writer's picture, with all that it wrote and absorbed.
func (w *Writer) View() *View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// build makes the entry that follows v's head.
func (l *Log) build(v *View, d draft, key chunkstore.Secret) (*entry, error) {
	h := header{kind: d.sum.kind(), id: l.id, at: v.Head.next(), prev: v.head}
	if d.sum.Epoch != nil {
		h.at = Position{}
		if d.sum.Epoch.Follows != nil {
			h.at = Position{Epoch: v.Head.Epoch + 1}
		}
	}
	if h.at.Epoch > maxNumber || h.at.Seq > maxNumber {
		return nil, fmt.Errorf("build %s: beyond ten digits", h.at)
	}
	switch {
	case len(d.body) == 0:
		key = l.secrets.Chunk.Seal
	case d.bodyKey != nil:
		key = *d.bodyKey
	}
	return l.seal.build(h, &d.sum, d.body, key)
}

// create stores an entry, once. It returns nil, nil when the object at its number
// is this one, and the other entry when it is another. Any error leaves the number
// in doubt: the same bytes are tried again, never another number (protocol §2).
func (l *Log) create(ctx context.Context, e *entry) (found *entry, err error) {
	key := l.id.key(e.at)
	for try := range createTries {
		if try > 0 {
			if perr := l.pause(ctx, 50*time.Millisecond<<try); perr != nil {
				return nil, errors.Join(err, perr)
			}
		}
		if err = l.b.Create(ctx, key, e.raw); err == nil {
			return nil, nil
		}
		if errors.Is(err, chunkstore.ErrExists) {
			var raw []byte
			if raw, err = l.b.Get(ctx, key); err == nil {
				if string(raw) == string(e.raw) || l.faults.existingIsOurs {
					return nil, nil // the reply to an earlier try was lost
				}
				return l.seal.open(l.id, e.at, raw)
			}
		}
	}
	return nil, fmt.Errorf("create %s, which is now in doubt: %w", key, err)
}

// checkReach refuses names that are condemned (H8).
func (l *Log) checkReach(names []chunkstore.Name) error {
	var bad []chunkstore.Name
	for _, n := range names {
		if l.store.Condemned(n) {
			bad = append(bad, n)
		}
	}
	if len(bad) > 0 && !l.faults.reachCondemned {
		return &ErrCondemned{Names: bad}
	}
	return nil
}

// named adds the names that a body points to itself, where the caller did not name
// them; those of long lines inside records only the caller knows.
func (l *Log) named(reach []chunkstore.Name, refs []bodyRef) []chunkstore.Name {
	have := make(map[chunkstore.Name]bool, len(reach)+len(refs))
	out := make([]chunkstore.Name, 0, len(reach)+len(refs))
	add := func(n chunkstore.Name) {
		if !have[n] {
			have[n] = true
			out = append(out, n)
		}
	}
	for _, n := range reach {
		add(n)
	}
	for _, r := range refs {
		add(l.store.Name(r.Ref))
	}
	return out
}

// maxReach is how many names stand in part 1 itself: 1 MiB.
const maxReach = 1 << 20 / 32

// reach puts a list of names into a summary, through index chunks when it is long.
func (l *Log) reach(ctx context.Context, sum *Summary, names []chunkstore.Name) error {
	if len(names) <= maxReach {
		sum.Reach = names
		return nil
	}
	for len(names) > 0 {
		n := min(len(names), maxReach)
		b := make([]byte, 0, n*len(names[0]))
		for _, name := range names[:n] {
			b = append(b, name[:]...)
		}
		p, err := l.store.Put(ctx, chunkstore.KindIndex, b, chunkstore.Fast)
		if err != nil {
			return fmt.Errorf("put the list of names: %w", err)
		}
		sum.ReachIndex = append(sum.ReachIndex, p.Ref)
		sum.Reach = append(sum.Reach, p.Name)
		names = names[n:]
	}
	return nil
}

// reached gives every name that an entry reaches.
func (l *Log) reached(ctx context.Context, sum *Summary) ([]chunkstore.Name, error) {
	out := slices.Clip(sum.Reach)
	for _, r := range sum.ReachIndex {
		b, err := l.store.Get(ctx, chunkstore.KindIndex, r)
		if err != nil {
			return nil, err
		}
		var n chunkstore.Name
		if len(b)%len(n) != 0 {
			return nil, errorf("an index chunk of %d bytes", len(b))
		}
		for ; len(b) > 0; b = b[len(n):] {
			out = append(out, chunkstore.Name(b[:len(n)]))
		}
	}
	return out, nil
}

// SegmentMeta is what the writer of a segment knows beside its body.
type SegmentMeta struct {
	// Reach names every chunk that the segment's parts and lines point to.
	Reach []chunkstore.Name
	// SchemaCertain: the newest schema note was still true at this LSN.
	SchemaCertain record.LSN
}

// Segment makes a segment durable; nil means that Confirm may move to s.End (H2).
// s.Start must be the log's Durable (R3, else ErrOrder). Parts are stored as they
// are: inline ones in the body, which stays under 16 MiB or so; those of secret
// relations in a stored frame of their own.
func (w *Writer) Segment(ctx context.Context, s *record.Segment, m SegmentMeta) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("add segment: %w", err)
	}
	body, err := segmentBody(s)
	if err != nil {
		return fmt.Errorf("add segment: %w", err)
	}
	d := draft{body: body, sum: Summary{Segment: &segmentSummary{
		Start: s.Start, End: s.End, Transactions: uint64(len(s.Transactions)), SchemaCertain: m.SchemaCertain,
	}}}
	g := d.sum.Segment
	for i := range s.Transactions {
		t := &s.Transactions[i]
		g.Records += t.Records
		if i == 0 || t.Time < g.First {
			g.First = t.Time
		}
		if i == 0 || t.Time > g.Last {
			g.Last = t.Time
		}
	}
	var refs []bodyRef
	for _, p := range s.Parts {
		if p.Chunk != nil {
			refs = extentRefs(refs, chunkstore.KindRecords, []record.Extent{*p.Chunk})
		}
	}
	reach := w.log.named(m.Reach, refs)
	if err := w.log.reach(ctx, &d.sum, reach); err != nil {
		return fmt.Errorf("add segment: %w", err)
	}
	return w.add(ctx, func(v *View) (draft, error) {
		if s.Start != v.Durable {
			return d, fmt.Errorf("add segment (%s, %s] where %s is durable: %w", s.Start, s.End, v.Durable, ErrOrder)
		}
		return d, w.log.checkReach(reach)
	})
}

// Base makes a table's copy count. reach names all chunks of its pieces.
func (w *Writer) Base(ctx context.Context, b *Base, reach []chunkstore.Name) error {
	refs, err := b.refs()
	if err != nil {
		return fmt.Errorf("add base of %s: %w", &b.Relation, err)
	}
	reach = w.log.named(reach, refs)
	plain, err := record.Marshal(b)
	if err != nil {
		return fmt.Errorf("add base of %s: %w", &b.Relation, err)
	}
	d := draft{body: appendPart(nil, plain, bodyCompression(b.Relation.Secret)), sum: Summary{Base: &baseSummary{
		Table: b.Relation.OID, Name: b.Relation.String(), RecordsFrom: b.RecordsFrom, ExactFrom: b.ExactFrom,
		Rows: b.Digest.Count, Bytes: b.Bytes, Time: b.Time, Proved: b.Proved,
	}}}
	if err := w.log.reach(ctx, &d.sum, reach); err != nil {
		return fmt.Errorf("add base of %s: %w", &b.Relation, err)
	}
	return w.add(ctx, func(*View) (draft, error) { return d, w.log.checkReach(reach) })
}

// SchemaNote adds a schema version, certain from s.From.
func (w *Writer) SchemaNote(ctx context.Context, s *Schema, reach []chunkstore.Name) error {
	reach = w.log.named(reach, s.refs())
	plain, err := record.Marshal(s)
	if err != nil {
		return fmt.Errorf("add schema: %w", err)
	}
	d := draft{
		body: appendPart(nil, plain, chunkstore.Fast),
		sum:  Summary{Schema: &schemaSummary{From: s.From, Fingerprint: s.Fingerprint}},
	}
	if err := w.log.reach(ctx, &d.sum, reach); err != nil {
		return fmt.Errorf("add schema: %w", err)
	}
	return w.add(ctx, func(*View) (draft, error) { return d, w.log.checkReach(reach) })
}

// Note adds a note. A position below the log's Durable is ErrOrder (H7).
func (w *Writer) Note(ctx context.Context, n Note) error {
	if err := n.validate(); err != nil {
		return fmt.Errorf("add note: %w", err)
	}
	return w.add(ctx, func(v *View) (draft, error) { return noteDraft(v, n) })
}

// noteDraft makes the entry of a note after v.
func noteDraft(v *View, n Note) (draft, error) {
	moves := n.Kind == NotePosition || n.Kind == NoteHandover && n.Durable != 0
	if moves && n.Durable < v.Durable {
		return draft{}, fmt.Errorf("add %s %s where %s is durable: %w", n.Kind, n.Durable, v.Durable, ErrOrder)
	}
	if n.Kind == NoteMark || n.Kind == NotePin {
		n.From = v.mark(&n).At
	}
	return draft{sum: Summary{Note: &n}}, nil
}

// Checkpoint adds a checkpoint: readers need nothing before it but bodies.
func (w *Writer) Checkpoint(ctx context.Context) error {
	return w.add(ctx, func(v *View) (draft, error) {
		s, err := copyState(&v.State)
		if w.log.faults.checkpointForgets {
			s.Segments = nil
		}
		return draft{sum: Summary{Checkpoint: s}}, err
	})
}

// Probe looks whether a maintenance entry waits at the tail and absorbs what it
// finds. ErrFenced when it finds another agent's.
func (w *Writer) Probe(ctx context.Context) (absorbed bool, err error) {
	if err := w.take(ctx); err != nil {
		return false, err
	}
	defer w.release()
	for {
		e, err := w.log.get(ctx, w.view.Head.next())
		if errors.Is(err, chunkstore.ErrNotFound) {
			return absorbed, nil
		}
		if err != nil {
			return absorbed, err
		}
		if !e.absorbable() {
			return absorbed, w.kill(fmt.Errorf("probe %s: it is a %s of another writer: %w", w.log.id.key(e.at), e.kind, ErrFenced))
		}
		if err := w.absorb(e); err != nil {
			return absorbed, err
		}
		absorbed = true
	}
}
