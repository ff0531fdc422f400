package mspf

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// What keeps an archive from being written where it was asked for.
var (
	ErrExists    = errors.New("there is something already")
	ErrPlaintext = errors.New("the archive would be readable by whoever finds it")
	ErrName      = errors.New("no name of an archive")
)

// sink takes the files of an archive in order.
type sink interface {
	// create begins a file of exactly size bytes; what is written goes to it until the
	// next create.
	create(name string, size int64) (io.Writer, error)
	// finish makes the archive appear under its name; abort removes what there is.
	finish() error
	abort()
}

// Check gives what [Write] would refuse of a name before it writes anything: for who has
// work to do until then.
func Check(path string, o WriteOptions) error {
	_, _, err := formOf(path, o)
	return err
}

// formOf reads the form of an archive from its name.
func formOf(path string, o WriteOptions) (form string, encrypted bool, err error) {
	name, encrypted := strings.CutSuffix(path, ".age")
	switch {
	case encrypted && len(o.Recipients) == 0:
		return "", true, fmt.Errorf("write %s: %w: an encrypted one needs a recipient", path, ErrName)
	case !encrypted && !o.Plaintext:
		return "", false, fmt.Errorf("write %s: %w: it holds password hashes and the signing key. Name it .tar.zst.age, or ask for plaintext", path, ErrPlaintext)
	}
	if _, err := os.Lstat(path); err == nil {
		return "", encrypted, fmt.Errorf("write %s: %w", path, ErrExists)
	}
	form = filepath.Ext(name)
	if form == ".gz" || form == ".zst" {
		form = filepath.Ext(strings.TrimSuffix(name, form)) + form
	}
	switch form {
	case ".tar", ".tar.gz", ".tgz", ".tar.zst":
		return form, encrypted, nil
	}
	if encrypted {
		return "", true, fmt.Errorf("write %s: %w: a directory cannot be encrypted; name it .tar.age, .tar.gz.age or .tar.zst.age", path, ErrName)
	}
	return "", false, nil
}

// openSink chooses the form by the name of the file.
func openSink(path string, o WriteOptions, at time.Time) (sink, error) {
	form, encrypted, err := formOf(path, o)
	switch {
	case err != nil:
		return nil, err
	case form == "":
		return openDir(path, at)
	}
	return openTar(path, form, encrypted, o, at)
}

const partial = ".partial"

type dirSink struct {
	path string
	at   time.Time
	file *os.File
	dirs map[string]bool // made so far, the archive's own as "."
}

func openDir(path string, at time.Time) (*dirSink, error) {
	// What a killed writer left is nobody's: its name says so.
	if err := os.RemoveAll(path + partial); err != nil {
		return nil, fmt.Errorf("clear %s: %w", path+partial, err)
	}
	if err := os.Mkdir(path+partial, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", path+partial, err)
	}
	return &dirSink{path: path, at: at, dirs: map[string]bool{".": true}}, nil
}

func (d *dirSink) create(name string, _ int64) (io.Writer, error) {
	if err := d.close(); err != nil {
		return nil, err
	}
	full := filepath.Join(d.path+partial, filepath.FromSlash(name))
	if dir := filepath.Dir(filepath.FromSlash(name)); !d.dirs[dir] {
		d.dirs[dir] = true
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	d.file = f
	return f, err
}

func (d *dirSink) close() error {
	if d.file == nil {
		return nil
	}
	name := d.file.Name()
	err := errors.Join(d.file.Sync(), d.file.Close(), os.Chtimes(name, d.at, d.at))
	d.file = nil
	return err
}

func (d *dirSink) finish() error {
	if err := d.close(); err != nil {
		return err
	}
	for dir := range d.dirs {
		full := filepath.Join(d.path+partial, dir)
		if err := errors.Join(os.Chtimes(full, d.at, d.at), syncDir(full)); err != nil {
			return err
		}
	}
	// A crash before this line leaves something that is named partial, after it the archive.
	if err := os.Rename(d.path+partial, d.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(d.path))
}

func (d *dirSink) abort() {
	if d.file != nil {
		_ = d.file.Close()
	}
	_ = os.RemoveAll(d.path + partial)
}

type tarSink struct {
	path   string
	at     time.Time
	file   *os.File
	layers []io.Closer // to be closed in this order: tar, compression, encryption
	tar    *tar.Writer
}

func openTar(path, form string, encrypted bool, o WriteOptions, at time.Time) (_ *tarSink, err error) {
	f, err := os.OpenFile(path+partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path+partial, err)
	}
	t := &tarSink{path: path, at: at, file: f}
	defer func() {
		if err != nil {
			t.abort()
		}
	}()
	var w io.Writer = f
	add := func(c io.WriteCloser) {
		w, t.layers = c, append([]io.Closer{c}, t.layers...)
	}
	if encrypted {
		c, err := age.Encrypt(w, o.Recipients...)
		if err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", path, err)
		}
		add(c)
	}
	switch form {
	case ".tar.gz", ".tgz":
		add(gzip.NewWriter(w)) // its header has neither name nor time
	case ".tar.zst":
		c, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(4<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			return nil, err
		}
		add(c)
	}
	t.tar = tar.NewWriter(w)
	t.layers = append([]io.Closer{t.tar}, t.layers...)
	return t, nil
}

func (t *tarSink) create(name string, size int64) (io.Writer, error) {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: t.at.Truncate(time.Second), Format: tar.FormatPAX}
	if err := t.tar.WriteHeader(&h); err != nil {
		return nil, err
	}
	return t.tar, nil
}

func (t *tarSink) finish() error {
	for _, c := range t.layers {
		if err := c.Close(); err != nil {
			return err
		}
	}
	if err := errors.Join(t.file.Sync(), t.file.Close()); err != nil {
		return err
	}
	// As for a directory: only the whole archive has the name that was asked for.
	if err := os.Rename(t.path+partial, t.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(t.path))
}

func (t *tarSink) abort() {
	_ = t.file.Close()
	_ = os.Remove(t.path + partial)
}

// syncDir makes names durable; a file system that cannot do it for directories keeps
// them as durable as it can.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
