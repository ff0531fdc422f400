package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// VerifyOptions of Verify.
type VerifyOptions struct {
	// Data is how many percent of the chunks are fetched, chosen by name; 0 means all.
	Data float64
	// Structure: fetch no chunk, look only whether it is there.
	Structure bool
	// Operators opens keys/ and checks it; nil: in an encrypted repository keys/ is
	// not checked, because nothing but an operator's identity proves its bytes.
	Operators []age.Identity
}

// VerifyReport says what Verify looked at and found.
type VerifyReport struct {
	Lineages int   `json:"lineages"`
	Entries  int   `json:"entries"`
	Bodies   int   `json:"bodies"` // entries whose body was opened
	Chunks   int   `json:"chunks"`
	Bytes    int64 `json:"bytes"` // of all objects, by the store's listing
	// KeysChecked: the objects under keys/ were opened.
	KeysChecked bool `json:"keys_checked"`
	// Orphans are chunks that no entry reaches: left by a crash, or by a prune.
	Orphans int `json:"orphans"`
	// Strange are keys that nobody of ours makes, and entries past the end of their
	// epoch; harmless.
	Strange []string `json:"strange"`
	// Damage holds one line for each damaged or missing object.
	Damage []string `json:"damage"`
}

// Verify checks a repository: configuration and keys, every chain, number and
// trailer of the logs, and the trailer of every chunk that an entry reaches. With
// the repository's identity also every body, every chunk's content, and that a
// body points to nothing that its part 1 does not name (H1). It returns an error
// only when it could not look; what it found is in the report.
func Verify(ctx context.Context, r *Repository, s *Secrets, o VerifyOptions) (*VerifyReport, error) {
	v := &verifier{
		r: r, s: s, o: o, out: &VerifyReport{},
		there: map[chunkstore.Name]bool{}, done: map[chunkstore.Name]bool{}, entries: map[LineageID][]Position{},
	}
	if err := v.list(ctx); err != nil {
		return v.out, err
	}
	if err := v.config(ctx); err != nil {
		return v.out, err
	}
	ids := make([]LineageID, 0, len(v.entries))
	for id := range v.entries {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b LineageID) int { return strings.Compare(a.String(), b.String()) })
	for _, id := range ids {
		v.out.Lineages++
		if err := v.lineage(ctx, id); err != nil {
			return v.out, err
		}
	}
	for name := range v.there {
		if !v.done[name] {
			v.out.Orphans++
		}
	}
	return v.out, nil
}

type verifier struct {
	r       *Repository
	s       *Secrets
	o       VerifyOptions
	out     *VerifyReport
	there   map[chunkstore.Name]bool // chunks in the listing
	done    map[chunkstore.Name]bool // chunks that an entry reaches; looked at
	entries map[LineageID][]Position // entries in the listing, ascending
}

// found sorts an error: damage goes into the report, what could not be looked at
// ends the run.
func (v *verifier) found(err error) error {
	for _, is := range []error{
		chunkstore.ErrDamaged, record.ErrCorrupt, record.ErrVersion, chunkstore.ErrVersion, chunkstore.ErrNotFound, ErrWrongKey,
	} {
		if errors.Is(err, is) {
			v.out.Damage = append(v.out.Damage, err.Error())
			return nil
		}
	}
	return err
}

// list sorts all keys of the store.
func (v *verifier) list(ctx context.Context) error {
	err := v.r.b.List(ctx, "", func(i chunkstore.Info) error {
		v.out.Bytes += i.Size
		switch {
		case i.Key == configKey, strings.HasPrefix(i.Key, keysPrefix), strings.HasPrefix(i.Key, chunkstore.ProbePrefix):
			return nil
		case strings.HasPrefix(i.Key, logPrefix):
			if id, at, ok := parseEntryKey(i.Key); ok {
				v.entries[id] = append(v.entries[id], at)
				return nil
			}
		default:
			if n, err := chunkstore.ParseKey(i.Key); err == nil {
				v.there[n] = true
				return nil
			}
		}
		v.out.Strange = append(v.out.Strange, i.Key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the store: %w", err)
	}
	return nil
}

// parseEntryKey reads what LineageID.key writes.
func parseEntryKey(key string) (id LineageID, at Position, ok bool) {
	f := strings.Split(strings.TrimPrefix(key, logPrefix), "/")
	if len(f) != 3 {
		return id, at, false
	}
	id, err := ParseLineageID(f[0])
	if err != nil {
		return id, at, false
	}
	for i, p := range []*uint64{&at.Epoch, &at.Seq} {
		if _, err := fmt.Sscanf(f[i+1], "%d", p); err != nil {
			return id, at, false
		}
	}
	return id, at, id.key(at) == key
}

// config checks lifeboat.json and keys/.
func (v *verifier) config(ctx context.Context) error {
	raw, err := v.r.b.Get(ctx, configKey)
	if err != nil {
		return v.found(fmt.Errorf("get %s: %w", configKey, err))
	}
	now := Repository{b: v.r.b, config: v.r.config, raw: raw}
	if _, err = parseConfig(raw); err == nil {
		err = now.check(v.s)
	}
	if err != nil {
		if err = v.found(fmt.Errorf("%s: %w", configKey, err)); err != nil {
			return err
		}
	}
	if !v.r.config.Plaintext && len(v.o.Operators) == 0 {
		return nil
	}
	v.out.KeysChecked = true
	keys := []string{clearKey}
	if !v.r.config.Plaintext {
		keys = nil
		numbers, err := v.r.keyNumbers(ctx)
		if err != nil {
			return err
		}
		for _, n := range numbers {
			keys = append(keys, keysKey(n))
		}
		if len(keys) == 0 {
			v.out.Damage = append(v.out.Damage, "no object under "+keysPrefix)
		}
	}
	for _, key := range keys {
		got, err := v.r.unlock(ctx, key, v.o.Operators)
		if err == nil && !sameSecrets(got, v.s) {
			err = damaged(key, "it holds other secrets")
		}
		if err != nil {
			if err = v.found(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameSecrets compares what both hold.
func sameSecrets(a, b *Secrets) bool {
	x, y := *a, *b
	x.Recipients, y.Recipients = nil, nil
	if !b.CanRead() {
		x = *x.Agent()
		y.Prune = chunkstore.Secret{}
	}
	p, err1 := x.Marshal()
	q, err2 := y.Marshal()
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}

// lineage checks one log.
func (v *verifier) lineage(ctx context.Context, id LineageID) error {
	l := v.r.Log(v.s, id, nil)
	view, err := l.Load(ctx)
	if err != nil {
		// What Load cannot pass is damage; the walk below says more.
		if errors.Is(err, ErrNoLineage) {
			err = damaged(id.key(Position{}), "the entry is missing")
		}
		if err = v.found(fmt.Errorf("load %s: %w", id, err)); err != nil {
			return err
		}
		view = &View{ID: id, log: l}
	}
	w := &logWalk{verifier: v, log: l, id: id, view: view, whole: true, state: &View{ID: id, log: l}, listed: v.entries[id]}
	if w.removed, err = view.removed(ctx); err != nil {
		if err = v.found(err); err != nil {
			return err
		}
	}
	all := v.entries[id]
	last := all[len(all)-1].Epoch
	if len(view.Epochs) > 0 {
		last = max(last, view.Head.Epoch)
	}
	for epoch := uint64(0); epoch <= last; epoch++ {
		if err := w.epoch(ctx, epoch, epoch == last); err != nil {
			return err
		}
	}
	for _, at := range all {
		if !w.seen[at] {
			v.out.Strange = append(v.out.Strange, id.key(at))
		}
	}
	return nil
}

// logWalk goes through one log from its first entry.
type logWalk struct {
	*verifier
	log   *Log
	id    LineageID
	view  *View // of Load
	state *View // folded along, as long as nothing is missing
	whole bool
	prev  *entryHash // nil after a missing entry
	seen  map[Position]bool
	// removed are the entries that prunes have removed or are removing: they may be
	// gone, and so may what they reach.
	removed entryRuns
	// listed are the entries in the listing of epochs not looked at yet.
	listed []Position
}

// needs are the entries that a reader of the newest picture opens.
func (w *logWalk) needs(at Position) bool {
	v := w.view
	return slices.ContainsFunc(v.Bases, func(b BaseInfo) bool { return b.Position == at }) ||
		slices.ContainsFunc(v.Schemas, func(b SchemaInfo) bool { return b.Position == at }) ||
		slices.ContainsFunc(v.Segments, func(b SegmentInfo) bool { return b.Position == at }) ||
		slices.ContainsFunc(v.Histories, func(b HistoryInfo) bool { return b.Position == at }) ||
		slices.Contains(v.Condemns, at) || v.Checkpoint.At == at
}

// epoch checks the entries of one epoch.
func (w *logWalk) epoch(ctx context.Context, epoch uint64, last bool) error {
	end := uint64(maxNumber)
	highest, listed := uint64(0), map[uint64]bool{}
	for ; len(w.listed) > 0 && w.listed[0].Epoch == epoch; w.listed = w.listed[1:] {
		highest = w.listed[0].Seq
		listed[highest] = true
	}
	if !last {
		end = highest
		if next, err := w.log.get(ctx, Position{Epoch: epoch + 1}); err == nil && next.sum.Epoch != nil && next.sum.Epoch.Follows != nil {
			end = next.sum.Epoch.Follows.Seq
		}
	}
	for seq := uint64(0); seq <= end; seq++ {
		at := Position{Epoch: epoch, Seq: seq}
		if !listed[seq] && w.removed.has(at) && !w.needs(at) {
			w.prev, w.whole = nil, false // years of them: none is asked for
			continue
		}
		e, err := w.log.get(ctx, at)
		if errors.Is(err, chunkstore.ErrNotFound) && last && seq > highest {
			return nil
		}
		if err != nil {
			w.prev, w.whole = nil, false
			if errors.Is(err, chunkstore.ErrNotFound) && w.removed.has(at) && !w.needs(at) {
				continue
			}
			if err := w.found(w.log.needed(at, err)); err != nil {
				return err
			}
			continue
		}
		if w.seen == nil {
			w.seen = map[Position]bool{}
		}
		w.seen[at] = true
		if err := w.entry(ctx, e); err != nil {
			return err
		}
		if e.kind == KindEnd {
			if !last && seq != end {
				return w.found(damaged(w.id.key(at), "the epoch ends here, the next one says at %d", end))
			}
			return nil
		}
	}
	if last {
		return nil
	}
	return w.found(damaged(w.id.key(Position{Epoch: epoch, Seq: end}), "the epoch has no end"))
}

// entry checks one entry that opened.
func (w *logWalk) entry(ctx context.Context, e *entry) error {
	key := w.id.key(e.at)
	w.out.Entries++
	first := e.at == Position{}
	switch {
	case first && e.prev != entryHash{}, w.prev != nil && *w.prev != e.prev:
		if err := w.found(damaged(key, "it names another entry before it")); err != nil {
			return err
		}
	case (e.at.Seq == 0) != (e.kind == KindEpoch):
		if err := w.found(damaged(key, "kind %s", e.kind)); err != nil {
			return err
		}
	}
	h := e.hash
	w.prev = &h
	if w.whole {
		if err := w.replay(e); err != nil {
			w.whole = false
			if err := w.found(err); err != nil {
				return err
			}
		}
	}
	if w.removed.has(e.at) {
		return nil
	}
	names, err := w.names(ctx, e)
	if err != nil {
		return w.found(fmt.Errorf("%s: %w", key, err))
	}
	if w.s.CanRead() {
		if err := w.body(ctx, e, names); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := w.chunk(ctx, n, func() error { return w.log.store.Scrub(ctx, n) }); err != nil {
			return err
		}
	}
	return nil
}

// replay folds an entry and holds a checkpoint against what was folded.
func (w *logWalk) replay(e *entry) error {
	if e.sum.Checkpoint != nil {
		a, err1 := record.Marshal(&w.state.State)
		b, err2 := record.Marshal(e.sum.Checkpoint)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return damaged(w.id.key(e.at), "the checkpoint is not what the entries before it say")
		}
	}
	return w.state.fold(e)
}

// names gives what an entry reaches. Index chunks need the repository's keys for
// chunks; maintenance has none, and sees the first list only.
func (w *logWalk) names(ctx context.Context, e *entry) ([]chunkstore.Name, error) {
	if len(e.sum.ReachIndex) > 0 && w.s.Chunk.Name.IsZero() {
		return e.sum.Reach, nil
	}
	return w.log.reached(ctx, &e.sum)
}

// chunk looks at a chunk once.
func (w *logWalk) chunk(ctx context.Context, n chunkstore.Name, open func() error) error {
	if w.done[n] {
		return nil
	}
	w.done[n] = true
	if !w.there[n] {
		if _, err := w.r.b.Stat(ctx, n.Key()); err != nil {
			if errors.Is(err, chunkstore.ErrNotFound) {
				err = damaged(n.Key(), "an entry reaches this chunk and it is missing")
			}
			return w.found(err)
		}
	}
	share := w.o.Data
	if w.o.Structure || (share > 0 && float64(binary.BigEndian.Uint16(n[:2])) >= share/100*65536) {
		return nil
	}
	w.out.Chunks++
	return w.found(open())
}

// body opens and parses the body of an entry, and every chunk that it points to.
func (w *logWalk) body(ctx context.Context, e *entry, names []chunkstore.Name) error {
	key := w.id.key(e.at)
	k := w.s.Chunk.Seal
	if e.bodyParser() != nil {
		var err error
		if k, err = w.log.epochKey(ctx, w.log.keys, e.keyEpoch()); err != nil {
			return w.found(fmt.Errorf("open %s: %w", key, err))
		}
	}
	b, err := e.openBody(k)
	if err != nil {
		return w.found(err)
	}
	w.out.Bodies++
	if e.bodyParser() == nil {
		if len(b) > 0 {
			return w.found(damaged(key, "a %s with a body", e.kind))
		}
		return nil
	}
	refs, err := e.bodyParser()(e, b)
	if err != nil {
		return w.found(damaged(key, "%w", err))
	}
	named := make(map[chunkstore.Name]bool, len(names))
	for _, n := range names {
		named[n] = true
	}
	for _, r := range refs {
		n := w.log.store.Name(r.Ref)
		if !named[n] {
			if err := w.found(damaged(key, "part 1 does not name the chunk %s", n)); err != nil {
				return err
			}
		}
		if err := w.chunk(ctx, n, func() error { return w.read(ctx, r) }); err != nil {
			return err
		}
	}
	return nil
}

// read opens a chunk's content.
func (w *logWalk) read(ctx context.Context, r bodyRef) error {
	b, err := w.log.store.Get(ctx, r.kind, r.Ref)
	if err != nil {
		return err
	}
	if uint64(len(b)) < r.atLeast {
		return damaged(w.log.store.Name(r.Ref).Key(), "%d bytes, an entry points to %d", len(b), r.atLeast)
	}
	return nil
}
