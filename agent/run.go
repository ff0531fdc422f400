package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// agent is one session of the service: from taking the slot over until it ends.
type agent struct {
	o        Options
	log      *slog.Logger
	now      func() time.Time
	secrets  *history.Secrets
	store    *chunkstore.Store
	source   *cdc.Source
	identity cdc.Identity
	stream   *cdc.Stream
	writer   *history.Writer
	opening  history.Opening
	capture  *capture
	copier   *copier
	poller   *poller
	merges   chan struct{}
	noting   sync.Mutex // held while notes are written

	// Of an adoption: what the database was until now, nil when nothing is known, and
	// whether its comment holds a trace.
	parent *history.View
	traced bool
}

// attempts is how often Run begins again, without a flush between, before it
// gives up and leaves the rest to the service manager.
const attempts = 8

// defaults fills in what is not set.
func (o Options) defaults() Options {
	t := &o.Tuning
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&t.RPO, 5*time.Second)
	set(&t.MergeEvery, time.Hour)
	set(&t.RefreshEvery, 14*24*time.Hour)
	set(&t.CopyMax, time.Hour)
	set(&o.Source.SchemaQuiet, 10*time.Second)
	if t.WALBudget == 0 {
		t.WALBudget = 2 << 30
	}
	if t.MergeSegments <= 0 {
		t.MergeSegments = 1000
	}
	if t.RefreshMin <= 0 {
		t.RefreshMin = 4 << 20
	}
	if t.Alarm.Share <= 0 {
		t.Alarm.Share = 0.3
	}
	if t.Alarm.Rows <= 0 {
		t.Alarm.Rows = 1000
	}
	if t.RefreshRate == 0 {
		t.RefreshRate = 32 << 20
	}
	if t.Workers <= 0 {
		t.Workers = 2
	}
	if t.SegmentBytes <= 0 {
		t.SegmentBytes = 8 << 20
	}
	if o.Source.Slot == "" {
		o.Source.Slot = "lifeboat"
	}
	if o.Source.Publication == "" {
		o.Source.Publication = "lifeboat"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	if o.Progress == nil {
		o.Progress = func() {}
	}
	return o
}

func (o *Options) connect(ctx context.Context) (*cdc.Source, cdc.Identity, error) {
	src, err := cdc.Connect(ctx, cdc.Config{
		DSN: o.Source.DSN, Slot: o.Source.Slot, Publication: o.Source.Publication, Log: o.Log, Quiet: o.Source.SchemaQuiet,
		Profile: o.Source.Profile,
	})
	if err != nil {
		return nil, cdc.Identity{}, err
	}
	id, err := src.Identify(ctx)
	if err == nil && id.InRecovery {
		err = fmt.Errorf("%s is a standby and cannot be followed: name the primary: %w", id.Database, ErrSourceLost)
	}
	if err != nil {
		src.Close(ctx)
		return nil, id, err
	}
	return src, id, nil
}

// serve is Run without the tries of the store; o has its defaults.
func serve(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options) error {
	o.wal = &allowance{dir: o.State, limit: o.Tuning.WALBudget, log: o.Log}
	failed, again := 0, o.NewBase
	for {
		flushed, err := session(ctx, repo, s, &o)
		if err == nil {
			return o.wal.forget()
		}
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		if again && errors.Is(err, cdc.ErrPublicationMissing) {
			// The stream cannot pass a place at which the publication did not exist, and a
			// new base was asked for: then behind it, from a slot of its own.
			o.Log.Warn("the slot holds a place without the publication: it is made anew", "err", err.Error())
			o.NewBase, o.freshSlot, again = true, true, false
			continue
		}
		if errors.Is(err, cdc.ErrUndecodable) && (again || o.nothing) && failed < attempts {
			// Trying again meets the same place. No table has a copy that this could make a
			// hole in, or a new base was asked for.
			o.Log.Warn("the slot cannot be followed from its beginning: it is made anew", "err", err.Error())
			o.NewBase, o.freshSlot = true, true
			failed++
			continue
		}
		if permanent(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stopped before all that was received was durable; PostgreSQL keeps it and sends it again: %w: %w", err, ErrLater)
		}
		if flushed {
			failed = 0
			o.NewBase, o.Adopt = false, false
		}
		if err := o.guard(ctx); err != nil {
			return err
		}
		failed++
		if failed >= attempts && errors.Is(err, cdc.ErrUndecodable) {
			return fmt.Errorf("run `lifeboat run --new-base` to go on behind it, and the gap is named: %w: %w", err, ErrSourceLost)
		}
		if failed >= attempts {
			return fmt.Errorf("gave up after %d attempts: %w: %w", failed, err, ErrLater)
		}
		wait := min(time.Duration(1)<<failed*100*time.Millisecond, 15*time.Second)
		o.Log.Warn("the session ended; it begins again", "err", err.Error(), "wait", wait.String())
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// permanent errors do not go away by trying again.
func permanent(err error) bool {
	for _, e := range []error{
		ErrSourceLost, ErrForeignSource, ErrNotAttached, ErrState, history.ErrFenced, history.ErrWrongKey,
		history.ErrNoRepository, chunkstore.ErrDamaged, chunkstore.ErrUnsafe, record.ErrCorrupt, record.ErrVersion, cdc.ErrSlotForeign,
		cdc.ErrPublication, cdc.ErrPublicationMissing, cdc.ErrProtocol,
		// The slot was waited for already, twice as long as a dead agent can hold it.
		cdc.ErrSlotActive,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// session takes the slot over, opens an epoch and works until something ends it.
func session(ctx context.Context, repo *history.Repository, s *history.Secrets, options *Options) (flushed bool, err error) {
	o := *options
	src, id, err := o.connect(ctx)
	if err != nil {
		return false, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	a := &agent{o: o, log: o.Log, now: o.Now, secrets: s, source: src, identity: id, merges: make(chan struct{}, 1)}
	lin, err := a.lineage(ctx, repo)
	if err != nil {
		return false, err
	}
	keys, err := epochKeys(o.State, lin)
	if err != nil {
		return false, err
	}
	log := repo.Log(s, lin, keys)
	a.store = log.Store()
	if err := a.takeSlot(ctx, log); err != nil {
		return false, err
	}
	options.freshSlot = false // once is enough
	defer a.stream.Close()
	if err := a.open(ctx, log, keys); err != nil {
		return false, err
	}
	if o.Adopt {
		if err := a.adopted(ctx, lin); err != nil {
			return false, err
		}
		options.Adopt = false // the next session goes on with this lineage
	}
	err = a.work(ctx)
	options.nothing = len(a.writer.View().Bases) == 0
	return a.opening.Durable < a.writer.View().Durable, err
}

// lineage decides which log is continued; with Adopt it is a new one.
func (a *agent) lineage(ctx context.Context, repo *history.Repository) (history.LineageID, error) {
	if a.o.Adopt {
		return a.adopt(ctx, repo)
	}
	id, err := Lineage(a.o.State)
	if err != nil {
		return id, err
	}
	if id.Source != a.identity.Source {
		return id, fmt.Errorf("this database is %s, the lineage of %s follows %s: if it was restored or replaced on purpose run `lifeboat run --adopt`: %w",
			a.identity.Source, a.o.State, id.Source, ErrForeignSource)
	}
	return id, forgetAdopting(a.o.State)
}

// takeSlot acquires the slot before the log's tail is read: from here on nobody
// else can hold it (protocol §3).
func (a *agent) takeSlot(ctx context.Context, log *history.Log) error {
	slot, err := a.source.Slot(ctx)
	if err != nil {
		return err
	}
	if err := ownSlot(slot, a.o.Source.Slot, a.identity.Database); err != nil {
		return err
	}
	lost := slot == nil || slot.WALStatus == "lost" || slot.Invalidation != "" || a.o.freshSlot
	if a.o.NewBase || a.o.Adopt {
		if err := a.source.CreatePublication(ctx); err != nil { // before the slot, as at attach
			return err
		}
	}
	if lost && (a.o.NewBase || a.o.Adopt) {
		if slot != nil {
			if err := dropSlot(ctx, a.source); err != nil {
				return err
			}
		}
		if _, err := a.source.CreateSlot(ctx); err != nil {
			return err
		}
	} else if lost {
		return lostSlot(slot, a.o.Source.Slot)
	} else if _, err := a.o.wal.over(slot.RetainedBytes); err != nil { // how much it is at the start
		return err
	}
	if a.stream, err = a.source.Stream(ctx, cdc.StreamOptions{Wait: -1, Rest: a.o.Tuning.rest()}); err != nil {
		switch {
		case errors.Is(err, cdc.ErrSlotActive):
			return fmt.Errorf("another agent holds the slot: stop it first: %w: %w", err, ErrLater)
		case errors.Is(err, cdc.ErrSlotMissing), errors.Is(err, cdc.ErrSlotLost):
			return fmt.Errorf("%w: run `lifeboat run --new-base`: %w", err, ErrSourceLost)
		}
		return err
	}
	return nil
}

func lostSlot(slot *cdc.SlotState, name string) error {
	why := "does not exist"
	if slot != nil {
		why = "is " + slot.WALStatus
		if slot.Invalidation != "" {
			why += " (" + slot.Invalidation + ")"
		}
	}
	return fmt.Errorf("the replication slot %q %s, so changes since the last flush cannot be had; what is in the repository stays restorable; run `lifeboat run --new-base` to go on, and the gap is named: %w", name, why, ErrSourceLost)
}

// open reads the tail, checks that the source is the one that it follows, and
// opens an epoch.
func (a *agent) open(ctx context.Context, log *history.Log, keys history.EpochKeys) error {
	view, err := log.Load(ctx)
	if errors.Is(err, history.ErrNoLineage) {
		view, err = nil, nil
	}
	if err != nil {
		return err
	}
	begins, flush := a.stream.Begins(), a.stream.System().Flush
	gap := false
	for _, v := range []*history.View{view, a.parent} {
		if v != nil && v.ID.Source == a.identity.Source {
			tellHuge(a.source, v)
		}
	}
	if view != nil {
		last := view.Epochs[len(view.Epochs)-1]
		switch {
		case last.Timeline != a.identity.Timeline:
			return fmt.Errorf("the server is on timeline %d, the lineage follows timeline %d: it was promoted or restored; run `lifeboat run --adopt`: %w", a.identity.Timeline, last.Timeline, ErrSourceLost)
		case view.Durable > flush:
			return fmt.Errorf("the server has flushed %s, the repository holds %s: the server was restored from an older copy; run `lifeboat run --adopt`: %w", flush, view.Durable, ErrSourceLost)
		case begins > view.Durable && !a.o.NewBase:
			return fmt.Errorf("the slot begins at %s, the repository ends at %s: the changes between cannot be had (did the repository lose an entry? `lifeboat verify` looks); run `lifeboat run --new-base` to go on, and the gap is named: %w", begins, view.Durable, ErrSourceLost)
		}
		if gap = begins > view.Durable; gap {
			a.log.Warn("changes are lost: every table is incomplete until it is copied again", "from", view.Durable.String(), "until", begins.String())
		}
	}
	pos, err := a.source.Now(ctx)
	if err != nil {
		return err
	}
	a.stream.SetNear(pos.Snapshot.XMax)
	host, _ := os.Hostname()
	a.opening.Timeline, a.opening.Slot, a.opening.ServerVersion = a.identity.Timeline, a.o.Source.Slot, a.identity.Version
	a.opening.XMax, a.opening.Host = pos.Horizon, host
	var known recovered
	if view == nil {
		a.opening.Durable = begins
	} else {
		if known, err = a.recover(ctx, view); err != nil {
			return err
		}
		a.opening.Durable = view.Durable
		if gap {
			a.opening.Durable = begins
			known.forget()
		}
		a.opening.Tables = known.list()
	}
	if a.writer, err = log.Begin(ctx, view, keys, a.opening); err != nil {
		return err
	}
	var before record.LSN
	if view != nil {
		before = view.Durable
		// What another writer's last create brought meanwhile counts as well.
		if view = a.writer.View(); view.Durable != a.opening.Durable {
			return fmt.Errorf("another writer made %s durable meanwhile: begin again", view.Durable)
		}
	}
	a.capture = newCapture(a.store, a.secrets.Digest, a.opening.Durable, a.o.Tuning.SegmentBytes, a.log, a.now)
	a.capture.progress = a.progress
	a.capture.alarm = a.o.Tuning.Alarm
	a.capture.stream, a.capture.huge, a.capture.plant = a.stream, a.source.FoundHugeRow, a.o.plant
	a.copier = &copier{a: a, wake: make(chan struct{}, 1), due: make(chan struct{}, 1), wait: map[uint32]time.Time{}}
	a.poller = &poller{a: a, noted: map[uint32]bool{}, huge: map[uint32]bool{}, refused: map[uint32]string{}}
	a.poller.ready = view != nil && view.Ready
	if err := a.resume(view, before, known, gap); err != nil {
		return err
	}
	cat, err := a.poller.first(ctx)
	if err != nil || !a.o.Adopt {
		return err
	}
	return a.carry(ctx, cat)
}

// work runs the session's parts until ctx ends or one of them fails.
func (a *agent) work(ctx context.Context) error {
	parts, stopParts := context.WithCancel(ctx)
	defer stopParts()
	streamCtx, stopStream := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStream()
	a.capture.ctx = streamCtx
	var streamErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		streamErr = a.stream.Run(streamCtx, a.capture)
		a.capture.abort()
		if streamErr == nil {
			streamErr = context.Canceled
		}
		a.capture.stop(streamErr)
		stopParts()
	}()
	g, gctx := errgroup.WithContext(parts)
	for _, part := range []func(context.Context) error{a.poller.run, a.copier.run, a.merge, a.refresh, a.budget} {
		g.Go(func() error { return part(gctx) })
	}
	f := &flusher{a: a, sequences: map[uint32]record.Sequence{}, states: a.opening.Tables, durable: a.opening.Durable, answered: unanswered}
	g.Go(func() error { return f.run(gctx) })
	// A store that hangs within a large transaction holds the stream, and the stream
	// whoever drains: past the time for draining it is cut.
	cut := context.AfterFunc(parts, func() {
		t := time.AfterFunc(drainFor, stopStream)
		context.AfterFunc(streamCtx, func() { t.Stop() })
	})
	defer cut()
	a.o.Ready()
	a.log.Info("streaming", "from", a.opening.Durable.String(), "source", a.identity.Source.String(), "slot", a.o.Source.Slot)
	err := g.Wait()
	stopStream()
	a.capture.stop(context.Canceled)
	<-done
	if streamErr != nil && !errors.Is(streamErr, context.Canceled) {
		if err != nil && permanent(err) { // the slot was given up, or the last flush met another agent's entry
			return err
		}
		return streamErr
	}
	if err == nil && ctx.Err() == nil {
		return errors.New("the session ended without a reason")
	}
	return err
}

func (a *agent) progress() { a.o.Progress() }

// schemaCertain is the position up to which the newest schema note is known true.
func (a *agent) schemaCertain() record.LSN {
	a.capture.mu.Lock()
	defer a.capture.mu.Unlock()
	return a.capture.certain
}

// merge turns ended epochs into histories, one at a time, beside the stream.
func (a *agent) merge(ctx context.Context) error {
	for {
		for _, epoch := range a.writer.Unmerged() {
			err := a.writer.Merge(ctx, epoch)
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, history.ErrNoKey):
				a.log.Warn("an epoch stays unmerged: its key is not on this host", "epoch", epoch)
			case err != nil:
				return fmt.Errorf("merge epoch %d: %w", epoch, err)
			default:
				a.log.Info("epoch merged", "epoch", epoch)
				a.progress()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.merges:
		}
	}
}
