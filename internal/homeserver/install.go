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
}

// Find gives the Synapse below root, the checkout that holds .tools, or an error
// that is [ErrMissing].
func Find(root string) (Install, error) { return find(root, "synapse") }

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
	return Install{Python: python, Lib: lib}, nil
}
