package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/restore"
)

// repositoryDir gives the folder of the repository that the configuration names, or the
// URL of one in object storage.
func repositoryDir(c *config) (string, error) {
	switch {
	case c.Repository == "":
		return "", usagef("no repository is named: set repository: in %s, or give --repo", orDefault(c.Path, "lifeboat.yaml"))
	case strings.HasPrefix(c.Repository, "file://"):
		return strings.TrimPrefix(c.Repository, "file://"), nil
	case s3.IsURL(c.Repository):
		at, err := s3.ParseURL(c.Repository)
		if err != nil {
			return "", usagef("repository: %v", err)
		}
		return at.String(), nil
	case isURL(c.Repository):
		return "", usagef("repository %s: give the path of a folder, or s3://host[:port]/bucket[/prefix]", redactDSN(c.Repository))
	}
	return c.Repository, nil
}

// open reads the configuration and opens its repository, which must exist.
func (a *app) open(ctx context.Context) (*config, *history.Repository, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	dir, err := repositoryDir(c)
	if err != nil {
		return nil, nil, err
	}
	backend, err := a.backend(c)
	if err != nil {
		return nil, nil, err
	}
	repo, err := history.Open(ctx, backend)
	if err == nil && repo.Config().SingleWriter {
		fmt.Fprintln(a.err, "lifeboat: one agent only may write to this repository (it was made with --single-writer)")
		repo, err = history.Open(ctx, alone(backend))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open repository %s: %w", dir, err)
	}
	if repo.Config().Plaintext {
		fmt.Fprintln(a.err, "lifeboat: this repository is not encrypted (it was made with --plaintext)")
	}
	return c, repo, nil
}

// openAsOperator opens the repository with the operator's identity. why names the
// command in the error when there is none.
func (a *app) openAsOperator(ctx context.Context, why string) (*config, *history.Repository, *history.Secrets, error) {
	c, repo, err := a.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := a.unlock(ctx, repo, why)
	return c, repo, s, err
}

func (a *app) unlock(ctx context.Context, repo *history.Repository, why string) (*history.Secrets, error) {
	if repo.Config().Plaintext {
		return repo.Unlock(ctx)
	}
	ids, err := a.identities(ctx, why)
	if err != nil {
		return nil, err
	}
	s, err := repo.Unlock(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("open the repository's secrets with %s: %w", a.keyFile(), err)
	}
	return s, nil
}

// openAsAgent opens the repository with the secrets in the state directory.
func (a *app) openAsAgent(ctx context.Context) (*config, *history.Repository, *history.Secrets, error) {
	c, repo, err := a.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := loadSecrets(c, repo)
	return c, repo, s, err
}

// loadSecrets reads the agent's secrets, which must be this repository's.
func loadSecrets(c *config, repo *history.Repository) (*history.Secrets, error) {
	s, err := agent.LoadSecrets(c.State)
	if err != nil {
		return nil, err
	}
	if hex.EncodeToString(s.Repository[:]) != repo.Config().Repository {
		return nil, fmt.Errorf("the secrets in %s are of another repository than %s: %w", c.State, c.Repository, agent.ErrState)
	}
	return s, nil
}

// openAsReader takes the operator's identity when one is named, else the agent's
// secrets: enough for positions, times and sizes.
func (a *app) openAsReader(ctx context.Context) (*config, *history.Repository, *history.Secrets, error) {
	c, repo, err := a.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := a.readerSecrets(ctx, c, repo)
	return c, repo, s, err
}

func (a *app) readerSecrets(ctx context.Context, c *config, repo *history.Repository) (*history.Secrets, error) {
	if a.keyFile() == "" && !repo.Config().Plaintext {
		return loadSecrets(c, repo)
	}
	return a.unlock(ctx, repo, "")
}

// openView reads the log of a lineage: the one named, else the one in the state
// directory, else the repository's only one.
func (a *app) openView(ctx context.Context, c *config, repo *history.Repository, s *history.Secrets, lineage string) (*history.View, error) {
	var log *history.Log
	if lineage != "" {
		id, err := history.ParseLineageID(lineage)
		if err != nil {
			return nil, usagef("--lineage: %v; `lifeboat points` prints them", err)
		}
		log = repo.Log(s, id, nil)
	} else {
		var err error
		if log, err = agent.OpenLog(ctx, repo, s, c.State); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	v, err := log.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return v, nil
}

// branches reads the logs among which a point is looked for: that of the lineage
// named, else those that belong to what this host follows.
func (a *app) branches(ctx context.Context, c *config, repo *history.Repository, s *history.Secrets, lineage string) (*restore.Branches, error) {
	if lineage != "" {
		v, err := a.openView(ctx, c, repo, s, lineage)
		if err != nil {
			return nil, err
		}
		return &restore.Branches{Host: v, All: []*history.View{v}}, nil
	}
	host, err := agent.Lineage(c.State)
	if err != nil && !errors.Is(err, agent.ErrNotAttached) {
		return nil, err
	}
	b, err := restore.ReadBranches(ctx, repo, s, host)
	if err != nil {
		return nil, err
	}
	for _, d := range b.Damaged {
		fmt.Fprintf(a.err, "DAMAGED: %s\n", oneLine(d.String()))
	}
	if len(b.All) == 0 && len(b.Damaged) == 0 {
		err = fmt.Errorf("open log: the repository holds no history yet: run `lifeboat attach`, then `lifeboat run`: %w", history.ErrNoLineage)
	}
	return b, err
}

// resolve finds the commit of a target among the branches.
func (a *app) resolve(ctx context.Context, c *config, repo *history.Repository, s *history.Secrets, lineage string, t restore.Target) (*history.View, restore.Point, error) {
	b, err := a.branches(ctx, c, repo, s, lineage)
	if err != nil {
		return nil, restore.Point{}, err
	}
	return b.Resolve(ctx, t)
}

// openForAgent opens the repository as [app.openAsReader] does, for what the agent does
// beside its service.
func (a *app) openForAgent(ctx context.Context) (*history.Repository, *history.Secrets, agent.Options, error) {
	c, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return nil, nil, agent.Options{}, err
	}
	o, err := a.agentOptions(c)
	return repo, s, o, err
}

func lineageFlag(cmd *cobra.Command, at *string) {
	cmd.Flags().StringVar(at, "lineage", "", "`branch` to use, as lifeboat points prints it (default: the one that has the point; this host's for a time)")
}

// agentOptions are what the configuration says to the agent.
func (a *app) agentOptions(c *config) (agent.Options, error) {
	log, err := a.logger(c)
	return agent.Options{Source: c.Agent, Tuning: c.Tuning, State: c.State, Log: log, Now: a.now}, err
}

// needSource refuses a command that must reach a database when none is named.
func needSource(c *config) error {
	if c.Source == "" && c.homeserverErr != nil {
		return usageError{c.homeserverErr.Error()}
	}
	if c.Source == "" {
		return usagef("no database is named: set homeserver, source or source_file in %s, or LIFEBOAT_SOURCE", orDefault(c.Path, "lifeboat.yaml"))
	}
	return nil
}

func orDefault(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

// repository and secrets shorten signatures here.
type (
	repository = history.Repository
	secrets    = history.Secrets
)
