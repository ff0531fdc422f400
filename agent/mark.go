package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	for _, m := range v.Marks {
		if m.Name == name {
			return 0, fmt.Errorf("mark %q exists already, at %s: choose another name", name, m.At)
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
	n := history.Note{Kind: history.NoteMark, Name: name, From: pos.Flush, Time: record.FromTime(o.Now())}
	if err := appendNote(ctx, log, n, o.Now); err != nil {
		return 0, err
	}
	if err := waitDurable(ctx, log, pos.Flush, o.Now); err != nil {
		return 0, fmt.Errorf("mark %q is written, but the commits before it are not durable yet: is `lifeboat run` running? %w", name, err)
	}
	return pos.Flush, nil
}

// waitDurable polls the log until it holds everything up to lsn, and knows that the
// schema was the same up to there: the agent answers a note at its tail within a
// flush interval.
func waitDurable(ctx context.Context, log *history.Log, lsn record.LSN, now func() time.Time) error {
	until := now().Add(time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := log.Load(ctx)
		if err != nil {
			return err
		}
		if n := len(v.Schemas); v.Durable >= lsn && n > 0 && max(v.Schemas[n-1].From, v.Schemas[n-1].Until) >= lsn {
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

// appendNote tries again while the log is between two epochs.
func appendNote(ctx context.Context, log *history.Log, n history.Note, now func() time.Time) error {
	until := now().Add(time.Minute)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := log.AppendNote(ctx, n)
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
