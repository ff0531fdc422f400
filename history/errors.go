package history

import (
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Sentinels of this package. Damage is chunkstore.ErrDamaged or
// record.ErrCorrupt, wrapped with the key of the object.
var (
	// ErrNoRepository: there is no lifeboat.json here.
	ErrNoRepository = errors.New("no Lifeboat repository")
	// ErrRepositoryExists: Create found one.
	ErrRepositoryExists = errors.New("a Lifeboat repository is there already")
	// ErrWrongKey: none of the identities opens the repository's secrets.
	ErrWrongKey = errors.New("wrong key")
	// ErrFenced: another agent writes this lineage. Fatal to the writer (H4).
	ErrFenced = errors.New("fenced: another agent writes this log")
	// ErrNoLineage: the log has no entry at all.
	ErrNoLineage = errors.New("no such lineage")
	// ErrNoKey: the key of the entry's epoch is not held here, and neither is the
	// repository's identity.
	ErrNoKey = errors.New("the epoch's key is not held here")
	// ErrEnded: the last epoch is closed and no agent has opened the next one yet
	// (it stopped between the two); a note has no place until it runs again.
	ErrEnded = errors.New("the log is between two epochs; it goes on when an agent runs")
	// ErrOrder: a caller's segment, position or base does not follow the log (H7).
	ErrOrder = errors.New("out of the log's order")
)

// ErrCondemned: the entry would reach names that a prune has condemned (H8). The
// caller opens these chunks, puts them again (they get the next generation) and
// calls again; the writer goes on.
type ErrCondemned struct{ Names []chunkstore.Name }

// Error says how many names.
func (e *ErrCondemned) Error() string {
	return fmt.Sprintf("%d chunk names are condemned by a prune, the first is %s", len(e.Names), e.Names[0])
}

// errorf makes an error of bytes that no writer of a known version makes.
func errorf(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, record.ErrCorrupt)...)
}
