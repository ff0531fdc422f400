// Package fs keeps a repository's objects as files under one folder.
//
// The object with key K is the file <folder>/K. Objects in the making lie in
// <folder>/.tmp; no key begins with a dot, so List never sees them. All of the
// folder is one file system with hard links.
//
// # Why a power cut cannot undo a Create, or leave half an object
//
//	step                            a crash right after it leaves
//	1 make and sync the folders     empty folders
//	2 write .tmp/<random>           a leftover in .tmp
//	3 fsync it                      a leftover in .tmp, whole
//	4 link(2) to the key            the whole object, or only the leftover: the link
//	                                fails if the key exists, so nothing is overwritten
//	5 unlink .tmp/<random>          the whole object, or nothing
//	6 fsync the key's folder        the whole object
//
// Create returns nil after step 6. Step 4 comes after 3, so whoever can see the
// object sees bytes that are durable; the name may not be durable yet, therefore a
// Create that meets an existing object does step 6 itself before it says
// [chunkstore.ErrExists]. Leftovers are deleted by a later Open.
package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/durable"
)

const (
	tempDir = ".tmp"
	// abandoned is the age from which a leftover belongs to no running Create.
	abandoned = 24 * time.Hour
)

// Store is a [chunkstore.Backend] and [chunkstore.Remover]. It is safe for
// concurrent use by many processes.
type Store struct {
	// root is the folder itself, not its name: if another file system is mounted over
	// it, or it is unmounted, objects are not suddenly "not found". Paths that lead out
	// of it, by symbolic links too, are errors.
	root *os.Root
	// fault, in tests, is asked after each step of the package comment: errCrash ends
	// the operation as a crash would, another error stands for the step's own failure.
	fault func(s step) error
	// sync is (*os.File).Sync; a test sees by it what is synced, and when.
	sync func(*os.File) error
	now  func() time.Time

	mu sync.Mutex
	// synced holds folders whose names are durable.
	synced map[string]bool
}

// Create makes the folder, durably, if it is missing, and opens it.
func Create(dir string) (*Store, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	return Open(dir)
}

// Open opens a folder that must exist, and deletes what crashes left behind in it.
// What it holds is not looked at.
func Open(dir string) (*Store, error) { return open(dir, time.Now) }

func open(dir string, now func() time.Time) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{root: root, now: now, sync: (*os.File).Sync, synced: map[string]bool{".": true}}
	s.sweep()
	return s, nil
}

// Close lets go of the folder.
func (s *Store) Close() error { return s.root.Close() }

// sweep deletes old leftovers. Errors are of no matter: a leftover is only space,
// and the store may be read-only.
func (s *Store) sweep() {
	dir, err := s.root.Open(tempDir)
	if err != nil {
		return
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && s.now().Sub(info.ModTime()) > abandoned {
			s.root.Remove(path.Join(tempDir, e.Name()))
		}
	}
}

// step is a step of Create or Remove after which a test may intervene.
type step string

const (
	stepFolders step = "folders"
	stepWritten step = "written"
	stepSynced  step = "synced"
	stepLinked  step = "linked"
	stepUnlink  step = "unlinked"
	stepDone    step = "folder synced"
	stepRemoved step = "removed"
)

// errCrash stands for a crash: nothing is cleaned up.
var errCrash = errors.New("crash")

// after is err, or what a test makes of the step.
func (s *Store) after(at step, err error) error {
	if err == nil && s.fault != nil {
		return s.fault(at)
	}
	return err
}

// Create implements [chunkstore.Backend].
func (s *Store) Create(ctx context.Context, key string, data []byte) error {
	if err := s.create(ctx, key, data); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}
	return nil
}

func (s *Store) create(ctx context.Context, key string, data []byte) error {
	if err := chunkstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Most creates that fail do so here, without a file being written. Only link
	// decides.
	if info, err := s.root.Lstat(key); err == nil {
		return s.exists(key, info)
	}
	dir := path.Dir(key)
	if err := s.after(stepFolders, errors.Join(s.folder(tempDir), s.folder(dir))); err != nil {
		return err
	}
	temp := path.Join(tempDir, rand.Text())
	if err := s.write(temp, data); err != nil {
		s.discard(temp, err) // a full disk gets its space back
		if errors.Is(err, fs.ErrNotExist) {
			s.forget(tempDir)
		}
		return err
	}
	err := s.after(stepLinked, s.root.Link(temp, key))
	switch {
	case errors.Is(err, fs.ErrExist):
		s.discard(temp, err)
		info, err := s.root.Lstat(key)
		if err != nil {
			return err // removed again: the caller has to look
		}
		return s.exists(key, info)
	case errors.Is(err, fs.ErrNotExist):
		s.forget(dir) // somebody deleted the folder; another try makes it anew
	}
	if err != nil {
		s.discard(temp, err)
		return err
	}
	s.root.Remove(temp) // a leftover that cannot be deleted does no harm
	if err := s.after(stepUnlink, nil); err != nil {
		return err
	}
	return s.after(stepDone, s.syncDir(dir))
}

// write is steps 2 and 3.
func (s *Store) write(temp string, data []byte) error {
	f, err := s.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = s.after(stepWritten, err)
	if err == nil {
		err = s.after(stepSynced, s.sync(f))
	}
	return errors.Join(err, f.Close())
}

// exists makes the name of an existing object durable before it reports it.
func (s *Store) exists(key string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("no object is there, but something else: %v", info.Mode())
	}
	dir := path.Dir(key)
	if err := errors.Join(s.folder(dir), s.syncDir(dir)); err != nil {
		return err
	}
	return chunkstore.ErrExists
}

// discard deletes a temporary file after an error that is no crash.
func (s *Store) discard(temp string, err error) {
	if !errors.Is(err, errCrash) {
		s.root.Remove(temp)
	}
}

// folder makes a folder and those above it, and their names durable: also of those
// that exist, once in this process, because the process that made one may have died
// before it synced.
func (s *Store) folder(dir string) error {
	s.mu.Lock()
	known := s.synced[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	above := path.Dir(dir)
	if err := s.folder(above); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := s.syncDir(above); err != nil {
		return err
	}
	s.mu.Lock()
	s.synced[dir] = true
	s.mu.Unlock()
	return nil
}

// forget drops what is known of a folder and those above it.
func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; dir != "."; dir = path.Dir(dir) {
		delete(s.synced, dir)
	}
}

// syncDir makes the names in a folder durable.
func (s *Store) syncDir(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.sync(d), d.Close())
}

// Remove implements [chunkstore.Remover]. A crash before the folder is synced leaves
// the object or not.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := s.remove(ctx, key); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, key string) error {
	if err := chunkstore.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := s.root.Lstat(key)
	if err == nil && info.IsDir() {
		return nil // a folder is no object
	}
	if err == nil {
		err = s.root.Remove(key)
	}
	if err != nil && !absent(err) {
		return err
	}
	if err := s.after(stepRemoved, nil); err != nil {
		return err
	}
	// Also when there was none: whoever deleted it may not have synced.
	if err := s.syncDir(path.Dir(key)); err != nil && !absent(err) {
		return err
	}
	return nil
}
