package homeserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrMissing: there is no such Synapse here. make tools brings it.
var ErrMissing = errors.New("not installed: make tools")

// Install is a Synapse that can be started.
type Install struct {
	Python string // the interpreter
	Lib    string // PYTHONPATH: the folder that pip filled
	Redis  string // the server of the redis protocol, for workers; "" when it is not there
}

// Find gives the Synapse below root, the checkout that holds .tools, or an error
// that is [ErrMissing].
func Find(root string) (Install, error) { return find(root, "synapse") }

// FindOld gives an old Synapse (the Makefile names its version), to be upgraded from.
func FindOld(root string) (Install, error) { return find(root, "synapse-old") }

func find(root, name string) (Install, error) {
	lib, err := filepath.EvalSymlinks(filepath.Join(root, ".tools", name))
	if err != nil {
		return Install{}, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	if _, err := os.Stat(filepath.Join(lib, "synapse", "app", "homeserver.py")); err != nil {
		return Install{}, fmt.Errorf("%s: %w", name, ErrMissing)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		return Install{}, fmt.Errorf("%s: %w", name, err)
	}
	i := Install{Python: python, Lib: lib, Redis: filepath.Join(root, ".tools", "valkey", "valkey-server")}
	if _, err := os.Stat(i.Redis); err != nil {
		i.Redis = ""
	}
	return i, nil
}
