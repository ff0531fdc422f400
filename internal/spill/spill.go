package spill

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
)

// What goes wrong here.
var (
	// ErrDamaged: what is on disk is not what was written.
	ErrDamaged = errors.New("a temporary file was altered")
	// ErrEnded: pairs were added after [Sorter.Sorted], or to a folder that is closed.
	ErrEnded = errors.New("the sorter takes no more pairs")
)

// Dir is where the files of sorters go. It is safe for concurrent use.
type Dir struct {
	parent string
	aead   cipher.AEAD
	blocks sync.Pool // of *block

	mu     sync.Mutex // guards what follows
	files  map[*file]bool
	runs   uint32 // numbers that were given out: no two runs share a nonce
	closed bool
}

// Open makes a place for temporary files within a folder that exists. Its disk should
// hold twice what is sorted.
func Open(parent string) (*Dir, error) {
	info, err := os.Stat(parent)
	if err != nil {
		return nil, fmt.Errorf("open a place for temporary files: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open a place for temporary files: %s is no folder", parent)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails since Go 1.24
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	d := &Dir{parent: parent, files: map[*file]bool{}}
	d.blocks.New = func() any { return &block{} }
	d.aead, err = cipher.NewGCM(c)
	return d, err
}

// Close ends all sorters of the folder and gives their space back.
func (d *Dir) Close() error {
	d.mu.Lock()
	files := d.files
	d.files, d.closed = nil, true
	d.mu.Unlock()
	var err error
	for f := range files {
		err = errors.Join(err, f.end())
	}
	return err
}

// Sorter makes a sorter that holds about memory bytes before it writes a file. What
// all open sorters take together is the caller's sum, that of what they give included:
// what fits stays in memory.
func (d *Dir) Sorter(memory int64) *Sorter {
	return &Sorter{dir: d, budget: min(max(memory, minBudget), maxBudget)}
}

// file is a temporary file that nobody else can open.
type file struct {
	*os.File
	size int64  // everything is appended
	name string // "" when it has lost its name already, as it does where the system lets it
	dir  *Dir
}

func (d *Dir) create() (*file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrEnded
	}
	f, err := os.CreateTemp(d.parent, ".lifeboat-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file: %w", err)
	}
	// A crash right here leaves an empty file; from the next line on nothing.
	t := &file{File: f, dir: d}
	if os.Remove(f.Name()) != nil {
		t.name = f.Name()
	}
	d.files[t] = true
	return t, nil
}

// end closes the file, which frees its space.
func (f *file) end() error {
	err := f.Close()
	if f.name != "" {
		err = errors.Join(err, os.Remove(f.name))
	}
	return err
}

// drop ends a file before its folder is closed.
func (f *file) drop() error {
	f.dir.mu.Lock()
	mine := f.dir.files[f]
	delete(f.dir.files, f)
	f.dir.mu.Unlock()
	if !mine {
		return nil
	}
	return f.end()
}

// empty gives the file's space back and lets it be written from its start.
func (f *file) empty() error {
	f.size = 0
	return f.Truncate(0)
}

func (f *file) append(b []byte) error {
	if _, err := f.WriteAt(b, f.size); err != nil {
		return fmt.Errorf("write a temporary file in %s: %w", f.dir.parent, err)
	}
	f.size += int64(len(b))
	return nil
}

func (d *Dir) runNumber() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs++
	return d.runs
}
