package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	boundMemory()
	os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Main runs one command line and gives its exit code (see exit.go). The first
// SIGINT or SIGTERM ends the command's context; a second one ends the process at
// once, which is safe: what counts is durable before it is reported.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(interruptError{s})
		case <-ctx.Done():
		}
	}()
	a := &app{in: in, out: out, err: errOut, env: os.Getenv, now: time.Now}
	cmd := newRoot(a)
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	err := interruption(ctx, cmd.ExecuteContext(ctx))
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(errOut, visible("lifeboat: "+flat(err.Error())))
	if h := hint(err); h != "" {
		fmt.Fprintln(errOut, "  "+h)
	}
	return exitCode(err)
}

// interruptError is what ends a context when a signal comes.
type interruptError struct{ signal os.Signal }

func (e interruptError) Error() string { return fmt.Sprintf("interrupted (%s)", e.signal) }

// interruption replaces the "context canceled" that a command gives after a
// signal with the signal itself.
func interruption(ctx context.Context, err error) error {
	cause, ok := context.Cause(ctx).(interruptError)
	if err == nil || !ok || isVerdict(err) {
		return err
	}
	return cause
}
