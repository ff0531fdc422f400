package main

import (
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/record"
)

// The exit codes; each is promised in docs/operations.md.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2   // usage or configuration
	exitLosses      = 3   // done with losses, report written
	exitRefused     = 4   // refused for safety
	exitNoPoint     = 5   // no such point, or inside an incomplete interval
	exitDamaged     = 6   // data damaged
	exitSourceLost  = 7   // slot, timeline
	exitNoRepo      = 10  // no repository
	exitFenced      = 11  // fenced by another writer
	exitWrongKey    = 12  // wrong key
	exitLater       = 75  // try again later (EX_TEMPFAIL)
	exitInterrupted = 130 // by a signal
)

// usageError: the command line or the configuration is at fault; its text says
// what to change.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// verdict is a command that did its work and whose answer is not "all well"; it
// has printed its report already.
type verdict struct {
	code int
	text string
}

func (e verdict) Error() string { return e.text }

func isVerdict(err error) bool { return errors.As(err, new(verdict)) }

// errRefused: the command would destroy or overwrite something.
var errRefused = errors.New("refused")

// outcome is one row of the table that maps errors to codes and advice.
type outcome struct {
	is   error
	code int
	hint string
}

// outcomes lists the sentinels in the order in which they are looked for: the
// more exact reason first.
func outcomes() []outcome {
	return []outcome{
		{errRefused, exitRefused, ""},
		{agent.ErrLater, exitLater, "Nothing was changed: run the same command again in a moment."},
		{agent.ErrForeignSource, exitRefused, "Check source: in the configuration. A database that was restored or moved on purpose goes on under `lifeboat run --adopt`."},
		{agent.ErrNotAttached, exitUsage, "Run `lifeboat attach` first; `lifeboat attach --dry-run` shows what it does."},
		{agent.ErrState, exitUsage, "Bring the agent's secrets back with the operator's key: `lifeboat key export --agent --key FILE`."},
		{agent.ErrSourceLost, exitSourceLost, "`lifeboat doctor` names what is missing; `lifeboat run --new-base` begins again and names the gap."},
		{record.ErrCorrupt, exitDamaged, "`lifeboat verify --data 100%` lists everything that is damaged."},
		{record.ErrVersion, exitFailed, "Install the version of Lifeboat that wrote it, or a newer one."},
	}
}

// exitCode gives the code that an error ends the process with.
func exitCode(err error) int {
	var v verdict
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &v):
		return v.code
	case errors.As(err, new(interruptError)):
		return exitInterrupted
	case errors.As(err, new(usageError)):
		return exitUsage
	}
	for _, o := range outcomes() {
		if errors.Is(err, o.is) {
			return o.code
		}
	}
	return exitFailed
}

// hint says what to do about an error; "" when its own text does.
func hint(err error) string {
	if isVerdict(err) || errors.As(err, new(usageError)) || errors.As(err, new(interruptError)) {
		return ""
	}
	for _, o := range outcomes() {
		if errors.Is(err, o.is) {
			return o.hint
		}
	}
	return ""
}
