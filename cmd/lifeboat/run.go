package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
)

const runHelp = `Back up until it is stopped: copy every table that has no base yet, follow the
stream, and confirm to PostgreSQL only what is durable in the repository.

SIGTERM writes and confirms what was received and ends with 0. Under systemd
(Type=notify) it says when it streams, and feeds the watchdog by progress only.
The operator's identity is not needed here and should not be here.`

func runCommand(a *app) *cobra.Command {
	var newBase, adopt bool
	cmd := &cobra.Command{
		Use: "run", Short: "Back up the database until stopped (the service)", Long: runHelp,
		Example: "  lifeboat run\n  lifeboat run --new-base    # after the slot was lost", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd.Context(), newBase, adopt) },
	}
	cmd.Flags().BoolVar(&newBase, "new-base", false, "begin again after the slot was lost: copy every table; the gap is named")
	cmd.Flags().BoolVar(&adopt, "adopt", false, "the database was restored or moved on purpose: open a new lineage for it")
	return cmd
}

func (a *app) run(ctx context.Context, newBase, adopt bool) error {
	c, repo, s, err := a.openAsAgent(ctx)
	if err != nil {
		return err
	}
	if err := needSource(c); err != nil {
		return err
	}
	o, err := a.agentOptions(c)
	if err != nil {
		return err
	}
	o.NewBase, o.Adopt = newBase, adopt
	o.ProbeEvery = 7 * 24 * time.Hour
	n := newNotifier(a.now)
	o.Ready, o.Progress = n.ready, n.progress
	stop := context.AfterFunc(ctx, n.stopping)
	defer stop()
	err = agent.Run(ctx, repo, s, o)
	cause, stopped := context.Cause(ctx).(interruptError)
	if stopped && (err == nil || errors.Is(err, context.Canceled)) {
		if cause.signal == syscall.SIGTERM {
			return nil
		}
		return cause
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// notifier tells systemd how the service is (sd_notify(3)); without NOTIFY_SOCKET
// it does nothing.
type notifier struct {
	now      func() time.Time
	interval time.Duration // 0: no watchdog
	last     atomic.Int64  // Unix nanoseconds of the last watchdog message
}

func newNotifier(now func() time.Time) *notifier {
	n := &notifier{now: now}
	if d, err := daemon.SdWatchdogEnabled(false); err == nil {
		n.interval = d
	}
	return n
}

func (n *notifier) ready() { n.send(daemon.SdNotifyReady) }

func (n *notifier) stopping() { n.send(daemon.SdNotifyStopping) }

// progress feeds the watchdog, at most eight times per interval.
func (n *notifier) progress() {
	if n.interval == 0 {
		return
	}
	now, last := n.now().UnixNano(), n.last.Load()
	if now-last < int64(n.interval)/8 || !n.last.CompareAndSwap(last, now) {
		return
	}
	n.send(daemon.SdNotifyWatchdog)
}

// send drops the error: whoever set NOTIFY_SOCKET notices the silence.
func (n *notifier) send(state string) { _, _ = daemon.SdNotify(false, state) }
