package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"lifeboat.im/lifeboat/chunkstore"
)

// absent reports whether err says that there is no object: no file, or a file
// where the key has a folder.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Get implements [chunkstore.Backend].
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := s.get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, key string) ([]byte, error) {
	f, info, err := s.openKey(ctx, key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err // also when the file became shorter since
	}
	return data, nil
}

// Stat implements [chunkstore.Backend].
func (s *Store) Stat(ctx context.Context, key string) (chunkstore.Info, error) {
	f, info, err := s.openKey(ctx, key)
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	if err := f.Close(); err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return chunkstore.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// openKey opens the file of an object.
func (s *Store) openKey(ctx context.Context, key string) (*os.File, fs.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := chunkstore.CheckKey(key); err != nil {
		return nil, nil, err
	}
	f, err := s.root.Open(key)
	if absent(err) {
		return nil, nil, chunkstore.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, nil, errors.Join(err, f.Close())
	case info.IsDir():
		return nil, nil, errors.Join(chunkstore.ErrNotFound, f.Close())
	case !info.Mode().IsRegular():
		return nil, nil, errors.Join(fmt.Errorf("no regular file: %v", info.Mode()), f.Close())
	}
	return f, info, nil
}

// List implements [chunkstore.Backend].
func (s *Store) List(ctx context.Context, prefix string, f func(chunkstore.Info) error) error {
	// Everything below the last slash of the prefix is looked at, nothing else.
	dir := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir = prefix[:i]
		if err := chunkstore.CheckKey(dir); err != nil {
			return nil // no object has such a prefix
		}
	}
	return s.list(ctx, dir, prefix, f)
}

func (s *Store) list(ctx context.Context, dir, prefix string, f func(chunkstore.Info) error) error {
	entries, err := s.readDir(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	for _, name := range entries {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		key := path.Join(dir, name)
		if folder := strings.HasSuffix(name, "/"); folder {
			if strings.HasPrefix(key+"/", prefix) || strings.HasPrefix(prefix, key+"/") {
				if err := s.list(ctx, key, prefix, f); err != nil {
					return err
				}
			}
			continue
		}
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		info, err := s.root.Lstat(key)
		if absent(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if err := f(chunkstore.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

// readDir returns the names in a folder that can be (parts of) keys, folders with
// a slash at the end, in the order of the keys: "a-b" comes before "a/b", which a
// walk of sorted names would turn round.
func (s *Store) readDir(dir string) ([]string, error) {
	d, err := s.root.Open(dir)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	err = errors.Join(err, d.Close())
	if absent(err) {
		return nil, nil // an object, and the prefix says that it is a folder
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		switch {
		case chunkstore.CheckKey(e.Name()) != nil: // .tmp, lost+found
		case e.IsDir():
			names = append(names, e.Name()+"/")
		case e.Type().IsRegular():
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
