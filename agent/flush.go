package agent

import (
	"context"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

const (
	// idleBytes and idleEvery say when an idle source's position is stored and
	// confirmed (design §6): other databases' WAL is released by it.
	idleBytes = 16 << 20
	idleEvery = 5 * time.Minute
	// mergeBytes of records end an epoch too: whoever loads the log reads what is not
	// merged yet.
	mergeBytes = 64 << 20
	// unanswered: a mark may have come while no agent ran, so the first idle moment
	// answers.
	unanswered = ^uint64(0)
)

// flusher makes batches durable, in order, and confirms them. It alone appends
// segments and ends epochs.
type flusher struct {
	a         *agent
	sequences map[uint32]record.Sequence
	// states are the digests at the newest durable position.
	states     []history.TableState
	positioned time.Time
	epochBegan time.Time
	segments   int
	bytes      int // of the segments
	// durable is the log's; only the flusher moves it.
	durable record.LSN
	// answered counts the maintenance entries that a position has answered; want is
	// the position that the next answer waits for, for the first wantFor of them.
	answered uint64
	want     record.LSN
	wantFor  uint64
	// heard is what the stream had brought when idleness was proven last.
	heard int64
	// restorable: durable is past the first restorable position.
	restorable bool
}

// run works until ctx ends, then makes everything that was received durable,
// confirms it and returns.
func (f *flusher) run(ctx context.Context) error {
	c := f.a.capture
	f.positioned, f.epochBegan = f.a.now(), f.a.now()
	tick := time.NewTicker(min(f.a.o.Tuning.RPO, time.Second))
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	// What is under way when ctx ends is finished, so that drain can go on from it.
	slow, stop := lingering(ctx, drainFor)
	defer stop()
	for ctx.Err() == nil {
		b, wait := c.take(f.a.o.Tuning.RPO-f.a.o.Tuning.rest(), false)
		if b != nil {
			if err := f.flush(slow, b); err != nil {
				return err
			}
			continue
		}
		if err := f.idle(slow); err != nil {
			return err
		}
		if wait > 0 {
			due.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-due.C:
		case <-tick.C:
		}
	}
	return f.drain(slow)
}

// drainFor is how long the end may take.
const drainFor = 30 * time.Second

// lingering gives a context that ends some time after ctx.
func lingering(ctx context.Context, d time.Duration) (context.Context, func()) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(d, cancel)
		context.AfterFunc(out, func() { t.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// drain is the end: SIGTERM means flush what was received, confirm, exit 0. What
// still arrives is not waited for: a busy source never pauses.
func (f *flusher) drain(ctx context.Context) error {
	_, goal := f.a.capture.pending()
	for {
		b, _ := f.a.capture.take(0, true)
		if b == nil {
			break
		}
		if err := f.flush(ctx, b); err != nil {
			return err
		}
		if b.end >= goal {
			break
		}
	}
	if pending, at := f.a.capture.pending(); !pending && at > f.durable {
		return f.position(ctx, at)
	}
	return nil
}

// flush writes one segment. Its chunks are in the store already; a crash before
// the entry leaves orphans, one after it and before Confirm makes PostgreSQL send
// the transactions again, and they are dropped by their end LSN (G1).
func (f *flusher) flush(ctx context.Context, b *batch) error {
	a := f.a
	seqs, err := f.changedSequences(ctx)
	if err != nil {
		return err
	}
	if err := f.a.writeNotes(ctx); err != nil {
		return err
	}
	if err := f.segment(ctx, b, seqs); err != nil {
		return fmt.Errorf("flush to %s: %w", b.end, err)
	}
	a.stream.Confirm(b.end)
	f.durable = b.end
	f.states = b.states
	f.segments++
	f.bytes += b.size()
	f.positioned = a.now()
	a.log.Debug("flushed", "end", b.end.String(), "transactions", len(b.txs), "bytes", b.size())
	a.progress()
	signal(a.capture.asked)
	return f.rotate(ctx)
}

// writeNotes makes every note that waits durable, those included that another call
// is about to write.
func (a *agent) writeNotes(ctx context.Context) error {
	a.noting.Lock()
	defer a.noting.Unlock()
	notes := a.capture.takeNotes()
	for i, n := range notes {
		if err := a.writer.Note(ctx, n); err != nil {
			a.capture.giveBack(notes[i:])
			return fmt.Errorf("note %s of %s: %w", n.Reason, n.Name, err)
		}
	}
	return nil
}

// changedSequences reads the sequences after the batch's last commit was
// received, so each value is at least what the batch's rows used.
func (f *flusher) changedSequences(ctx context.Context) ([]record.Sequence, error) {
	all, err := f.a.source.Sequences(ctx)
	if err != nil {
		return nil, fmt.Errorf("read sequences: %w", err)
	}
	var out []record.Sequence
	for _, s := range all {
		if old, ok := f.sequences[s.OID]; ok && old.Last == s.Last && old.Called == s.Called && old.Name == s.Name && old.Schema == s.Schema {
			continue
		}
		f.sequences[s.OID] = s
		out = append(out, s)
	}
	return out, nil
}

// idle stores a keepalive's position now and then, when nothing is pending; and
// answers at once to a maintenance entry (a mark) that waits at the tail.
func (f *flusher) idle(ctx context.Context) error {
	if err := f.a.writeNotes(ctx); err != nil {
		return err
	}
	pending, at := f.a.capture.pending()
	if pending {
		return nil
	}
	if _, err := f.a.writer.Probe(ctx); err != nil {
		return err
	}
	if met := f.a.writer.Absorbed(); met != f.answered {
		if err := f.answer(ctx, met, at); err != nil {
			return err
		}
	}
	if at > f.durable && (f.a.stream.Asked() || f.firstReached(at) || at-f.durable >= idleBytes || f.a.now().Sub(f.positioned) >= idleEvery) {
		if err := f.position(ctx, at); err != nil {
			return err
		}
	}
	f.idles()
	return f.rotate(ctx)
}

// idles feeds the watchdog while there is nothing to write: the repository has just
// answered, and the source has said something since the last time.
func (f *flusher) idles() {
	if n := f.a.stream.Heard(); n != f.heard {
		f.heard = n
		f.a.progress()
	}
}

// firstReached reports once that storing the position makes the lineage restorable:
// an idle database must not wait for its next commit.
func (f *flusher) firstReached(at record.LSN) bool {
	if f.restorable {
		return false
	}
	v := f.a.writer.View()
	f.restorable = v.Ready && at >= v.First
	return f.restorable && f.durable < v.First
}

// answer makes the source's position durable because somebody waits for it, and
// again when the catalog is known to have been the same up to there: only then can
// a mark be restored whatever is altered right after it.
func (f *flusher) answer(ctx context.Context, met uint64, at record.LSN) error {
	if f.want == 0 || f.wantFor != met {
		f.want, f.wantFor = max(f.want, at), met
		for _, m := range f.a.writer.View().Marks {
			f.want = max(f.want, m.At)
		}
	}
	signal(f.a.capture.asked)
	certain := f.a.schemaCertain() >= f.want
	if !certain && (at <= f.durable || f.durable >= f.want) {
		return nil // durable; what is left to wait for is the catalog
	}
	if err := f.position(ctx, max(at, f.durable)); err != nil {
		return err
	}
	if certain && at >= f.want {
		f.answered, f.want = met, 0
	}
	return nil
}

// position makes the received position durable; the caller saw that nothing before
// it is pending.
func (f *flusher) position(ctx context.Context, at record.LSN) error {
	f.positioned = f.a.now()
	n := history.Note{Kind: history.NotePosition, Durable: at, SchemaCertain: f.a.schemaCertain()}
	if err := f.a.writer.Note(ctx, n); err != nil {
		return fmt.Errorf("note position %s: %w", at, err)
	}
	if at > f.durable {
		f.a.stream.Confirm(at)
		f.durable = at
	}
	return nil
}

// rotate ends the epoch when it is old or long enough; the merge of its segments
// then runs beside the stream.
func (f *flusher) rotate(ctx context.Context) error {
	t := f.a.o.Tuning
	if f.segments == 0 || (f.segments < t.MergeSegments && f.bytes < mergeBytes && f.a.now().Sub(f.epochBegan) < t.MergeEvery) {
		return nil
	}
	o := f.a.opening
	o.Durable, o.Tables = f.durable, f.states
	if err := f.a.writer.Rotate(ctx, o); err != nil {
		return fmt.Errorf("end epoch: %w", err)
	}
	f.segments, f.bytes, f.epochBegan = 0, 0, f.a.now()
	clear(f.sequences) // each epoch samples all of them, so that a restore finds them in one place
	signal(f.a.merges)
	return nil
}
