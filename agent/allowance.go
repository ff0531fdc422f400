package agent

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lifeboat.im/lifeboat/internal/durable"
)

// allowanceFile holds, in the state directory, how much WAL may be kept while the
// agent catches up. Its loss costs a quarter of the budget.
const allowanceFile = "wal-allowance"

// allowance decides when the slot is let go. Within the budget nothing happens, and
// what grows beyond it while we run is let go. What was beyond it when we started
// lies on the source's disk already: letting go would lose changes that we can still
// have, so we catch up first, as long as what is kept shrinks: it may never be more
// than a quarter of the budget above the least that was seen, over restarts too, or
// a service that fails and begins again would let it creep.
type allowance struct {
	dir     string // of the state
	limit   int64  // negative: none
	log     *slog.Logger
	begun   bool
	ceiling int64 // while catching up; 0: the budget holds
}

// over reports whether the slot is to be let go, given what the source keeps for it.
func (w *allowance) over(retained int64) (bool, error) {
	first := !w.begun
	w.begun = true
	if w.limit < 0 {
		return false, nil
	}
	if first {
		w.ceiling = w.read()
	}
	room := w.limit / 4
	switch {
	case retained <= w.limit:
		return false, w.forget()
	case w.ceiling == 0 && !first:
		return true, nil
	case w.ceiling == 0:
		w.log.Warn("the source keeps more WAL for us than wal_budget: catching up first; the slot is let go if it grows by more than a quarter of the budget",
			"bytes", retained, "budget", w.limit)
		return false, w.set(retained + room)
	case retained > w.ceiling:
		return true, nil
	case retained+2*room < w.ceiling:
		return false, w.set(retained + room)
	}
	return false, nil
}

func (w *allowance) path() string { return filepath.Join(w.dir, allowanceFile) }

func (w *allowance) read() int64 {
	b, err := os.ReadFile(w.path())
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (w *allowance) set(n int64) error {
	w.ceiling = n
	if err := durable.WriteFile(w.path(), []byte(strconv.FormatInt(n, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the WAL allowance: %w", err)
	}
	return nil
}

// forget is for when the budget holds again, and for a stop in good order: whoever
// stops the service on purpose may start it later, and it catches up.
func (w *allowance) forget() error {
	w.ceiling = 0
	if _, err := os.Lstat(w.path()); err != nil {
		return nil
	}
	if err := durable.Remove(w.path()); err != nil {
		return fmt.Errorf("forget the WAL allowance: %w", err)
	}
	return nil
}
