package history

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Opening is what an agent says when it opens an epoch.
type Opening struct {
	Timeline      uint32
	Slot          string
	ServerVersion int
	// XMax is above every transaction that was open then; no copy counts whose
	// snapshot's xmin is below it (docs/decisions/0022-horizon.md).
	XMax record.XID
	// Durable is the LSN from which the stream is whole: of a new lineage the slot's
	// consistent point, otherwise the view's Durable (a smaller one is raised to it).
	Durable record.LSN
	Tables  []TableState
	Parent  *Parent // new lineages only
	Host    string
}

// Begin opens the next epoch: the new key is put into keys first (durable), then
// `end` is created in the old epoch's numbering, then entry 0 of the new one. v is
// what Load gave, nil for a new lineage. What other writers added since Load is
// absorbed; when that moved Durable, the digests in o.Tables are stored as not
// known. ErrFenced when another agent opened first.
func (l *Log) Begin(ctx context.Context, v *View, keys EpochKeys, o Opening) (*Writer, error) {
	if keys == nil {
		return nil, errors.New("begin: nowhere to keep the epoch's key")
	}
	if v == nil {
		w := newWriter(l, keys, &View{ID: l.id, log: l})
		if err := w.open(ctx, o, v); err != nil {
			return w, err
		}
		return w, w.condemnLate(ctx)
	}
	if v.ID != l.id {
		return nil, fmt.Errorf("begin %s with the picture of %s: %w", l.id, v.ID, ErrOrder)
	}
	mine := v.clone()
	mine.log = l
	w := newWriter(l, keys, mine)
	// No chunk is put before its store has heard of all condemned names (H8). They stand
	// in the entries that condemned them, which are never removed.
	for _, at := range mine.Condemns {
		e, err := l.get(ctx, at)
		if err != nil {
			return nil, l.needed(at, err)
		}
		l.condemn(&e.sum)
	}
	if !mine.Ended && !l.faults.skipEnd {
		if err := w.end(ctx, o, func(*entry) bool { return true }); err != nil {
			return nil, err
		}
	}
	if err := w.open(ctx, o, v); err != nil {
		return nil, err
	}
	return w, nil
}

// Rotate ends the epoch and opens the next one under a new key. A crash between
// the two is what Begin completes.
func (w *Writer) Rotate(ctx context.Context, o Opening) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.release()
	before := w.view
	if err := w.end(ctx, o, (*entry).absorbable); err != nil {
		return err
	}
	return w.open(ctx, o, before)
}

// end closes the open epoch. The key of the next one is durable before.
func (w *Writer) end(ctx context.Context, o Opening, absorb func(*entry) bool) error {
	if _, err := freshKey(w.keys, w.view.Head.Epoch+1, w.log.faults.replaceKey); err != nil {
		return err
	}
	return w.addHeld(ctx, func(v *View) (draft, error) {
		return draft{sum: Summary{End: &endSummary{Durable: v.Durable, Host: o.Host}}}, nil
	}, absorb)
	// A crash here leaves a closed epoch and no open one: nobody can write to it any
	// more, and whoever comes next opens the next one.
}

// open creates entry 0 of the next epoch. before is the picture that o was made
// from.
func (w *Writer) open(ctx context.Context, o Opening, before *View) error {
	v := w.view
	s := &epochSummary{
		Timeline: o.Timeline, Slot: o.Slot, ServerVersion: o.ServerVersion, XMax: o.XMax,
		Durable: max(o.Durable, v.Durable), Host: o.Host, Checkpoint: v.Checkpoint,
	}
	next := uint64(0)
	if before != nil {
		next = v.Head.Epoch + 1
		follows := v.Head
		s.Follows = &follows
	} else {
		s.Parent = o.Parent
		notes, err := w.log.condemnedElsewhere(ctx)
		if err != nil {
			return err
		}
		for _, n := range notes {
			s.Condemned = append(s.Condemned, condemned{Gen: n.Gen, Prefixes: n.Prefixes})
		}
	}
	key, err := freshKey(w.keys, next, false)
	if err != nil {
		return err
	}
	if s.Wrapped, err = wrapKey(key, w.log.secrets.Recipient); err != nil {
		return err
	}
	s.Check = keyCheck(key)
	tables := slices.Clone(o.Tables)
	if before != nil && v.Durable != before.Durable && v.Durable != o.Durable {
		for i := range tables {
			tables[i].Known = false // another writer's segments are not in these digests
		}
	}
	plain, err := record.Marshal(&epochBody{Tables: tables})
	if err != nil {
		return fmt.Errorf("open epoch %d: %w", next, err)
	}
	e, err := w.log.build(v, draft{sum: Summary{Epoch: s}, body: appendPart(nil, plain, chunkstore.Fast)}, key)
	if err != nil {
		return err
	}
	found, err := w.log.create(ctx, e)
	if err != nil {
		return w.kill(err)
	}
	if found != nil {
		return w.kill(fmt.Errorf("open epoch %d of %s: another agent did: %w", next, w.log.id, ErrFenced))
	}
	// Open from here on: the old epoch's writer meets `end` at its next number.
	w.mu.Lock()
	w.key = key
	w.mu.Unlock()
	return w.accept(e)
}

// freshKey gives the key for an epoch that is not open yet, durable in keys. One
// that is there was left by an opener that did not come to its entry, or whose
// entry is met in a moment; it is used again, never replaced: if that entry exists,
// replacing it would lose the only copy on this host.
func freshKey(keys EpochKeys, epoch uint64, replace bool) (chunkstore.Secret, error) {
	k, err := keys.Get(epoch)
	if err == nil && !replace {
		return k, nil
	}
	if err != nil && !errors.Is(err, ErrNoKey) {
		return k, err
	}
	k = chunkstore.NewSecret()
	return k, keys.Put(epoch, k)
}

// condemnLate adds what was condemned while the lineage was being opened. A prune either
// finds this log when it looks again, and then every entry of it, or its notes were in
// the other logs before this looked: no chunk is put before.
func (w *Writer) condemnLate(ctx context.Context) error {
	if w.log.faults.bareBegin {
		return nil
	}
	notes, err := w.log.condemnedElsewhere(ctx)
	if err != nil {
		return w.kill(err)
	}
	e, err := w.log.get(ctx, Position{})
	if err != nil {
		return w.kill(w.log.needed(Position{}, err))
	}
	for _, n := range notes {
		known := func(c condemned) bool { return c.Gen == n.Gen && slices.Equal(c.Prefixes, n.Prefixes) }
		if !slices.ContainsFunc(e.sum.Epoch.Condemned, known) {
			if err := w.Note(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// condemnedElsewhere collects the condemnations of all other logs of the repository,
// for the first entry of a new one (protocol §7), each once.
func (l *Log) condemnedElsewhere(ctx context.Context) ([]Note, error) {
	ids, err := l.repo.Lineages(ctx)
	if err != nil {
		return nil, err
	}
	var out []Note
	add := func(n Note) {
		if !slices.ContainsFunc(out, func(o Note) bool { return o.Gen == n.Gen && slices.Equal(o.Prefixes, n.Prefixes) }) {
			out = append(out, n)
		}
	}
	for _, id := range ids {
		if id == l.id {
			continue
		}
		other := newLog(l.repo, l.secrets, id, nil)
		other.pause, other.ahead = l.pause, l.ahead
		v, err := other.Load(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the condemned names of %s: %w", id, err)
		}
		for _, at := range v.Condemns {
			e, err := other.get(ctx, at)
			if err != nil {
				return nil, other.needed(at, err)
			}
			if e.sum.Epoch != nil {
				for _, c := range e.sum.Epoch.Condemned {
					add(Note{Kind: NoteCondemn, Gen: c.Gen, Prefixes: c.Prefixes})
				}
			} else if e.sum.Note != nil {
				add(*e.sum.Note)
			}
		}
	}
	return out, nil
}

// AppendNote adds a note from a process beside the agent (`mark`, later `prune`):
// it reads the whole log first (H3), creates at the tail (100 tries), and reports
// success only when no epoch was opened past it. ErrNoLineage, ErrEnded.
func (l *Log) AppendNote(ctx context.Context, n Note) error {
	v, err := l.Load(ctx)
	if err != nil {
		return err
	}
	return l.AppendNoteAfter(ctx, v, n)
}

// AppendNoteAfter is AppendNote for who has a picture of the log already: only what
// came since is read.
func (l *Log) AppendNoteAfter(ctx context.Context, v *View, n Note) error {
	if n.Kind == NotePosition || n.Kind == NoteHandover {
		return fmt.Errorf("append note: a %s is the agent's alone: %w", n.Kind, ErrOrder)
	}
	_, err := l.appendIf(ctx, v, func(*View) (Note, error) { return n, nil })
	return err
}

// appendIf adds the note that plan makes of the picture which it will follow: the
// entry is created only right after that picture. It gives the note's place.
func (l *Log) appendIf(ctx context.Context, v *View, plan func(*View) (Note, error)) (at Position, err error) {
	for range maxTries {
		now, err := l.Advance(ctx, v)
		if err != nil {
			return at, err
		}
		if now.Ended {
			return at, fmt.Errorf("append note to %s: %w", l.id, ErrEnded)
		}
		n, err := plan(now)
		if err != nil {
			return at, err
		}
		if err := n.validate(); err != nil {
			return at, fmt.Errorf("append note: %w", err)
		}
		if (n.Kind == NoteMark || n.Kind == NotePin) && n.From != 0 && now.PrunedAt(n.From) {
			return at, fmt.Errorf("keep %s: %w", n.From, ErrPruned)
		}
		d, err := noteDraft(now, n)
		if err != nil {
			return at, err
		}
		d.sum.Maintenance = true
		e, err := l.build(now, d, chunkstore.Secret{})
		if err != nil {
			return at, err
		}
		found, err := l.create(ctx, e)
		if err != nil {
			return at, fmt.Errorf("append note: %w", err)
		}
		if found != nil {
			continue
		}
		// The note counts unless an epoch was opened that does not know it.
		void, err := l.void(ctx, e.at)
		if err != nil || !void {
			return e.at, err
		}
		if v, err = l.Load(ctx); err != nil {
			return at, err
		}
	}
	return at, fmt.Errorf("append note to %s: %d entries of others in a row", l.id, maxTries)
}

// void reports whether the epoch after an entry's was opened without knowing it.
func (l *Log) void(ctx context.Context, at Position) (bool, error) {
	next := Position{Epoch: at.Epoch + 1}
	e, err := l.get(ctx, next)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if e.sum.Epoch == nil || e.sum.Epoch.Follows == nil {
		return false, damaged(l.id.key(next), "it does not follow an end")
	}
	return e.sum.Epoch.Follows.Before(at), nil
}
