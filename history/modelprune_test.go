package history

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// maintenance is the process that prunes, under an identity that may delete. It keeps
// nothing between two calls.
type maintenance struct {
	proc
	pruner *pruner
	before map[string]bool                // what was open when the call began
	law    map[LineageID]map[[8]byte]bool // what each log has condemned for long enough
	bad    []string
}

// List may leave out log entries that a checkpoint names.
func (m *maintenance) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	short := m.at > 0 && !m.w.still && m.w.rng.IntN(2) == 0
	named := map[string]bool{}
	if short {
		for _, ln := range m.w.lines {
			if v, err := ln.reader().Load(ctx); err == nil {
				for _, at := range v.State.places() {
					named[ln.id.key(at)] = at != Position{}
				}
			}
		}
	}
	return m.proc.List(ctx, prefix, func(i chunkstore.Info) error {
		if named[i.Key] && m.w.rng.IntN(4) > 0 {
			return nil
		}
		return f(i)
	})
}

// Remove holds each deletion against what must be so, whatever the code thinks: every
// log has known for the grace that the object goes, the run was not called off, and no
// alarm was open when it began to delete.
func (m *maintenance) Remove(ctx context.Context, key string) error {
	if !strings.HasPrefix(key, chunkstore.ProbePrefix) && m.w.mem.Object(key) != nil {
		m.judge(ctx, key)
	}
	return m.step(func() error {
		m.w.gone[key] = true
		return m.w.mem.Remove(ctx, key)
	}, false)
}

func (m *maintenance) judge(ctx context.Context, key string) {
	if m.pruner == nil || m.pruner.run == nil {
		m.bad = append(m.bad, fmt.Sprintf("%s is removed by no run", key))
		return
	}
	if m.w.undone[m.pruner.run.gen] {
		m.bad = append(m.bad, fmt.Sprintf("%s is removed after the undelete", key))
	}
	name, err := chunkstore.ParseKey(key)
	if err != nil {
		return // an entry: the readers tell
	}
	if m.law == nil {
		m.law = map[LineageID]map[[8]byte]bool{}
		for _, ln := range m.w.lines {
			if set, err := ln.condemnedLong(ctx); err != nil {
				m.bad = append(m.bad, err.Error())
			} else if set != nil {
				m.law[ln.id] = set
			}
		}
	}
	for id, set := range m.law {
		if !set[[8]byte(name[:8])] {
			m.bad = append(m.bad, fmt.Sprintf("%s is removed, and %s has not known of it for the grace", key, id))
		}
	}
}

// condemnedLong are the names that the log has condemned since the grace, nil for a
// log that is not there.
func (ln *lineage) condemnedLong(ctx context.Context) (map[[8]byte]bool, error) {
	set, known := map[[8]byte]bool{}, false
	err := ln.entries(ctx, func(e *entry) error {
		known = true
		i, err := ln.w.mem.Stat(ctx, ln.id.key(e.at))
		if err != nil {
			return err
		}
		var list [][8]byte
		if e.sum.Epoch != nil {
			for _, c := range e.sum.Epoch.Condemned {
				list = append(list, c.Prefixes...)
			}
		} else if e.sum.Note != nil && ln.w.clock.Sub(i.Modified) >= pruneGrace-time.Minute {
			list = e.sum.Note.Prefixes
		}
		for _, p := range list {
			set[p] = true
		}
		return nil
	})
	if !known {
		set = nil
	}
	return set, err
}

// entries gives all entries that are there in the order of the log, void ones apart.
func (ln *lineage) entries(ctx context.Context, f func(*entry) error) error {
	l := ln.reader()
	last, ok, err := l.lastEpoch(ctx)
	if err != nil || !ok {
		return err
	}
	for epoch := range last + 1 {
		for seq, end := uint64(0), uint64(1)<<40; seq <= end; seq++ {
			e, err := l.get(ctx, Position{Epoch: epoch, Seq: seq})
			if errors.Is(err, chunkstore.ErrNotFound) {
				if epoch == last {
					break
				}
				if ln.w.gone[ln.id.key(Position{Epoch: epoch, Seq: seq})] {
					continue
				}
			}
			if err != nil {
				return broken("get %d/%d of %s: %w", epoch, seq, ln.id, err)
			}
			if e.header.kind == KindEnd {
				end = seq
			}
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// act is one call of the pruner.
func (m *maintenance) act(ctx context.Context) error {
	w := m.w
	m.dead, m.pruner, m.law = false, nil, nil
	m.arm(150)
	m.before = w.open()
	r, err := Open(ctx, m)
	if err == nil {
		s := w.all.Maintenance()
		if w.rng.IntN(4) == 0 {
			s = w.all
		}
		m.pruner = newPruner(r, s, PruneOptions{Keep: modelKeep})
		m.pruner.faults = w.faults
		m.pruner.open = func(id LineageID) *Log { return w.logOf(r, s, id, nil) }
		for _, ln := range w.lines {
			if ln.atRest && w.rng.IntN(4) == 0 && len(ln.held) == 0 {
				m.pruner.o.Forget = append(m.pruner.o.Forget, ln.id)
			}
		}
		if w.rng.IntN(10) == 0 {
			return m.undelete(ctx)
		}
		err = m.prune(ctx)
	}
	if err == nil || failed(err) {
		return nil
	}
	for _, ok := range []error{ErrPruneRefused, ErrPruneChanged, ErrPruneLeft, ErrEnded, ErrNoLineage, ErrNoKey, chunkstore.ErrNotFound} {
		if errors.Is(err, ok) {
			return nil
		}
	}
	return broken("prune: %w", err)
}

// open are the alarms and holds that somebody was told about.
func (w *world) open() map[string]bool {
	out := map[string]bool{}
	for _, ln := range w.lines {
		for at := range ln.alarms {
			out[fmt.Sprintf("alarm %s of %s", at, ln.id)] = true
		}
		for name := range ln.held {
			out[fmt.Sprintf("hold %s of %s", name, ln.id)] = true
		}
	}
	return out
}

func (m *maintenance) prune(ctx context.Context) error {
	w, p := m.w, m.pruner
	for _, id := range p.o.Forget {
		w.line(id).letGo = true
	}
	began := w.deletingRuns(ctx)
	err := p.apply(ctx)
	w.say("prune: %s %v, %d chunks, %d entries, run %x: %v", p.out.Phase, p.out.Refused, p.out.Chunks, p.out.Entries, p.out.Run[:2], err)
	if len(m.bad) > 0 {
		return broken("%s", strings.Join(m.bad, "; "))
	}
	for gen := range w.deletingRuns(ctx) {
		for what := range w.open() {
			if !began[gen] && m.before[what] && strings.HasPrefix(what, "alarm") {
				return broken("the prune %x began to delete while %s was open", gen, what)
			}
		}
	}
	if err != nil {
		return err
	}
	switch p.out.Phase {
	case PruneCondemned:
		return w.youngOrphans(ctx, p)
	case PruneDeleted:
		for _, n := range p.names {
			if w.mem.Object(n.Key()) != nil {
				return broken("the prune is done and %s is there", n)
			}
		}
	}
	return nil
}

func (w *world) line(id LineageID) *lineage {
	return w.lines[slices.IndexFunc(w.lines, func(ln *lineage) bool { return ln.id == id })]
}

// deletingRuns are the runs that have begun to delete.
func (w *world) deletingRuns(ctx context.Context) map[chunkstore.Gen]bool {
	out := map[chunkstore.Gen]bool{}
	for _, ln := range w.lines {
		if v, err := ln.reader().Load(ctx); err == nil {
			for _, r := range v.Runs {
				if r.Deleting != noPosition {
					out[r.Gen] = true
				}
			}
		}
	}
	return out
}

// youngOrphans: what no entry names is condemned only when it is a week old.
func (w *world) youngOrphans(ctx context.Context, p *pruner) error {
	reached := map[chunkstore.Name]bool{}
	for _, ln := range w.lines {
		err := ln.entries(ctx, func(e *entry) error {
			for _, n := range e.sum.Reach {
				reached[n] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, n := range p.names {
		i, err := w.mem.Stat(ctx, n.Key())
		if err == nil && !reached[n] && w.clock.Sub(i.Modified) < orphanAge-time.Minute {
			return broken("%s is condemned and is only %s old", n, w.clock.Sub(i.Modified))
		}
	}
	return nil
}

func (m *maintenance) undelete(ctx context.Context) error {
	gen, err := m.pruner.undelete(ctx)
	m.w.say("undelete %x: %v", gen[:2], err)
	if err == nil && gen != (chunkstore.Gen{}) {
		m.w.undone[gen] = true
	}
	if err == nil || failed(err) || errors.Is(err, ErrTooLate) || errors.Is(err, ErrEnded) {
		return nil
	}
	return broken("undelete: %w", err)
}

// oversee is what a person does about retention: holds, their release, unpins, and
// acknowledging alarms.
func (w *world) oversee(ctx context.Context) error {
	ln := w.lines[w.rng.IntN(len(w.lines))]
	pick := func(m map[string]record.LSN) string {
		names := slices.Sorted(maps.Keys(m))
		if len(names) == 0 {
			return ""
		}
		return names[w.rng.IntN(len(names))]
	}
	n := Note{Time: record.FromTime(w.clock)}
	switch w.rng.IntN(6) {
	case 0:
		n.Kind, n.Name = NoteHold, fmt.Sprint("hold ", len(w.trace))
	case 1, 2:
		n.Kind, n.Name = NoteRelease, pick(ln.held)
	case 3:
		n.Kind, n.Name = NoteUnpin, pick(ln.kept)
	default:
		v, err := ln.reader().Load(ctx)
		if err != nil {
			return nil
		}
		for _, a := range v.Alarms {
			at := a.At
			err := ln.reader().AppendNote(ctx, Note{Kind: NoteAcknowledge, Alarm: &at, Time: n.Time})
			w.say("acknowledge %s: %v", at, err)
			if err == nil {
				delete(ln.alarms, at)
			}
		}
		return nil
	}
	if n.Name == "" {
		return nil
	}
	_, err := NoteEverywhere(ctx, w.repo, w.all, n)
	w.say("%s %s: %v", n.Kind, n.Name, err)
	switch {
	case err != nil && !errors.Is(err, ErrEnded):
		return broken("%s: %w", n.Kind, err)
	case n.Kind == NoteHold:
		for _, o := range w.lines {
			v, err := o.reader().Load(ctx)
			if err == nil && slices.ContainsFunc(v.Holds, func(m Mark) bool { return m.Name == n.Name }) {
				o.held[n.Name] = v.Pruned
			}
		}
	case n.Kind == NoteRelease:
		for _, o := range w.lines {
			delete(o.held, n.Name)
		}
	default:
		delete(ln.kept, n.Name)
	}
	return nil
}
