package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// A mark that was given up while no agent ran is waited for by the next call, at the
// position that it had; one that is reached never moves.
func TestMarkGoesOn(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id int PRIMARY KEY)")
	b.attach()
	stop := b.run()
	b.waitReady()
	stop()
	b.db.Exec(t, "INSERT INTO k VALUES (1)")
	ctx, giveUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Mark(ctx, b.repo, b.agentSecrets(), b.o, "here")
		ended <- err
	}()
	testpg.WaitFor(t, 2*time.Minute, "the mark", func() bool { return len(b.view().Marks) == 1 })
	giveUp()
	if err := <-ended; err == nil {
		t.Fatal("a mark is durable without an agent")
	}
	was := b.view().Marks[0].At

	stop = b.run()
	if at := b.mark("here"); at != was {
		t.Errorf("the mark went from %s to %s", was, at)
	}
	b.db.Exec(t, "INSERT INTO k VALUES (2)")
	b.mark("later")
	if _, err := Mark(t.Context(), b.repo, b.agentSecrets(), b.o, "here"); !errors.Is(err, ErrMarkExists) {
		t.Errorf("the same mark again: %v", err)
	}
	if v := b.view(); len(v.Marks) != 2 {
		t.Errorf("marks: %+v", v.Marks)
	}
	stop()
}
