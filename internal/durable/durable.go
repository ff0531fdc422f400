// Package durable writes files so that a power cut cannot undo what returned nil,
// and never shows a half-written one (POSIX: fsync of the file makes its bytes
// durable, fsync of the folder its name).
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempSuffix ends the names of files that a crash may leave behind; they hold
// nothing that counts and may be deleted at any time when no writer runs.
const TempSuffix = ".tmp"

// WriteFile puts data at path, in place of what is there, atomically and durably.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir, base := filepath.Split(path)
	temp, err := writeTemp(dir, base, data, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// A crash before the rename leaves the old file and a temporary one.
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	// A crash here leaves the old file or the new one, each whole.
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// writeTemp leaves data, durable, in a temporary file of dir, or nothing.
func writeTemp(dir, base string, data []byte, perm fs.FileMode) (string, error) {
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+".*"+TempSuffix)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// Remove deletes the file at path, durably; that there is none is no error.
func Remove(path string) error {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	if err := SyncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// MkdirAll makes the folder and the missing ones above it, durably. When it
// returns nil each of those that it found missing has been synced into the one
// above it; what existed is taken as durable.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make folder %s: a file is there", path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make folder: %w", err)
	}
	above := filepath.Dir(path)
	if err := MkdirAll(above, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	// Also when somebody else made it meanwhile: his sync may not have happened yet.
	if err := SyncDir(above); err != nil {
		return fmt.Errorf("make folder %s: %w", path, err)
	}
	return nil
}

// SyncDir makes the names in a folder durable.
func SyncDir(path string) error {
	if path == "" {
		path = "."
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
