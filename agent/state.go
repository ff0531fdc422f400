package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/durable"
)

// The state directory: what the host must keep to go on by itself. Its loss costs
// the operator's key once and a re-copy, never data (G2).
const (
	secretsFile = "agent.secrets"
	lineageFile = "lineage"
	epochsDir   = "epochs"
)

// SaveSecrets writes the agent's part of the repository's secrets, readable by
// its owner only. It cannot open what is in the repository.
func SaveSecrets(dir string, s *history.Secrets) error {
	b, err := s.Agent().Marshal()
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, secretsFile), b, 0o600)
}

// LoadSecrets reads what SaveSecrets wrote; ErrState when it is not there.
func LoadSecrets(dir string) (*history.Secrets, error) {
	path := filepath.Join(dir, secretsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: on a host that has the operator's key run `lifeboat key export --agent`, and put the file there: %w", path, ErrState)
	}
	if err != nil {
		return nil, fmt.Errorf("read agent secrets: %w", err)
	}
	s, err := history.ParseSecrets(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// Lineage reads which history this host continues; ErrNotAttached when there is none.
func Lineage(dir string) (history.LineageID, error) { return readLineage(dir, lineageFile) }

func saveLineage(dir string, id history.LineageID) error { return writeLineage(dir, lineageFile, id) }

// readLineage reads the name of a lineage as it stands in object keys.
func readLineage(dir, file string) (history.LineageID, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return history.LineageID{}, fmt.Errorf("no %s in %s: run `lifeboat attach` first: %w", file, dir, ErrNotAttached)
	}
	if err != nil {
		return history.LineageID{}, fmt.Errorf("read lineage: %w", err)
	}
	return history.ParseLineageID(strings.TrimSpace(string(b)))
}

func writeLineage(dir, file string, id history.LineageID) error {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, file), []byte(id.String()+"\n"), 0o600)
}

func epochKeys(dir string, id history.LineageID) (history.EpochKeys, error) {
	path := filepath.Join(dir, epochsDir, id.Source.String()+"."+id.Lineage.String())
	if err := durable.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	return history.KeyDir(path), nil
}

// OpenLog gives the log that a command on this host means: the lineage of the
// state directory, else the only one of the repository. With secrets that can
// read, bodies open with the repository's identity; else with the host's keys.
func OpenLog(ctx context.Context, repo *history.Repository, s *history.Secrets, state string) (*history.Log, error) {
	id, err := Lineage(state)
	if errors.Is(err, ErrNotAttached) {
		all, lerr := repo.Lineages(ctx)
		if lerr != nil {
			return nil, lerr
		}
		switch len(all) {
		case 0:
			return nil, fmt.Errorf("the repository holds no history yet: run `lifeboat attach`, then `lifeboat run`: %w", history.ErrNoLineage)
		case 1:
			id = all[0]
		default:
			var names []string
			for _, l := range all {
				names = append(names, l.Source.String()+"."+l.Lineage.String())
			}
			return nil, fmt.Errorf("the repository holds %d lineages (%s): write the one that is meant into %s", len(all), strings.Join(names, ", "), filepath.Join(state, lineageFile))
		}
	} else if err != nil {
		return nil, err
	}
	if s.CanRead() {
		return repo.Log(s, id, nil), nil
	}
	keys, err := epochKeys(state, id)
	if err != nil {
		return nil, err
	}
	return repo.Log(s, id, keys), nil
}
