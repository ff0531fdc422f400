package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// decide says what may go and which step is next.
func (p *pruner) decide(ctx context.Context) error {
	if err := p.guards(ctx); err != nil {
		return err
	}
	if p.out.Refused == nil && len(p.logs) == 0 {
		return nil
	}
	for _, s := range p.logs {
		s.choose(p.o.Keep, p.forgets(s.id))
		if p.run != nil {
			s.drop = p.stillGoing(s)
		}
		p.describe(s)
	}
	p.reach()
	p.names = p.doomed()
	for _, n := range p.names {
		p.out.Bytes += p.chunks[n].Size
	}
	p.out.Chunks = len(p.names)
	switch {
	case p.run == nil && len(p.names) == 0 && p.out.Entries == 0:
		p.out.Phase = PruneNothing
		return nil
	case p.run == nil:
		p.out.Phase, p.out.Until = PruneCondemned, p.now.Add(pruneGrace)
		return nil
	case p.deleting():
		p.out.Phase = PruneDeleted
		return nil
	}
	return p.grace(ctx)
}

// guards looks for what forbids to remove anything.
func (p *pruner) guards(ctx context.Context) error {
	refuse := func(format string, a ...any) { p.out.Refused = append(p.out.Refused, fmt.Sprintf(format, a...)) }
	for _, s := range p.logs {
		for i := range s.loaded.Alarms {
			if a := &s.loaded.Alarms[i]; !p.faults.skipAlarm {
				refuse("alarm %s: %s; `lifeboat alarm ack %s` says that you have looked", a.ID(), a, a.ID())
			}
		}
		if t := s.view.newestCommit(); t != 0 && t.Time().After(p.now.Add(maxAhead)) {
			refuse("the newest commit of %s is of %s, which lies in the future of the store's clock (%s)", s.id, t, p.now.UTC().Format(time.RFC3339))
		}
	}
	for _, id := range p.o.Forget {
		s := p.log(id)
		if s == nil {
			return fmt.Errorf("prune %s: %w", id, ErrNoLineage)
		}
		at := s.newestOwn()
		i, err := p.r.b.Stat(ctx, id.key(at))
		if err != nil {
			return fmt.Errorf("stat %s: %w", id.key(at), err)
		}
		if p.run != nil && !p.forgets(id) {
			p.warn("lineage %s: the prune under way was begun without its name; name it again when that is done", id)
		}
		if p.now.Sub(i.Modified) < pruneGrace {
			refuse("lineage %s was written to %s, less than 7 days ago: only one at rest can be let go of", id, i.Modified.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// forgets reports whether nothing of a lineage is to stay. A run under way was begun with
// its own names, and takes no others.
func (p *pruner) forgets(id LineageID) bool {
	if p.run == nil {
		return slices.Contains(p.o.Forget, id)
	}
	return p.condemnedOf(id).Forget
}

// condemnedOf is what the run condemned of a log.
func (p *pruner) condemnedOf(id LineageID) logEntries {
	if p.run != nil {
		for _, l := range p.run.note.Logs {
			if l.Log == id {
				return l
			}
		}
	}
	return logEntries{Log: id}
}

// stillGoing are the condemned entries that retention does not want now either: a mark
// or a longer keep may have come meanwhile.
func (p *pruner) stillGoing(s *surveyed) []Position {
	was := p.condemnedOf(s.id).Entries
	if p.faults.noSecondLook {
		return slices.Collect(was.all())
	}
	return slices.DeleteFunc(s.drop, func(at Position) bool { return !was.has(at) })
}

// keptOf is what stays to restore from a log when what the run condemned is gone.
func (p *pruner) keptOf(s *surveyed) *Kept {
	k := &Kept{From: s.kept.From}
	if p.run != nil {
		c := p.condemnedOf(s.id)
		k.From = min(k.From, c.From)
	}
	if len(s.drop) == 0 {
		k.From = 0
	}
	k.From = max(k.From, s.view.First)
	for _, o := range s.kept.Points {
		if o.At < k.From {
			k.Points = append(k.Points, o)
		}
	}
	return k
}

// describe adds a log to the report.
func (p *pruner) describe(s *surveyed) {
	k := p.keptOf(s)
	l := PruneLineage{ID: s.id, From: max(k.From, s.loaded.First), Before: s.loaded.First, Since: s.kept.Since, All: s.kept.All, Points: k.Points}
	for _, at := range s.drop {
		if e := s.entries[at]; e != nil {
			l.Entries++
			l.Bytes += e.size
		}
	}
	gone := func(o KeptPoint) {
		if o.At < k.From && (o.At >= l.Before || slices.Contains(s.loaded.Points, o)) && !slices.ContainsFunc(k.Points, func(q KeptPoint) bool { return q.At == o.At }) {
			l.Gone = append(l.Gone, o)
		}
	}
	for _, r := range s.view.Rounds {
		gone(KeptPoint{Why: r.Kind, At: r.Point, Time: r.Time})
	}
	slices.SortFunc(l.Gone, func(a, b KeptPoint) int { return cmp.Compare(a.At, b.At) })
	p.out.Entries += l.Entries
	p.out.Bytes += l.Bytes
	p.out.Lineages = append(p.out.Lineages, l)
}

// reach collects what stays reached: by every entry that is there and is not to go,
// void ones too.
func (p *pruner) reach() {
	p.reached = map[uint64]struct{}{}
	for _, s := range p.logs {
		going := map[Position]bool{}
		for _, at := range s.drop {
			going[at] = true
		}
		for at, e := range s.entries {
			if going[at] || s.removed.has(at) {
				continue
			}
			for _, n := range e.reach {
				p.reached[namePrefix(n)] = struct{}{}
			}
		}
	}
}

// doomed are the chunks that may go: nothing that stays reaches them. A new run takes
// those that only going entries reach, and orphans that are old; one under way only
// what it condemned.
func (p *pruner) doomed() (out []chunkstore.Name) {
	set := map[uint64]struct{}{}
	if p.run != nil {
		for _, x := range p.run.note.Prefixes {
			set[binary.BigEndian.Uint64(x[:])] = struct{}{}
		}
	} else {
		for _, s := range p.logs {
			for _, at := range s.drop {
				for _, n := range s.entries[at].reach {
					set[namePrefix(n)] = struct{}{}
				}
			}
		}
	}
	for n, i := range p.chunks {
		_, in := set[namePrefix(n)]
		_, needed := p.reached[namePrefix(n)]
		old := p.run == nil && (p.now.Sub(i.Modified) > orphanAge || p.faults.youngOrphans)
		switch {
		case in && needed && !(p.run != nil && p.faults.noSecondLook):
			p.out.Spared++
		case in:
			out = append(out, n)
		case old && !needed:
			p.out.Orphans++
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b chunkstore.Name) int { return slices.Compare(a[:], b[:]) })
	if p.run == nil && len(out) > maxCondemned {
		p.warn("%d chunks are for the next run", len(out)-maxCondemned)
		out = out[:maxCondemned]
	}
	return out
}

// grace says whether every log has known the condemnation for long enough.
func (p *pruner) grace(ctx context.Context) error {
	p.out.Phase = PruneWaiting
	for _, s := range p.logs {
		at, marked := p.run.marked[s.id]
		switch {
		case marked:
			i, err := p.r.b.Stat(ctx, s.id.key(at))
			if err != nil {
				return fmt.Errorf("stat %s: %w", s.id.key(at), err)
			}
			if end := i.Modified.Add(pruneGrace); end.After(p.out.Until) {
				p.out.Until = end
			}
		case !p.run.told[s.id] && !p.faults.condemnOneLog:
			p.out.Until = p.now.Add(pruneGrace)
			return nil // the grace begins again
		}
	}
	if !p.now.Before(p.out.Until) || p.faults.noGrace {
		p.out.Phase = PruneDeleted
	}
	return nil
}

// condemn begins a run: one note, the same in every log. A crash between two of them
// leaves a run that the next call spreads; nothing is deleted before all logs have it.
func (p *pruner) condemn(ctx context.Context) error {
	n := Note{Kind: NoteCondemn, Gen: chunkstore.NewGen(), Time: record.FromTime(p.now)}
	for _, name := range p.names {
		n.Prefixes = append(n.Prefixes, [8]byte(name[:8]))
	}
	n.Prefixes = slices.Compact(n.Prefixes)
	for _, s := range p.logs {
		n.Logs = append(n.Logs, logEntries{Log: s.id, Entries: runsOf(s.drop), From: p.keptOf(s).From, Forget: p.forgets(s.id)})
		if s.loaded.Ended {
			return fmt.Errorf("condemn in %s: %w", s.id, ErrEnded)
		}
	}
	n, err := p.s.sign(LineageID{}, n)
	if err != nil {
		return err
	}
	p.run = &pruneRun{gen: n.Gen, note: &n, marked: map[LineageID]Position{}, told: map[LineageID]bool{}}
	p.out.Run = n.Gen
	return p.spread(ctx)
}

// spread writes the condemn note into the logs that have not got it.
func (p *pruner) spread(ctx context.Context) error {
	for i, s := range p.logs {
		if _, ok := p.run.marked[s.id]; ok || p.run.told[s.id] || i > 0 && p.faults.condemnOneLog {
			continue
		}
		if _, err := s.log.appendIf(ctx, s.loaded, func(*View) (Note, error) { return *p.run.note, nil }); err != nil {
			return fmt.Errorf("condemn in %s: %w", s.id, err)
		}
	}
	return nil
}

// errThere: the note is in the log already.
var errThere = errors.New("it is there")

// append adds the run's note of a kind to a log, unless it is there.
func (p *pruner) append(ctx context.Context, s *surveyed, n Note, check func(now *View, r PruneRun) error) error {
	n.Gen, n.Time = p.run.gen, record.FromTime(p.now)
	n, err := p.s.sign(s.id, n)
	if err != nil {
		return err
	}
	_, err = s.log.appendIf(ctx, s.loaded, func(now *View) (Note, error) { return n, check(now, now.run(p.run.gen)) })
	if errors.Is(err, errThere) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("note %s in %s: %w", n.Kind, s.id, err)
	}
	return nil
}

// remove says in every log that it deletes, first in the arbiter; from there on there is
// no undelete, and readers do without. Then it deletes, looks, and says that it is done.
// A crash after any of these is gone on from by the next call.
func (p *pruner) remove(ctx context.Context) error {
	logs := slices.Clone(p.logs)
	first := p.run.arbiter()
	i := slices.IndexFunc(logs, func(s *surveyed) bool { return s.id == first })
	logs = slices.Insert(slices.Delete(logs, i, i+1), 0, p.logs[i])
	for _, s := range logs {
		n := Note{Kind: NoteDeleting, Entries: runsOf(s.drop), Kept: p.keptOf(s)}
		err := p.append(ctx, s, n, func(now *View, r PruneRun) error {
			switch {
			case r.Deleting != noPosition:
				return errThere
			case r.Undone != noPosition:
				return fmt.Errorf("somebody called it off: %w", ErrPruneChanged)
			case changed(s.loaded, now):
				return ErrPruneChanged
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	entries, err := p.goingEntries(ctx, logs)
	if err != nil {
		return err
	}
	if err := p.deleteAll(ctx, entries); err != nil {
		return err
	}
	for _, s := range logs {
		err := p.append(ctx, s, Note{Kind: NoteDone}, func(_ *View, r PruneRun) error {
			if r.Done != noPosition {
				return errThere
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changed reports that something was asked for since the log was read that retention
// must hear of.
func changed(was, now *View) bool {
	return !slices.Equal(was.Alarms, now.Alarms) || !slices.Equal(was.Marks, now.Marks) ||
		!slices.Equal(was.Pins, now.Pins) || !slices.Equal(was.Holds, now.Holds)
}

// goingEntries are the keys of the entries that this run removes, by its notes.
func (p *pruner) goingEntries(ctx context.Context, logs []*surveyed) ([]string, error) {
	var out []string
	for _, s := range logs {
		v, err := s.log.Advance(ctx, s.loaded)
		if err != nil {
			return nil, err
		}
		at := v.run(p.run.gen).Deleting
		if at == noPosition {
			return nil, fmt.Errorf("%s does not say that it deletes: %w", s.id, ErrPruneChanged)
		}
		e, err := s.log.get(ctx, at)
		if err != nil {
			return nil, s.log.needed(at, err)
		}
		for x := range e.sum.Note.Entries.all() {
			out = append(out, s.id.key(x))
		}
	}
	return out, nil
}

// deleteAll removes entries, then chunks: what a crash leaves in between is found by
// the names that were condemned. Each error is kept; whether all is gone is told by
// looking again.
func (p *pruner) deleteAll(ctx context.Context, entries []string) error {
	rm := p.r.b.(chunkstore.Remover)
	keys := slices.Clone(entries)
	for _, n := range p.names {
		keys = append(keys, n.Key())
	}
	var first error
	for _, key := range keys {
		if err := rm.Remove(ctx, key); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			first = cmp.Or(first, err)
		}
	}
	if p.faults.unseenFailure {
		return nil
	}
	there := map[string]bool{}
	err := p.r.b.List(ctx, "chunk/", func(i chunkstore.Info) error {
		there[i.Key] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at what is left: %w", err)
	}
	for i, key := range keys {
		if i >= len(entries) && !there[key] && first == nil {
			continue
		}
		switch _, err := p.r.b.Stat(ctx, key); {
		case err == nil:
			p.out.Left = append(p.out.Left, key)
		case !errors.Is(err, chunkstore.ErrNotFound):
			return fmt.Errorf("look at what is left: %w", err)
		}
	}
	if n := len(p.out.Left); n > 0 {
		return fmt.Errorf("%w: %d of %d, the first is %s: %w", ErrPruneLeft, n, len(keys), p.out.Left[0], cmp.Or(first, errors.New("the store reported no error")))
	}
	return nil
}

// Undelete calls off the prune that is under way, unless it has begun to delete
// (ErrTooLate). What it condemned stays condemned, so the same content is stored once
// more when it comes again; nothing else is lost. It says which run it was, zero when
// there was none.
func Undelete(ctx context.Context, r *Repository, s *Secrets) (chunkstore.Gen, error) {
	return newPruner(r, s, PruneOptions{}).undelete(ctx)
}

func (p *pruner) undelete(ctx context.Context) (chunkstore.Gen, error) {
	if p.s.Prune.IsZero() {
		return chunkstore.Gen{}, fmt.Errorf("undelete: the key for it is not among these secrets: %w", ErrNoKey)
	}
	if err := p.readLogs(ctx); err != nil {
		return chunkstore.Gen{}, err
	}
	if err := p.findRun(); err != nil || p.run == nil {
		return chunkstore.Gen{}, err
	}
	s := p.log(p.run.arbiter())
	err := p.append(ctx, s, Note{Kind: NoteUndelete}, func(_ *View, r PruneRun) error {
		switch {
		case r.Deleting != noPosition && !p.faults.undeleteTooLate:
			return ErrTooLate
		case r.Undone != noPosition:
			return errThere
		}
		return nil
	})
	return p.run.gen, err
}

// NoteEverywhere adds a note about what is kept to every log that it concerns, and says
// to how many. An unpin goes where a pin or a mark of that name is; what takes away is
// signed with K_prune (ErrNoKey without it).
func NoteEverywhere(ctx context.Context, r *Repository, s *Secrets, n Note) (int, error) {
	if s.Prune.IsZero() {
		return 0, fmt.Errorf("note %s: the key for it is not among these secrets: %w", n.Kind, ErrNoKey)
	}
	ids, err := r.Lineages(ctx)
	if err != nil {
		return 0, err
	}
	done := 0
	for _, id := range ids {
		l := r.Log(s, id, nil)
		v, err := l.Load(ctx)
		if err != nil {
			return done, fmt.Errorf("read log %s: %w", id, err)
		}
		named := func(list []Mark) bool {
			return slices.ContainsFunc(list, func(m Mark) bool { return m.Name == n.Name })
		}
		m := n
		switch {
		case n.Kind == NoteUnpin && !named(v.Pins) && named(v.Marks):
			m.Kind = NoteUnmark
		case n.Kind == NoteUnpin && !named(v.Pins), n.Kind == NoteRelease && !named(v.Holds):
			continue
		}
		if m.Kind != NoteHold {
			if m, err = s.sign(id, m); err != nil {
				return done, err
			}
		}
		if err := l.AppendNoteAfter(ctx, v, m); err != nil {
			return done, fmt.Errorf("note in %s: %w", id, err)
		}
		done++
	}
	return done, nil
}
