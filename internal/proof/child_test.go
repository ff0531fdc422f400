package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// childEnv names the configuration of an agent: with it the test binary is that
// agent, and no test runs.
const childEnv = "LIFEBOAT_PROOF_CHILD"

// The exit codes of the child, those of the command.
const (
	exitFenced = 11
	exitLater  = 75
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(runChild(path))
	}
	testpg.Main(m)
}

// childConfig is what the child is told.
type childConfig struct {
	Repo   string
	Source agent.SourceOptions
	Tuning agent.Tuning
	State  string
	Adopt  bool
	Faults faults
}

// runChild is the agent: it opens what the configuration names and runs until
// SIGTERM.
func runChild(path string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := childMain(ctx, path)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, history.ErrFenced):
		fmt.Fprintln(os.Stderr, "fenced:", err)
		return exitFenced
	case errors.Is(err, agent.ErrLater):
		fmt.Fprintln(os.Stderr, "later:", err)
		return exitLater
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	return 1
}

func childMain(ctx context.Context, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c childConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	disk, err := fs.Open(c.Repo)
	if err != nil {
		return err
	}
	var backend chunkstore.Backend = disk
	if c.Faults != (faults{}) {
		backend = newFaulty(disk, c.Faults)
	}
	var repo *history.Repository
	for range 20 { // the command would be started again by the service manager
		if repo, err = history.Open(ctx, backend); !errors.Is(err, errInjected) {
			break
		}
	}
	if err != nil {
		return err
	}
	s, err := agent.LoadSecrets(c.State)
	if err != nil {
		return err
	}
	return agent.Run(ctx, repo, s, agent.Options{
		Source: c.Source, Tuning: c.Tuning, State: c.State, Adopt: c.Adopt,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// child is an agent in a process of its own.
type child = testpg.Child
