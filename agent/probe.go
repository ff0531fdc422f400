package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/durable"
)

// probedFile, in the state directory, holds when the store was last found good.
const probedFile = "store.probed"

// probeAgain is when a store that did not answer is asked the next time.
const probeAgain = time.Hour

// Run is the service. It returns nil when ctx ends and everything received was
// made durable and confirmed; otherwise the first error that is not transient, or
// the last one after several attempts without progress (G4). A store that is found to
// be unsafe ends it: what runs may be overwritten there.
func Run(ctx context.Context, repo *history.Repository, s *history.Secrets, o Options) error {
	o = o.defaults()
	if o.ProbeEvery <= 0 || repo.Config().SingleWriter {
		return serve(ctx, repo, s, o)
	}
	inner, end := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := probe(inner, repo.Backend(), o); err != nil {
			end(err)
		}
	}()
	err := serve(inner, repo, s, o)
	end(nil)
	<-done
	if cause := context.Cause(inner); errors.Is(cause, chunkstore.ErrUnsafe) {
		return cause
	}
	return err
}

// probe tries the store when it is time, until ctx ends or the store is unsafe.
func probe(ctx context.Context, b chunkstore.Backend, o Options) error {
	wait := untilProbe(o)
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		checks, err := chunkstore.Probe(ctx, b)
		if err == nil {
			if err = chunkstore.Unsafe(checks); err != nil {
				return fmt.Errorf("the store was tried again: %w", err)
			}
			err = durable.WriteFile(filepath.Join(o.State, probedFile), []byte(o.Now().UTC().Format(time.RFC3339)+"\n"), 0o600)
		}
		if wait = o.ProbeEvery; err != nil && ctx.Err() == nil {
			o.Log.Warn("the store could not be tried", "err", err.Error(), "again_in", probeAgain.String())
			wait = min(probeAgain, o.ProbeEvery)
		}
	}
}

// untilProbe is the time to the next try; none when no earlier one is known.
func untilProbe(o Options) time.Duration {
	text, err := os.ReadFile(filepath.Join(o.State, probedFile))
	if err != nil {
		return 0
	}
	last, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return min(max(last.Add(o.ProbeEvery).Sub(o.Now()), 0), o.ProbeEvery)
}

// staleProbe is the age from which a try of the store says little: a running agent
// does it every week.
const staleProbe = 21 * 24 * time.Hour

// storeFinding says whether the store is known to keep what the log is built on.
func storeFinding(repo *history.Repository, o Options) Finding {
	f := Finding{Name: "store", State: "warn", Mend: "`lifeboat repo probe` tries it now, `lifeboat run` every week"}
	text, err := os.ReadFile(filepath.Join(o.State, probedFile))
	last, bad := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	switch {
	case repo.Config().SingleWriter:
		f.State, f.Mend = "ok", ""
		f.Why = "made with --single-writer: that one agent only writes there is your promise, nothing checks it"
	case err != nil || bad != nil:
		f.Why = "this agent has not tried yet whether it keeps what the log is built on"
	case o.Now().Sub(last) > staleProbe:
		f.Why = "it was last tried on " + last.Format(time.DateOnly)
	default:
		f.State, f.Mend = "ok", ""
		f.Why = "tried on " + last.Format(time.DateOnly) + ": it keeps what the log is built on"
	}
	return f
}
