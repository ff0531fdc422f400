package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// surveyed is one log as a prune sees it: not by its newest checkpoint alone, which the
// agent's host wrote, but by every entry that there is. What a checkpoint names must be
// there; what is there counts although no checkpoint names it.
type surveyed struct {
	id      LineageID
	log     *Log
	loaded  *View // the agent's picture
	view    *View // what all entries say together
	entries map[Position]*surveyEntry
	missing []Position        // named, and not there
	removed entryRuns         // by earlier prunes
	ends    map[uint64]uint64 // where each ended epoch ends
	drop    []Position        // that this prune may remove, ascending
	kept    *Retained
	warn    []string
}

// surveyEntry is one entry that is there.
type surveyEntry struct {
	sum   Summary // names apart
	reach []chunkstore.Name
	size  int64
}

// surveyWidth is how many entries are read at once.
const surveyWidth = 8

// survey reads a log.
func (l *Log) survey(ctx context.Context) (*surveyed, error) {
	v, err := l.Load(ctx)
	if err != nil {
		return nil, err
	}
	s := &surveyed{id: l.id, log: l, entries: map[Position]*surveyEntry{}}
	want := map[Position]bool{} // true: it must be there
	err = l.b.List(ctx, fmt.Sprintf("%s%s/", logPrefix, l.id), func(i chunkstore.Info) error {
		if _, at, ok := parseEntryKey(i.Key); ok {
			want[at] = false
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.id, err)
	}
	if v, err = l.Advance(ctx, v); err != nil { // what was written since
		return nil, err
	}
	if !l.faults.trustListing {
		for _, at := range v.State.places() {
			want[at] = true
		}
		for epoch := range v.Head.Epoch + 1 { // never removed
			want[Position{Epoch: epoch}] = true
		}
	}
	s.loaded = v
	if err := s.read(ctx, want); err != nil {
		return nil, err
	}
	s.findEnds()
	s.authenticRuns()
	if s.removed, err = s.loaded.removed(ctx); err != nil {
		return nil, err
	}
	for _, at := range s.missing {
		if !s.removed.has(at) {
			return nil, l.needed(at, chunkstore.ErrNotFound)
		}
	}
	return s, s.picture(ctx)
}

// places are the entries that a state names.
func (s *State) places() []Position {
	var out []Position
	for _, x := range s.Epochs {
		out = append(out, x.Position)
	}
	for _, x := range s.Segments {
		out = append(out, x.Position)
	}
	for _, x := range s.Histories {
		out = append(out, x.Position)
	}
	for _, x := range s.Bases {
		out = append(out, x.Position)
	}
	for _, x := range s.Schemas {
		out = append(out, x.Position)
	}
	if s.Checkpoint != (checkpointRef{}) {
		out = append(out, s.Checkpoint.At)
	}
	for _, r := range s.Runs {
		for _, at := range []Position{r.Condemned, r.Deleting, r.Done, r.Undone} {
			if at != noPosition {
				out = append(out, at)
			}
		}
	}
	return append(out, s.Condemns...)
}

// authenticRuns puts what the notes of K_prune's holders say in the place of what the
// agent's checkpoint says of prunes.
func (s *surveyed) authenticRuns() {
	v := s.loaded.clone()
	v.Runs = nil
	for _, at := range s.positions() {
		n := s.entries[at].sum.Note
		if n == nil || s.void(at) {
			continue
		}
		switch n.Kind {
		case NoteCondemn, NoteDeleting, NoteDone, NoteUndelete:
			if s.log.faults.forgedNotes || s.log.secrets.authentic(s.id, n) {
				v.foldRun(at, n)
			}
		}
	}
	s.loaded = v
}

// removed lists the entries that prunes have removed, or are removing.
func (v *View) removed(ctx context.Context) (entryRuns, error) {
	var out entryRuns
	for _, r := range v.Runs {
		if r.Deleting == noPosition {
			continue
		}
		e, err := v.log.get(ctx, r.Deleting)
		if err != nil {
			return nil, v.log.needed(r.Deleting, err)
		}
		if e.sum.Note == nil || e.sum.Note.Gen != r.Gen {
			return nil, damaged(v.ID.key(r.Deleting), "it is not the note of the prune %s", r.Gen)
		}
		out = out.merge(e.sum.Note.Entries)
	}
	return out, nil
}

// read gets the entries.
func (s *surveyed) read(ctx context.Context, want map[Position]bool) error {
	var mu sync.Mutex
	var first error
	queue := make(chan Position)
	var wg sync.WaitGroup
	width := surveyWidth
	if s.log.ahead == 1 {
		width = 1
	}
	for range width {
		wg.Go(func() {
			for at := range queue {
				e, err := s.one(ctx, at)
				mu.Lock()
				switch {
				case e != nil:
					s.entries[at] = e
				case errors.Is(err, chunkstore.ErrNotFound):
					if want[at] {
						s.missing = append(s.missing, at)
					}
				case first == nil:
					first = err
				}
				mu.Unlock()
			}
		})
	}
	for _, at := range slices.SortedFunc(maps.Keys(want), Position.compare) {
		queue <- at
	}
	close(queue)
	wg.Wait()
	return first
}

func (p Position) compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, o.Epoch), cmp.Compare(p.Seq, o.Seq))
}

// one reads an entry.
func (s *surveyed) one(ctx context.Context, at Position) (*surveyEntry, error) {
	e, err := s.log.get(ctx, at)
	if err != nil {
		return nil, err
	}
	out := &surveyEntry{sum: e.sum, size: e.size}
	out.reach = e.sum.Reach
	if len(e.sum.ReachIndex) > 0 {
		if s.log.secrets.Chunk.Name.IsZero() {
			return nil, fmt.Errorf("the names that %s reaches lie in index chunks: %w", s.id.key(at), errNeedsIdentity)
		}
		if out.reach, err = s.log.reached(ctx, &e.sum); err != nil {
			return nil, err
		}
	}
	out.sum.Reach, out.sum.ReachIndex = nil, nil
	return out, nil
}

// errNeedsIdentity: the maintenance secrets are not enough.
var errNeedsIdentity = fmt.Errorf("the operator's identity is needed once (--key FILE): %w", ErrNoKey)

// positions gives the entries that are there, in the order of the log.
func (s *surveyed) positions() []Position {
	return slices.SortedFunc(maps.Keys(s.entries), Position.compare)
}

// picture makes the view of all entries together, of which the agent's checkpoint is
// asked for nothing that could take away. Marks, pins and holds end only by notes that a
// holder of K_prune made.
func (s *surveyed) picture(ctx context.Context) error {
	state, err := copyState(&s.loaded.State)
	if err != nil {
		return err
	}
	v := &View{ID: s.id, Head: s.loaded.Head, State: *state, log: s.log, head: s.loaded.head}
	s.view = v
	until := map[Position]record.LSN{}
	for _, c := range v.Schemas {
		until[c.Position] = c.Until
	}
	merged := map[uint64]bool{}
	v.First, v.Pruned, v.Points = min(v.First, 1), 0, nil
	v.Epochs = nil
	v.Bases, v.Histories, v.Schemas, v.Segments, v.Dropped = nil, nil, nil, nil, nil
	for _, at := range s.positions() {
		if s.removed.has(at) || s.void(at) {
			continue
		}
		switch sum := &s.entries[at].sum; {
		case sum.Epoch != nil:
			v.Epochs = append(v.Epochs, sum.Epoch.info(at))
		case sum.Base != nil:
			v.Bases = append(v.Bases, sum.Base.info(at))
		case sum.History != nil:
			merged[sum.History.KeyEpoch] = true
			v.Histories = append(v.Histories, sum.History.info(at))
		case sum.Segment != nil:
			v.Segments = append(v.Segments, sum.Segment.info(at, s.entries[at].size))
		case sum.Schema != nil:
			v.Schemas = append(v.Schemas, SchemaInfo{
				Position: at, From: sum.Schema.From, Until: max(sum.Schema.From, until[at]), Fingerprint: sum.Schema.Fingerprint,
			})
		case sum.Note != nil:
			s.note(at, sum.Note)
		}
	}
	v.Segments = slices.DeleteFunc(v.Segments, func(g SegmentInfo) bool { return merged[g.Epoch] })
	return s.compareHistories(ctx)
}

// newestOwn is the newest entry that an agent wrote: prunes and marks write into a
// lineage that nobody follows any more, too.
func (s *surveyed) newestOwn() (at Position) {
	for p, e := range s.entries {
		if !e.sum.Maintenance && at.Before(p) && !s.void(p) {
			at = p
		}
	}
	return at
}

// findEnds notes where each epoch ended.
func (s *surveyed) findEnds() {
	s.ends = map[uint64]uint64{}
	for _, e := range s.entries {
		if e.sum.Epoch != nil && e.sum.Epoch.Follows != nil {
			s.ends[e.sum.Epoch.Follows.Epoch] = e.sum.Epoch.Follows.Seq
		}
	}
}

// void reports that an entry lies past the end of its epoch, or past what was read: it
// says nothing, but what it reaches stays.
func (s *surveyed) void(at Position) bool {
	end, ended := s.ends[at.Epoch]
	return ended && at.Seq > end || !ended && s.loaded.Head.Before(at)
}

// note takes what a person asked for into the picture, and what prunes left.
func (s *surveyed) note(at Position, n *Note) {
	v := s.view
	own := func() bool { return s.log.faults.forgedNotes || s.log.secrets.authentic(s.id, n) }
	known := func(list []Mark) bool {
		return slices.ContainsFunc(list, func(m Mark) bool { return m.Name == n.Name && m.Time >= n.Time })
	}
	older := func(m Mark) bool { return m.Name == n.Name && m.Time <= n.Time }
	switch n.Kind {
	case NoteMark:
		if !known(v.Marks) && !v.PrunedAt(n.From) {
			v.Marks = append(v.Marks, v.mark(n))
		}
	case NotePin:
		if !known(v.Pins) && !v.PrunedAt(n.From) {
			v.Pins = append(v.Pins, v.mark(n))
		}
	case NoteHold:
		if !known(v.Holds) {
			v.Holds = append(v.Holds, Mark{Name: n.Name, Time: n.Time})
		}
	case NoteUnmark:
		if own() {
			v.Marks = slices.DeleteFunc(v.Marks, older)
		}
	case NoteUnpin:
		if own() {
			v.Pins = slices.DeleteFunc(v.Pins, older)
		}
	case NoteRelease:
		if own() {
			v.Holds = slices.DeleteFunc(v.Holds, older)
		}
	case NoteDropped: // no table is gone before the epoch that says so
		d := Dropped{Table: n.Table, Name: n.Name, At: n.From}
		for _, e := range v.Epochs {
			if e.Epoch == at.Epoch {
				d.At = max(d.At, e.Durable)
			}
		}
		v.Dropped = append(v.Dropped, d)
	case NoteDeleting:
		if s.loaded.run(n.Gen).Deleting == at && n.Kept.From >= v.Pruned {
			v.First, v.Pruned, v.Points = n.Kept.From, n.Kept.From, n.Kept.Points
		}
	case NoteRound:
		r := Round{Kind: n.Name, From: n.From, Until: n.Until, Point: n.Point, Time: n.Time}
		if !slices.Contains(v.Rounds, r) && !v.PrunedAt(n.Point) {
			v.Rounds = append(v.Rounds, r)
		}
	}
}

// compareHistories holds each history against the segments that it replaces, as far as
// they are there: their number, what they count, and that each begins where the one
// before ends or later. Segments that their history does not hold stay, whatever
// retention says, and so does all that they reach.
func (s *surveyed) compareHistories(ctx context.Context) error {
	segments := map[uint64][]Position{}
	for _, at := range s.positions() {
		if s.entries[at].sum.Segment != nil && !s.removed.has(at) && !s.void(at) {
			segments[at.Epoch] = append(segments[at.Epoch], at)
		}
	}
	for _, h := range s.view.Histories {
		list := segments[h.KeyEpoch]
		if len(list) == 0 {
			continue
		}
		why := s.compareHistory(h, list)
		if why == "" && s.log.secrets.CanRead() {
			if err := s.compareBodies(ctx, h, list); err != nil {
				if !errors.Is(err, chunkstore.ErrDamaged) {
					return err
				}
				why = err.Error()
			}
		}
		if why != "" && !s.log.faults.shortHistory {
			s.warn = append(s.warn, fmt.Sprintf("the segments of epoch %d of %s stay: %s", h.KeyEpoch, s.id, why))
			continue
		}
		s.drop = append(s.drop, list...)
	}
	return nil
}

func (s *surveyed) compareHistory(h HistoryInfo, list []Position) string {
	var n, txs, records uint64
	at := h.Start
	for i, p := range list {
		g := s.entries[p].sum.Segment
		if i == 0 && g.Start != h.Start || g.Start < at || g.End < g.Start {
			return fmt.Sprintf("segment %s is (%s, %s] after %s", p, g.Start, g.End, at)
		}
		at, n, txs, records = g.End, n+1, txs+g.Transactions, records+g.Records
	}
	if at != h.End || n != h.Segments || txs != h.Transactions || records != h.Records {
		return fmt.Sprintf("they are %d up to %s with %d transactions and %d records, the history %s says %d, %s, %d and %d",
			n, at, txs, records, h.Position, h.Segments, h.End, h.Transactions, h.Records)
	}
	return ""
}

func (e *epochSummary) info(at Position) EpochInfo {
	return EpochInfo{
		Position: at, Timeline: e.Timeline, Slot: e.Slot, ServerVersion: e.ServerVersion, XMax: e.XMax,
		Durable: e.Durable, Parent: e.Parent, Host: e.Host,
	}
}

func (b *baseSummary) info(at Position) BaseInfo {
	return BaseInfo{
		Position: at, Table: b.Table, Name: b.Name, RecordsFrom: b.RecordsFrom, ExactFrom: b.ExactFrom,
		Rows: b.Rows, Bytes: b.Bytes, Time: b.Time, Proved: b.Proved,
	}
}

func (g *segmentSummary) info(at Position, size int64) SegmentInfo {
	return SegmentInfo{
		Position: at, Start: g.Start, End: g.End, First: g.First, Last: g.Last, Transactions: g.Transactions,
		Records: g.Records, Bytes: size, SchemaCertain: g.SchemaCertain,
	}
}

func (h *historySummary) info(at Position) HistoryInfo {
	return HistoryInfo{
		Position: at, KeyEpoch: h.KeyEpoch, Start: h.Start, End: h.End, First: h.First, Last: h.Last,
		Transactions: h.Transactions, Records: h.Records, Segments: h.Segments, Bytes: h.Bytes,
	}
}

// choose says what of the log may go: what retention does not need, segments that a
// history holds, and checkpoints before the newest. Only entries of ended epochs that
// lie before the newest checkpoint: every reader starts there or later. Epochs' first
// and last entries and all notes stay for ever.
func (s *surveyed) choose(k Keep, forget bool) {
	s.kept = retain(s.view, k, s.log.faults)
	if forget && len(s.view.Holds) == 0 {
		s.kept = &Retained{From: s.view.Durable, Since: s.view.DurableTime, Why: map[Position]string{}}
	}
	last := s.view.Epochs[len(s.view.Epochs)-1].Epoch
	from := s.view.Checkpoint.At
	var drop []Position
	for _, at := range s.positions() {
		e := s.entries[at]
		if s.removed.has(at) || at.Epoch >= last || !at.Before(from) {
			continue
		}
		_, needed := s.kept.Why[at]
		switch sum := &e.sum; {
		case sum.Segment != nil:
			if slices.Contains(s.drop, at) || forget && s.inSegments(at) {
				drop = append(drop, at)
			}
		case sum.Checkpoint != nil:
			drop = append(drop, at)
		case sum.Base != nil, sum.History != nil, sum.Schema != nil:
			if !needed {
				drop = append(drop, at)
			}
		}
	}
	s.drop = drop
}

func (s *surveyed) inSegments(at Position) bool {
	return slices.ContainsFunc(s.view.Segments, func(g SegmentInfo) bool { return g.Position == at })
}

func namePrefix(n chunkstore.Name) uint64 { return binary.BigEndian.Uint64(n[:]) }
