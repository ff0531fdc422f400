package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/durable"
)

// EpochKeys holds the keys of the current epoch and of those not merged yet, of
// ONE lineage. Musts: Put is durable before it returns nil; Get gives ErrNoKey
// when there is none and another error when it cannot tell; Remove of an absent
// key is nil.
type EpochKeys interface {
	Put(epoch uint64, k chunkstore.Secret) error
	Get(epoch uint64) (chunkstore.Secret, error)
	Remove(epoch uint64) error
}

// KeyDir keeps epoch keys as files of 32 bytes, 0600, named by epoch. One
// lineage, one directory: the caller adds LineageID.String() to the path.
func KeyDir(path string) EpochKeys { return keyDir(path) }

type keyDir string

func (d keyDir) file(epoch uint64) string {
	return filepath.Join(string(d), fmt.Sprintf("epoch-%010d.key", epoch))
}

// Put writes the key durably; a crash before its entry leaves a key that opens
// nothing, and that the next opener of the epoch uses.
func (d keyDir) Put(epoch uint64, k chunkstore.Secret) error {
	if err := durable.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("put key of epoch %d: %w", epoch, err)
	}
	if err := durable.WriteFile(d.file(epoch), k[:], 0o600); err != nil {
		return fmt.Errorf("put key of epoch %d: %w", epoch, err)
	}
	return nil
}

// Get reads the key.
func (d keyDir) Get(epoch uint64) (chunkstore.Secret, error) {
	var k chunkstore.Secret
	b, err := os.ReadFile(d.file(epoch))
	if errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("get key of epoch %d: %w", epoch, ErrNoKey)
	}
	if err != nil {
		return k, fmt.Errorf("get key of epoch %d: %w", epoch, err)
	}
	if len(b) != len(k) {
		return k, fmt.Errorf("get key of epoch %d: %s has %d bytes: %w", epoch, d.file(epoch), len(b), chunkstore.ErrDamaged)
	}
	copy(k[:], b)
	return k, nil
}

// Remove forgets the key.
func (d keyDir) Remove(epoch uint64) error {
	err := durable.Remove(d.file(epoch))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove key of epoch %d: %w", epoch, err)
	}
	return nil
}

// wrapKey seals an epoch key to the repository's identity.
func wrapKey(k chunkstore.Secret, recipient string) ([]byte, error) {
	to, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("wrap epoch key: %w", err)
	}
	out, err := sealAge(k[:], []age.Recipient{to})
	if err != nil {
		return nil, fmt.Errorf("wrap epoch key: %w", err)
	}
	return out, nil
}

// keyCheck is what an epoch entry says of its key, so that a host can tell whether
// the key it holds is the one: an opener that lost the race keeps one that is not.
func keyCheck(k chunkstore.Secret) [16]byte {
	c := k.Subkey("check")
	return [16]byte(c[:16])
}

// epochKey gives the key of an epoch: from the host's keys, else from the epoch's
// entry with the repository's identity. ErrNoKey when neither has it.
func (l *Log) epochKey(ctx context.Context, keys EpochKeys, epoch uint64) (chunkstore.Secret, error) {
	l.mu.Lock()
	k, ok := l.opened[epoch]
	l.mu.Unlock()
	if ok {
		return k, nil
	}
	at := Position{Epoch: epoch}
	none := fmt.Errorf("open bodies of epoch %d of %s: %w", epoch, l.id, ErrNoKey)
	held := false
	if keys != nil {
		var err error
		if k, err = keys.Get(epoch); err != nil && !errors.Is(err, ErrNoKey) {
			return k, err
		}
		held = err == nil
	}
	if !held && !l.secrets.CanRead() {
		return k, none
	}
	e, err := l.get(ctx, at)
	if err != nil {
		return k, l.needed(at, err)
	}
	if e.sum.Epoch == nil {
		return k, damaged(l.id.key(at), "no epoch entry")
	}
	if !held || keyCheck(k) != e.sum.Epoch.Check {
		if !l.secrets.CanRead() {
			return chunkstore.Secret{}, none
		}
		if k, err = l.unwrap(e); err != nil {
			return k, err
		}
	}
	if held && l.secrets.Identity == "" {
		return k, nil // asked again each time: after a merge the host must not have it
	}
	l.mu.Lock()
	l.opened[epoch] = k
	l.mu.Unlock()
	return k, nil
}

// unwrap opens the key in an epoch entry with the repository's identity.
func (l *Log) unwrap(e *entry) (chunkstore.Secret, error) {
	var k chunkstore.Secret
	id, err := l.secrets.identity()
	if err != nil {
		return k, err
	}
	b, err := openAge(e.sum.Epoch.Wrapped, []age.Identity{id})
	if err == nil && len(b) != len(k) {
		err = errorf("a key of %d bytes", len(b))
	}
	if err != nil {
		return k, damaged(l.id.key(e.at), "unwrap the epoch's key: %w", err)
	}
	copy(k[:], b)
	if keyCheck(k) != e.sum.Epoch.Check {
		return k, damaged(l.id.key(e.at), "the epoch's key is not the one that was wrapped")
	}
	return k, nil
}
