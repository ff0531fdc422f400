package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors of a store. "Not found" and "could not tell" are different errors: any
// error that is none of these says nothing about what the backend holds.
var (
	// ErrNotFound: there is surely no object at that key.
	ErrNotFound = errors.New("object not found")
	// ErrExists: there is an object at that key, and it is durable.
	ErrExists = errors.New("object exists already")
	// ErrDamaged: the bytes are not those that were stored.
	ErrDamaged = errors.New("object damaged")
	// ErrVersion: a chunk of a format version that this program does not know.
	ErrVersion = errors.New("unknown format version")
)

// Backend holds objects: flat keys, whole objects, created once and never
// overwritten. It is safe for concurrent use. The musts, which
// storetest.Conformance tries on every backend:
//
//   - Create is atomic: the whole object appears or nothing. It never overwrites:
//     of many creators of one key exactly one gets nil, the others [ErrExists].
//   - Create returns nil or ErrExists only when the object at the key survives a
//     power cut. Any other error means: it may or may not have been persisted.
//   - Create keeps no reference to data; the slice that Get returns is the caller's.
//   - Get returns the whole object or an error; what a Create that returned nil
//     stored is seen at once by Get, Stat and List.
//   - A key for which [CheckKey] returns an error is refused by Create. A key that is
//     the folder of another ("a" beside "a/b") may be refused, but not as ErrExists;
//     nobody uses such keys.
//   - Retries of transient errors are the backend's affair: nobody above it
//     retries one operation.
type Backend interface {
	// Create stores data at key, or returns ErrExists.
	Create(ctx context.Context, key string, data []byte) error
	// Get returns the object at key, or ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)
	// Stat describes the object at key, or returns ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// List calls f for each object whose key begins with prefix (any prefix, not
	// only whole folders), in ascending byte order of the keys. An error of f ends
	// it and is returned. Objects created or removed meanwhile may or may not be
	// seen.
	List(ctx context.Context, prefix string, f func(Info) error) error
}

// Remover is what a backend offers to those who may delete. The identity under
// which the agent runs has no such right, so a Backend need not be one.
type Remover interface {
	// Remove deletes the object at key; it returns nil also when there is none. When
	// it returns nil a power cut does not bring the object back.
	Remove(ctx context.Context, key string) error
}

// Info describes an object.
type Info struct {
	Key string
	// Size in bytes.
	Size int64
	// Modified is when the object was created, by the backend's clock.
	Modified time.Time
}

// maxKey bounds the length of a key in bytes; S3 allows 1,024.
const maxKey = 512

// CheckKey says whether key is one that every backend can hold: parts of letters,
// digits, '-', '_' and '.', joined by '/', none of them empty or beginning with '.'
// (those names belong to the backend).
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("key of %d bytes, want 1 to %d", len(key), maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || len(part) > 255 {
			return fmt.Errorf("key %q has a part that is empty, too long or begins with a dot", key)
		}
		for _, c := range []byte(part) {
			if !keyByte(c) {
				return fmt.Errorf("key %q holds the byte %q", key, c)
			}
		}
	}
	return nil
}

func keyByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}
