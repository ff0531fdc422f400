package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// Mark names the present state of the source. It returns when every commit that
// had been acknowledged before the call is durable, so a running agent is needed
// unless nothing has changed since the last flush.
func Mark(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options, name string) (record.LSN, error) {
	o = o.defaults()
	if name == "" || len(name) > 200 {
		return 0, fmt.Errorf("mark name of %d bytes: want 1 to 200", len(name))
	}
	log, err := OpenLog(ctx, repo, s, o.State)
	if err != nil {
		return 0, err
	}
	v, err := log.Load(ctx)
	if err != nil {
		return 0, err
	}
	var at record.LSN // of a call that ended before the mark was reached: this one waits for it
	for _, m := range v.Marks {
		if m.Name == name && reached(v, m.At) {
			return 0, fmt.Errorf("%w, at %s: choose another name", ErrMarkExists, m.At)
		}
		if m.Name == name {
			at = m.At
		}
	}
	src, id, err := o.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer src.Close(context.WithoutCancel(ctx))
	if id.Source != v.ID.Source {
		return 0, fmt.Errorf("this database is %s, the history follows %s: %w", id.Source, v.ID.Source, ErrForeignSource)
	}
	pos, err := src.Now(ctx)
	if err != nil {
		return 0, err
	}
	since := o.Now()
	if at == 0 {
		at = pos.Flush
		n := history.Note{Kind: history.NoteMark, Name: name, From: at, Time: record.FromTime(o.Now())}
		if err := appendNote(ctx, log, v, n, o.Now); err != nil {
			return 0, err
		}
	}
	if err := waitDurable(ctx, src, log, v, at, since, o.Now); err != nil {
		return 0, fmt.Errorf("mark %q is written, but the commits before it are not durable yet: is `lifeboat run` running? %w", name, err)
	}
	return at, nil
}

// reached reports whether a restore to at is possible: rows and schema are known.
func reached(v *history.View, at record.LSN) bool {
	n := len(v.Schemas)
	return v.Durable >= at && n > 0 && max(v.Schemas[n-1].From, v.Schemas[n-1].Until) >= at
}

// waitDurable waits until the log holds every commit up to lsn, a flush position
// that was read at since, and knows that the schema was the same up to there. Such a
// position may lie inside a record that only the next commit completes (see
// [cdc.Source.Settle]). The agent answers a note at its tail within a flush interval;
// what others write meanwhile moves the walsender on, so it is asked again.
func waitDurable(ctx context.Context, src *cdc.Source, log *history.Log, v *history.View, lsn record.LSN, since time.Time, now func() time.Time) error {
	until := now().Add(time.Minute)
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	asked, durable := since, record.LSN(0)
	lsn, err := src.Settle(wait, lsn, since, func() (record.LSN, error) {
		if now().Sub(asked) > time.Second {
			asked = now()
			if err := appendNote(wait, log, v, history.Note{Kind: history.NoteUnpin, Name: "mark"}, now); err != nil {
				return 0, err
			}
		}
		next, err := log.Advance(wait, v)
		if err == nil {
			v, durable = next, next.Durable
		}
		return durable, err
	})
	switch {
	case err != nil && wait.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("waited a minute, durable is %s: %w", durable, ErrLater)
	case err != nil:
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if v, err = log.Advance(ctx, v); err != nil {
			return err
		}
		if reached(v, lsn) {
			return nil
		}
		if now().After(until) {
			return fmt.Errorf("waited a minute for %s, durable is %s (a transaction that stays open at the source delays it): %w", lsn, v.Durable, ErrLater)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// appendNote tries again while the log is between two epochs; v is a picture of it.
func appendNote(ctx context.Context, log *history.Log, v *history.View, n history.Note, now func() time.Time) error {
	until := now().Add(time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := log.AppendNoteAfter(ctx, v, n)
		if !errors.Is(err, history.ErrEnded) {
			return err
		}
		if now().After(until) {
			return fmt.Errorf("%w: is `lifeboat run` running? %w", err, ErrLater)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
