package history

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Errors of a prune.
var (
	// ErrPruned: there was such a point, or may have been, and a prune took it away.
	ErrPruned = errors.New("it was pruned")
	// ErrPruneRefused: something forbids to remove anything now; its text says what.
	ErrPruneRefused = errors.New("nothing is pruned")
	// ErrPruneChanged: a log changed while the prune looked at it. Again.
	ErrPruneChanged = errors.New("a log changed meanwhile")
	// ErrPruneLeft: objects that were to go are still there.
	ErrPruneLeft = errors.New("some objects were not deleted")
	// ErrTooLate: the prune deletes already.
	ErrTooLate = errors.New("the prune has begun to delete")
)

const (
	// pruneGrace is how long what is condemned stays, by the store's clock.
	pruneGrace = 7 * 24 * time.Hour
	// orphanAge is the age from which a chunk that nobody names is an orphan.
	orphanAge = 7 * 24 * time.Hour
	// maxCondemned bounds the names of one run; the rest goes with the next.
	maxCondemned = 2 << 20
	// maxAhead is how far a commit's time may lie after the store's clock before its
	// lineage's retention is not to be trusted.
	maxAhead = 24 * time.Hour
)

// PruneOptions of [PlanPrune] and [Prune].
type PruneOptions struct {
	Keep Keep
	// Forget names lineages of which nothing is kept. Only one that has been at rest for
	// the grace.
	Forget []LineageID
}

// PrunePhase is what the next step of a prune does, or what was done.
type PrunePhase string

// The phases.
const (
	PruneNothing   PrunePhase = "nothing"   // nothing may go
	PruneCondemned PrunePhase = "condemned" // condemned now, the grace begins
	PruneWaiting   PrunePhase = "waiting"   // within the grace
	PruneDeleted   PrunePhase = "deleted"   // looked again and deleted
)

// PruneReport says what a prune does, or would do.
type PruneReport struct {
	Phase PrunePhase `json:"phase"`
	// Run is the prune that is under way; zero: none is.
	Run chunkstore.Gen `json:"-"`
	// Until is when its grace ends, by the store's clock.
	Until    time.Time      `json:"until,omitzero"`
	Lineages []PruneLineage `json:"lineages"`
	Chunks   int            `json:"chunks"`
	Bytes    int64          `json:"bytes"` // of chunks and entries
	Entries  int            `json:"entries"`
	Spared   int            `json:"spared"` // condemned chunks that are needed all the same
	// Orphans are chunks among those above that no entry ever named.
	Orphans int `json:"orphans"`
	// Total is what the store holds.
	Total    int64    `json:"total"`
	Warnings []string `json:"warnings,omitempty"`
	// Refused says why nothing may be removed now.
	Refused []string `json:"refused,omitempty"`
	// Left are objects that were to go and are still there.
	Left []string `json:"left,omitempty"`
}

// PruneLineage is one lineage's part.
type PruneLineage struct {
	ID LineageID `json:"-"`
	// From and Since: every commit from there on stays; Until now it was Before.
	From   record.LSN  `json:"-"`
	Since  record.Time `json:"-"`
	Before record.LSN  `json:"-"`
	// All: nothing of it goes, and why.
	All string `json:"all,omitempty"`
	// Points stay besides; Gone are those that vanish with what lies before From.
	Points []KeptPoint `json:"-"`
	Gone   []KeptPoint `json:"-"`
	// Bytes and Entries of the log's own entries that go.
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

// pruner is one run of the command.
type pruner struct {
	r       *Repository
	s       *Secrets
	o       PruneOptions
	open    func(LineageID) *Log
	faults  faults
	logs    []*surveyed // ascending by id
	now     time.Time   // by the store's clock
	reached map[uint64]struct{}
	chunks  map[chunkstore.Name]chunkstore.Info // that are there
	names   []chunkstore.Name                   // of those that may go
	newest  time.Time                           // of all objects
	run     *pruneRun                           // under way; nil: none
	out     *PruneReport
}

// pruneRun is a run as the logs tell it.
type pruneRun struct {
	gen    chunkstore.Gen
	note   *Note
	marked map[LineageID]Position // logs with its condemn note, as K_prune made it
	told   map[LineageID]bool     // logs whose first entry knows the whole set
}

func newPruner(r *Repository, s *Secrets, o PruneOptions) *pruner {
	p := &pruner{r: r, s: s, o: o, out: &PruneReport{Phase: PruneNothing}}
	p.open = func(id LineageID) *Log { return r.Log(s, id, nil) }
	return p
}

// PlanPrune says what the next [Prune] would do. It writes nothing.
func PlanPrune(ctx context.Context, r *Repository, s *Secrets, o PruneOptions) (*PruneReport, error) {
	p := newPruner(r, s, o)
	return p.out, p.plan(ctx)
}

// Prune does the next step of removing what retention does not need (protocol §7).
// Without a run under way it condemns, in every log; within the grace it waits; after
// it, it looks at all logs again, says in every log that it deletes, deletes, looks
// whether all is gone, and says so. Each step may be cut short anywhere: the next call
// goes on. A store under an identity that may not delete is refused before anything is
// condemned, if the backend knows; else the deletes fail and are reported.
func Prune(ctx context.Context, r *Repository, s *Secrets, o PruneOptions) (*PruneReport, error) {
	p := newPruner(r, s, o)
	return p.out, p.apply(ctx)
}

func (p *pruner) plan(ctx context.Context) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	p.now = p.newest
	return p.decide(ctx)
}

// apply is one step.
func (p *pruner) apply(ctx context.Context) error {
	if _, ok := p.r.b.(chunkstore.Remover); !ok {
		return fmt.Errorf("%w: objects cannot be deleted from this store under this identity", ErrPruneRefused)
	}
	if err := p.look(ctx); err != nil {
		return err
	}
	if err := p.clock(ctx); err != nil {
		return err
	}
	if err := p.decide(ctx); err != nil {
		return err
	}
	if len(p.out.Refused) > 0 {
		return fmt.Errorf("%w: %s", ErrPruneRefused, strings.Join(p.out.Refused, "; "))
	}
	switch p.out.Phase {
	case PruneCondemned:
		return p.condemn(ctx)
	case PruneWaiting:
		return p.spread(ctx)
	case PruneDeleted:
		return p.remove(ctx)
	}
	return nil
}

// look reads all logs and lists all chunks.
func (p *pruner) look(ctx context.Context) error {
	if p.s.Prune.IsZero() {
		return fmt.Errorf("prune: the key for it is not among these secrets (`lifeboat key export --maintenance`): %w", ErrNoKey)
	}
	if err := p.readLogs(ctx); err != nil {
		return err
	}
	p.chunks = map[chunkstore.Name]chunkstore.Info{}
	err := p.r.b.List(ctx, "", func(i chunkstore.Info) error {
		p.out.Total += i.Size
		if i.Modified.After(p.newest) {
			p.newest = i.Modified
		}
		if n, err := chunkstore.ParseKey(i.Key); err == nil {
			p.chunks[n] = i
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the store: %w", err)
	}
	return p.findRun()
}

// readLogs surveys every log that a listing shows, that an earlier prune knew, or that
// another log names as its parent: a log never disappears, so one that is named and not
// there ends the prune.
func (p *pruner) readLogs(ctx context.Context) error {
	ids, err := p.r.Lineages(ctx)
	if err != nil {
		return err
	}
	have := map[LineageID]bool{}
	for len(ids) > 0 {
		id := ids[0]
		ids = ids[1:]
		if have[id] {
			continue
		}
		have[id] = true
		l := p.open(id)
		s, err := l.survey(ctx)
		if err != nil {
			return fmt.Errorf("read log %s: %w", id, err)
		}
		p.logs = append(p.logs, s)
		p.out.Warnings = append(p.out.Warnings, s.warn...)
		if p.faults.trustListing {
			continue
		}
		for _, e := range s.entries {
			if n := e.sum.Note; n != nil && n.Kind == NoteCondemn && p.s.authentic(id, n) {
				for _, o := range n.Logs {
					ids = append(ids, o.Log)
				}
			}
			if e.sum.Epoch != nil && e.sum.Epoch.Parent != nil && s.view.Ready {
				ids = append(ids, e.sum.Epoch.Parent.ID)
			}
		}
	}
	slices.SortFunc(p.logs, func(a, b *surveyed) int { return compareIDs(a.id, b.id) })
	return nil
}

func compareIDs(a, b LineageID) int {
	switch x, y := a.String(), b.String(); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// findRun finds the oldest run that is not finished. Its fate is decided in the first
// log that it knew, by which of undelete and deleting came first there.
func (p *pruner) findRun() error {
	runs := map[chunkstore.Gen]*pruneRun{}
	var order []*pruneRun
	for _, s := range p.logs {
		for _, at := range s.positions() {
			n := s.entries[at].sum.Note
			if n == nil || n.Kind != NoteCondemn || s.void(at) {
				continue
			}
			if !p.faults.forgedNotes && !p.s.authentic(s.id, n) {
				p.warn("the condemn note %s was not made by a prune: it costs uploads, and nothing is deleted for it", s.id.key(at))
				continue
			}
			r := runs[n.Gen]
			if r == nil {
				r = &pruneRun{gen: n.Gen, note: n, marked: map[LineageID]Position{}, told: map[LineageID]bool{}}
				runs[n.Gen], order = r, append(order, r)
			}
			if _, ok := r.marked[s.id]; !ok {
				r.marked[s.id] = at
			}
		}
	}
	for _, r := range order {
		if p.finished(r) {
			continue
		}
		p.run = r
		p.out.Run = r.gen
		for _, s := range p.logs {
			r.told[s.id] = s.knows(r.note)
		}
		return nil
	}
	return nil
}

func (p *pruner) warn(format string, a ...any) {
	p.out.Warnings = append(p.out.Warnings, fmt.Sprintf(format, a...))
}

// knows reports whether the log's first entry carries the whole set of a note.
func (s *surveyed) knows(n *Note) bool {
	e := s.entries[Position{}]
	return e != nil && e.sum.Epoch != nil && slices.ContainsFunc(e.sum.Epoch.Condemned, func(c condemned) bool {
		return c.Gen == n.Gen && slices.Equal(c.Prefixes, n.Prefixes)
	})
}

// arbiter is the log in which a run's fate is decided.
func (r *pruneRun) arbiter() LineageID {
	var out LineageID
	for i, l := range r.note.Logs {
		if i == 0 || compareIDs(l.Log, out) < 0 {
			out = l.Log
		}
	}
	return out
}

// state is the run as one log's picture has it.
func (s *surveyed) state(gen chunkstore.Gen) PruneRun { return s.loaded.run(gen) }

func (p *pruner) log(id LineageID) *surveyed {
	for _, s := range p.logs {
		if s.id == id {
			return s
		}
	}
	return nil
}

// finished reports that nothing of a run is left to do.
func (p *pruner) finished(r *pruneRun) bool {
	a := p.log(r.arbiter())
	if a == nil {
		return true // no log of ours: no prune made this note
	}
	fate := a.state(r.gen)
	if fate.Deleting == noPosition {
		return fate.Undone != noPosition
	}
	for _, l := range r.note.Logs {
		if s := p.log(l.Log); s != nil && s.state(r.gen).Done == noPosition {
			return false
		}
	}
	return true
}

// deleting reports that the run's deletes may have begun.
func (p *pruner) deleting() bool {
	a := p.log(p.run.arbiter())
	return a.state(p.run.gen).Deleting != noPosition
}

// clock asks the store for its time, by an object that is created for it.
func (p *pruner) clock(ctx context.Context) error {
	key := chunkstore.ProbePrefix + "prune/" + strings.ToLower(rand.Text())
	// One that exists is this one, its reply lost: nobody else has the name.
	if err := p.r.b.Create(ctx, key, []byte("what time is it")); err != nil && !errors.Is(err, chunkstore.ErrExists) {
		return fmt.Errorf("ask the store for its time: %w", err)
	}
	i, err := p.r.b.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("ask the store for its time: %w", err)
	}
	p.now = i.Modified
	if err := p.r.b.(chunkstore.Remover).Remove(ctx, key); err != nil {
		return fmt.Errorf("%w: this identity cannot delete: %w", ErrPruneRefused, err)
	}
	return nil
}
