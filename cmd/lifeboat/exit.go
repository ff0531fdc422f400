package main

import (
	"errors"
	"fmt"
	"strings"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
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
	return append(archiveOutcomes(), []outcome{
		{errRefused, exitRefused, ""},
		{cdc.ErrSlotActive, exitLater, "Only one agent may follow a database: stop the other one. One that was killed lets go within two minutes."},
		{agent.ErrLater, exitLater, "Run the same command again in a moment: it goes on from where it is."},
		{agent.ErrForeignSource, exitRefused, "Check source: in the configuration. A database that was restored or moved on purpose goes on under `lifeboat run --adopt`."},
		{agent.ErrMarkExists, exitRefused, ""},
		{agent.ErrNotAttached, exitUsage, "`lifeboat attach --dry-run` shows what it does to the database."},
		{agent.ErrState, exitUsage, "Bring the agent's secrets back with the operator's key: `lifeboat key export --agent --key FILE`."},
		{cdc.ErrSlotMissing, exitSourceLost, "It was dropped. `lifeboat run --new-base` begins again and names the gap."},
		{cdc.ErrSlotLost, exitSourceLost, "`lifeboat run --new-base` begins again and names the gap."},
		{cdc.ErrSlotForeign, exitRefused, "Give this database a slot of its own: slot: in the configuration."},
		{cdc.ErrPublication, exitRefused, "Give it a name of its own: publication: in the configuration."},
		{cdc.ErrPublicationMissing, exitSourceLost, "`lifeboat run --new-base` makes it again, copies every table, and names the gap."},
		{cdc.ErrBusy, exitLater, "Nothing was changed: run the same command again in a moment."},
		{agent.ErrSourceLost, exitSourceLost, "`lifeboat doctor` names what is missing; `lifeboat run --new-base` begins again and names the gap."},
		{s3.ErrUnavailable, exitLater, "Run the same command again when the server answers."},
		// Not a usage error: systemd starts the service again, and the server may think better of it.
		{s3.ErrDenied, exitFailed, "Check the keys, their rights (get, put and list objects) and the region: in the configuration, s3:."},
		{s3.ErrNoKey, exitUsage, "Set s3: {access_key_file: …, secret_key_file: …} in the configuration, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."},
		{s3.ErrNoBucket, exitNoRepo, "Make the bucket first: Lifeboat makes objects, not buckets."},
		{chunkstore.ErrUnsafe, exitRefused, ""},
		{history.ErrNoRepository, exitNoRepo, "Check the path, and that its disk is mounted; `lifeboat init` makes a new repository."},
		{history.ErrRepositoryExists, exitRefused, "Name another folder. To use this one from here: write a lifeboat.yaml with repository: and run `lifeboat key export --agent --key FILE`."},
		{history.ErrWrongKey, exitWrongKey, "`lifeboat key list` prints whose identities open it; give another file with --key."},
		{history.ErrNoKey, exitWrongKey, "Give the operator's identity with --key FILE."},
		{history.ErrFenced, exitFenced, "Another agent took over this log; only one may follow a database. Stop one of the two."},
		{history.ErrNoLineage, exitNoPoint, "Nothing was backed up yet: `lifeboat attach`, then `lifeboat run`."},
		{history.ErrPruneRefused, exitRefused, ""},
		{history.ErrPruneChanged, exitLater, "Run the same command again."},
		{history.ErrPruneLeft, exitFailed, "Check that this identity may delete, then run the same command again: it goes on."},
		{history.ErrTooLate, exitRefused, "What it has not deleted yet cannot be told from what it has: nothing can be called off any more."},
		{history.ErrEnded, exitLater, "Run it again when `lifeboat run` is running."},
		{chunkstore.ErrDamaged, exitDamaged, "`lifeboat verify --key FILE` lists everything that is damaged."},
		{chunkstore.ErrNotFound, exitDamaged, "An object of the repository is missing: `lifeboat verify --key FILE` lists all that are."},
		{synapse.ErrHomeserver, exitUsage, ""},
		{restore.ErrTarget, exitUsage, ""},
		{restore.ErrAmbiguous, exitUsage, "`lifeboat points` prints the branches."},
		{restore.ErrNoTable, exitUsage, "`lifeboat status` prints the tables."},
		{restore.ErrNoElements, exitUsage, ""},
		{restore.ErrNoPoint, exitNoPoint, "`lifeboat points` prints what can be restored."},
		{restore.ErrIncomplete, exitNoPoint, ""},
		{restore.ErrNoDatabase, exitRefused, "Make the archive with `lifeboat export --at P FILE`."},
		{restore.ErrArchive, exitDamaged, "Make the archive again: `lifeboat export --at P FILE`."},
		{restore.ErrNotEmpty, exitRefused, "Restores go into an empty database: createdb another one and name it with --to."},
		{restore.ErrLocale, exitRefused, "--any-locale restores into it all the same, for a Synapse with allow_unsafe_locale."},
		{restore.ErrUnfinished, exitRefused, "--start-over drops what is in it and begins again."},
		{restore.ErrLosses, exitLosses, ""},
		{restore.ErrMode, exitUsage, ""},
		{restore.ErrNotNewest, exitRefused, ""},
		{record.ErrCorrupt, exitDamaged, "`lifeboat verify --data 100%` lists everything that is damaged."},
		{record.ErrVersion, exitFailed, "Install the version of Lifeboat that wrote it, or a newer one."},
	}...)
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
			if said(err.Error(), o.hint) {
				return ""
			}
			return o.hint
		}
	}
	return ""
}

// said reports whether an error names every command of its hint already: then one
// sentence is enough.
func said(text, hint string) bool {
	parts := strings.Split(hint, "`")
	for i := 1; i < len(parts); i += 2 {
		if !strings.Contains(text, "`"+parts[i]+"`") {
			return false
		}
	}
	return len(parts) > 1
}
