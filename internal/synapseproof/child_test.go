package synapseproof

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/synapse"
)

// childEnv names the configuration of an agent: with it the test binary is that
// agent, and no test runs.
const childEnv = "LIFEBOAT_SYNAPSE_CHILD"

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
}

// source gives the source with what JSON cannot carry.
func (c childConfig) source() agent.SourceOptions {
	c.Source.Profile = synapse.Profile
	return c.Source
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
	repo, err := history.Open(ctx, disk)
	if err != nil {
		return err
	}
	s, err := agent.LoadSecrets(c.State)
	if err != nil {
		return err
	}
	return agent.Run(ctx, repo, s, agent.Options{
		Source: c.source(), Tuning: c.Tuning, State: c.State,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// child is an agent in a process of its own.
type child = testpg.Child
