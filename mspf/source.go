package mspf

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// What makes an archive one that is not read further. Each is one sentence for people
// and one value for programs.
var (
	ErrForm      = errors.New("neither a directory nor a tar, plain, gzip or zstd, with or without age")
	ErrEncrypted = errors.New("encrypted, and none of the keys opens it")
	ErrPath      = errors.New("a path that no archive has")
	ErrLink      = errors.New("neither a file nor a directory")
	ErrDuplicate = errors.New("a file that is there twice")
	ErrBomb      = errors.New("far more data than its size can mean")
	ErrTruncated = errors.New("the archive ends too early")
	ErrTrailing  = errors.New("something follows the archive")
)

// Limits bound what a reader of a hostile archive spends.
type Limits struct {
	FileBytes int64 // the largest file, m.rooms.cbor and blobs aside: 256 MiB
	Files     int   // how many files: 1 million
	// Ratio is how many bytes one stored byte may become, from 64 MiB on: 1000. What
	// gzip reaches at best is 1032.
	Ratio int64
}

func (l Limits) orDefault() Limits {
	return Limits{FileBytes: cmp.Or(l.FileBytes, 256<<20), Files: cmp.Or(l.Files, 1_000_000), Ratio: cmp.Or(l.Ratio, 1000)}
}

const ratioFrom = 64 << 20

// member is one file of an archive; body is valid until the next one.
type member struct {
	name string
	size int64
	body io.Reader
}

// source gives the files of an archive in order, io.EOF after the last.
type source interface {
	next() (*member, error)
	io.Closer
}

func openSource(path string, ids []age.Identity, l Limits) (source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	if info.IsDir() {
		return openTree(path, l)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	s, err := unpack(f, ids, l)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open archive %s: %w", path, err)
	}
	s.file = f
	return s, nil
}

// tarSource reads a tar, however it is wrapped.
type tarSource struct {
	file  io.Closer
	zstd  *zstd.Decoder
	plain *bufio.Reader // the tar's bytes
	tar   *tar.Reader
	files int
	l     Limits
}

// unpack finds out by the first bytes what wraps the tar.
func unpack(r io.Reader, ids []age.Identity, l Limits) (*tarSource, error) {
	stored := &meter{r: r}
	in := bufio.NewReaderSize(stored, 64<<10)
	s := &tarSource{l: l}
	if peek(in, "age-encryption.org/v1") {
		if len(ids) == 0 {
			return nil, ErrEncrypted
		}
		plain, err := age.Decrypt(in, ids...)
		if noMatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &noMatch) {
			return nil, ErrEncrypted
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTruncated, err)
		}
		in = bufio.NewReaderSize(plain, 64<<10)
	}
	switch {
	case peek(in, "\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTruncated, err)
		}
		in = bufio.NewReader(z)
	case peek(in, "\x28\xb5\x2f\xfd"):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTruncated, err)
		}
		s.zstd, in = z, bufio.NewReader(z)
	}
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		s.release()
		return nil, broken(err)
	}
	if len(head) < 512 || string(head[257:262]) != "ustar" {
		s.release()
		return nil, ErrForm
	}
	s.plain = bufio.NewReaderSize(&guard{r: in, stored: stored, ratio: l.Ratio}, 64<<10)
	s.tar = tar.NewReader(s.plain)
	return s, nil
}

func peek(r *bufio.Reader, magic string) bool {
	b, _ := r.Peek(len(magic))
	return string(b) == magic
}

func (s *tarSource) next() (*member, error) {
	for {
		h, err := s.tar.Next()
		if errors.Is(err, io.EOF) {
			return nil, s.end()
		}
		if err != nil {
			return nil, broken(err)
		}
		if s.files++; s.files > s.l.Files {
			return nil, fmt.Errorf("%w: more than %d files", ErrBomb, s.l.Files)
		}
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse") {
				return nil, fmt.Errorf("%.200q is a sparse file: %w", h.Name, ErrBomb)
			}
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeDir:
			if name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/"); name != "" && name != "." {
				if err := checkPath(name); err != nil {
					return nil, err
				}
			}
			continue
		case tar.TypeReg:
			return &member{name: strings.TrimPrefix(h.Name, "./"), size: h.Size, body: mend{s.tar}}, nil
		}
		return nil, fmt.Errorf("%.200q: %w", h.Name, ErrLink)
	}
}

// end reads what is left, so that checksums and the last block of an encrypted file are
// checked; a tar ends with zeros and nothing else.
func (s *tarSource) end() error {
	buf := make([]byte, 32<<10)
	for {
		n, err := s.plain.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return ErrTrailing
		}
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return broken(err)
		}
	}
}

func (s *tarSource) release() {
	if s.zstd != nil {
		s.zstd.Close()
	}
}

func (s *tarSource) Close() error {
	s.release()
	return s.file.Close()
}

// mend gives the errors of a member's body their name.
type mend struct{ r io.Reader }

func (m mend) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = broken(err)
	}
	return n, err
}

// broken: what cannot be unpacked any further is cut off or was altered; there is no
// telling which.
func broken(err error) error {
	if errors.Is(err, ErrBomb) || errors.Is(err, ErrTruncated) {
		return err
	}
	return fmt.Errorf("%w, or is damaged: %w", ErrTruncated, err)
}

// meter counts the bytes that are stored.
type meter struct {
	r io.Reader
	n int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	return n, err
}

// guard ends a stream that becomes absurdly large.
type guard struct {
	r      io.Reader
	stored *meter
	n      int64
	ratio  int64
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if g.n += int64(n); g.n > ratioFrom && g.n/g.ratio > g.stored.n {
		return 0, fmt.Errorf("%w: %d bytes became more than %d", ErrBomb, g.stored.n, g.n)
	}
	return n, err
}

// treeSource reads a directory in the order that a tar would have.
type treeSource struct {
	root  *os.Root
	names []string
	file  *os.File
}

func openTree(path string, l Limits) (_ *treeSource, err error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	defer func() {
		if err != nil {
			_ = root.Close()
		}
	}()
	t := &treeSource{root: root}
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." {
			return nil
		}
		name = filepath.ToSlash(name)
		if err := checkPath(name); err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s: %w", name, ErrLink)
		}
		if len(t.names) == l.Files {
			return fmt.Errorf("%w: more than %d files", ErrBomb, l.Files)
		}
		t.names = append(t.names, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open archive %s: %w", path, err)
	}
	order(t.names)
	return t, nil
}

// order sorts paths as an archive has its files.
func order(names []string) {
	type place struct {
		rank, n, table int
		name           string
	}
	table := parts()
	places := make([]place, len(names))
	for i, name := range names {
		p := place{name: name, rank: len(table), table: len(table)} // a foreign item: before the integrity item
		if found, n, ok := partOf(table, name); ok {
			p.rank, p.n = found.rank, n
			p.table = slices.IndexFunc(table, func(x part) bool { return x.path == found.path })
			if found.item == itemIntegrity {
				p.rank = len(table) + 1
			}
		}
		if name == manifestPath {
			p.rank = 0
		}
		places[i] = p
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.n, b.n), cmp.Compare(a.table, b.table), cmp.Compare(a.name, b.name))
	})
	for i, p := range places {
		names[i] = p.name
	}
}

func (t *treeSource) next() (*member, error) {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
	if len(t.names) == 0 {
		return nil, io.EOF
	}
	name := t.names[0]
	t.names = t.names[1:]
	f, err := t.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	t.file = f
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if !info.Mode().IsRegular() { // replaced since it was listed
		return nil, fmt.Errorf("%s: %w", name, ErrLink)
	}
	return &member{name: name, size: info.Size(), body: f}, nil
}

func (t *treeSource) Close() error {
	if t.file != nil {
		_ = t.file.Close()
	}
	return t.root.Close()
}

// checkPath holds a path to what an archive may have: lower case, so that no file
// system takes two for one, and nothing that leads out of it.
func checkPath(p string) error {
	bad := func(why string) error { return fmt.Errorf("%w: %.200q %s", ErrPath, p, why) }
	if p == "" || len(p) > 200 {
		return bad("has not 1 to 200 bytes")
	}
	for _, c := range []byte(p) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' || c == '/') {
			return bad("has other characters than a-z 0-9 . _ - /")
		}
	}
	for _, e := range strings.Split(p, "/") {
		if e == "" || e == "." || e == ".." {
			return bad("leads elsewhere")
		}
	}
	if p == "m" || strings.HasPrefix(p, "m/") {
		return bad("splits the prefix m., which MSC2783 forbids")
	}
	return nil
}
