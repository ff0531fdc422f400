package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// The codes are a promise to scripts (docs/operations.md).
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usagef("x"), 2},
		{agent.ErrNotAttached, 2},
		{restore.ErrTarget, 2},
		{restore.ErrLosses, 3},
		{restore.ErrNotEmpty, 4},
		{restore.ErrLocale, 4},
		{restore.ErrUnfinished, 4},
		{agent.ErrForeignSource, 4},
		{agent.ErrMarkExists, 4},
		{history.ErrRepositoryExists, 4},
		{restore.ErrNoPoint, 5},
		{&restore.IncompleteError{}, 5},
		{history.ErrNoLineage, 5},
		{chunkstore.ErrDamaged, 6},
		{chunkstore.ErrNotFound, 6},
		{record.ErrCorrupt, 6},
		{agent.ErrSourceLost, 7},
		{cdc.ErrSlotMissing, 7},
		{cdc.ErrSlotLost, 7},
		{history.ErrNoRepository, 10},
		{s3.ErrNoBucket, 10},
		{s3.ErrDenied, 1},
		{s3.ErrNoKey, 2},
		{s3.ErrUnavailable, 75},
		{chunkstore.ErrUnsafe, 4},
		{history.ErrFenced, 11},
		{history.ErrWrongKey, 12},
		{history.ErrNoKey, 12},
		{agent.ErrLater, 75},
		{cdc.ErrBusy, 75},
		{cdc.ErrSlotActive, 75},
		{interruptError{syscall.SIGINT}, 130},
		{verdict{exitDamaged, "x"}, 6},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("do something: %w", err)
		}
		if have := exitCode(err); have != c.code {
			t.Errorf("%v: exit code %d, want %d", c.err, have, c.code)
		}
	}
}

// A signal replaces the error that it caused, and no verdict.
func TestInterruption(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := interruption(ctx, context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("without a signal: %v", err)
	}
	cancel(interruptError{syscall.SIGINT})
	if code := exitCode(interruption(ctx, context.Canceled)); code != exitInterrupted {
		t.Errorf("after a signal: exit code %d", code)
	}
	if err := interruption(ctx, nil); err != nil {
		t.Errorf("what ended well stays well: %v", err)
	}
	if code := exitCode(interruption(ctx, verdict{exitDamaged, "x"})); code != exitDamaged {
		t.Errorf("a verdict: exit code %d", code)
	}
}

// systemd hears that the service is ready, alive by progress, and stopping.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "8000000")
	now := time.Unix(1000, 0)
	n := newNotifier(func() time.Time { return now })
	n.ready()
	n.progress()
	n.progress() // too soon to tell again
	now = now.Add(2 * time.Second)
	n.progress()
	n.stopping()
	var heard []string
	buf := make([]byte, 100)
	for range 4 {
		if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		k, err := l.Read(buf)
		if err != nil {
			t.Fatalf("after %q: %v", heard, err)
		}
		heard = append(heard, string(buf[:k]))
	}
	if have := strings.Join(heard, " "); have != "READY=1 WATCHDOG=1 WATCHDOG=1 STOPPING=1" {
		t.Errorf("systemd heard %q", have)
	}
}

// Without a terminal a phase that took long is one plain line, a short one none.
func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	p := &progress{out: &out, now: func() time.Time { return now }}
	p.Start(restore.PhaseSchema, 0)
	now = now.Add(time.Second)
	p.Start(restore.PhaseRows, 10<<20)
	p.Add(10 << 20)
	now = now.Add(4 * time.Second)
	p.Start(restore.PhaseFinished, 0)
	p.end()
	if have, want := out.String(), "load rows                10.0 MiB in 4s\n"; have != want {
		t.Errorf("printed %q, want %q", have, want)
	}
}

// A bar on a terminal comes after the patience and goes with its phase.
func TestProgressBar(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, now: time.Now, bars: true}
	p.Start(restore.PhaseRows, 100)
	p.show(restore.PhaseRows)
	p.Add(60)
	p.Add(60) // more than was said
	p.Start(restore.PhaseVerify, 0)
	p.show(restore.PhaseVerify)
	p.end()
	p.Start(restore.PhaseVerify, 0)
	p.end()
}
