package spill

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/s2"
)

// A run is a sorted part of a sorter's pairs, in blocks: four bytes of length, then the
// block compressed and sealed (AES-256-GCM). The nonce is the number of the run and that
// of the block in it, so a block opens at its own place only. A pair is the lengths of
// key and value as uvarints, then both. Pairs do not cross blocks, but for one that is
// larger than a block: it begins one, and those after it go on with it.
const (
	blockSize = 32 << 10
	lengths   = 2 * binary.MaxVarintLen64
)

// An index holds the first key of blocks at equal distances: at most so many, and so
// many bytes of each.
const (
	indexEntries = 512
	indexKey     = 64
)

type indexEntry struct {
	key    []byte // its beginning
	offset int64
	block  uint64
}

type run struct {
	file   *file
	number uint32
	offset int64
	end    int64
	blocks uint64
	index  []indexEntry
}

// block holds the buffers of a reader or a writer.
type block struct {
	plain, packed, sealed []byte
}

func (d *Dir) nonce(run uint32, block uint64) []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint32(n, run)
	binary.BigEndian.PutUint64(n[4:], block)
	return n
}

// runWriter appends a run to a file.
type runWriter struct {
	run
	*block
	stride uint64 // of the blocks that are in the index
	starts uint64 // blocks that begin with a pair
}

func (d *Dir) write(f *file) *runWriter {
	return &runWriter{
		run:   run{file: f, number: d.runNumber(), offset: f.size},
		block: d.blocks.Get().(*block), stride: 1,
	}
}

func (w *runWriter) add(key, value []byte) error {
	size := len(key) + len(value) + lengths
	if len(w.plain) > 0 && len(w.plain)+size > blockSize {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(w.plain) == 0 {
		w.note(key)
	}
	w.plain = binary.AppendUvarint(w.plain, uint64(len(key)))
	w.plain = binary.AppendUvarint(w.plain, uint64(len(value)))
	if size <= blockSize {
		w.plain = append(append(w.plain, key...), value...)
		return nil
	}
	for _, rest := range [][]byte{key, value} {
		for len(rest) > 0 {
			n := min(len(rest), blockSize-len(w.plain))
			w.plain, rest = append(w.plain, rest[:n]...), rest[n:]
			if len(w.plain) == blockSize {
				if err := w.flush(); err != nil {
					return err
				}
			}
		}
	}
	if len(w.plain) > 0 { // the next pair begins a block
		return w.flush()
	}
	return nil
}

// note puts a block that is about to begin into the index.
func (w *runWriter) note(key []byte) {
	if w.starts++; (w.starts-1)%w.stride != 0 {
		return
	}
	if len(w.index) == indexEntries {
		for i := range indexEntries / 2 {
			w.index[i] = w.index[2*i]
		}
		w.index, w.stride = w.index[:indexEntries/2], 2*w.stride
		if (w.starts-1)%w.stride != 0 {
			return
		}
	}
	w.index = append(w.index, indexEntry{bytes.Clone(key[:min(len(key), indexKey)]), w.file.size, w.blocks})
}

func (w *runWriter) flush() error {
	if s2.MaxEncodedLen(len(w.plain)) > cap(w.packed) {
		w.packed = make([]byte, s2.MaxEncodedLen(blockSize))
	}
	d := w.file.dir
	w.packed = s2.Encode(w.packed[:cap(w.packed)], w.plain)
	w.sealed = d.aead.Seal(append(w.sealed[:0], 0, 0, 0, 0), d.nonce(w.number, w.blocks), w.packed, nil)
	binary.BigEndian.PutUint32(w.sealed, uint32(len(w.sealed)-4))
	w.plain = w.plain[:0]
	w.blocks++
	return w.file.append(w.sealed)
}

// finish ends the run; the writer must not be used then.
func (w *runWriter) finish() (*run, error) {
	if len(w.plain) > 0 {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	w.end = w.file.size
	r := w.run
	w.file.dir.blocks.Put(w.block)
	w.block = nil
	return &r, nil
}

// cursor goes through a run. Its pair is valid until the next step.
type cursor struct {
	run *run
	Pair
	*block
	rest   []byte // of the block
	offset int64
	number uint64 // of the next block
	large  []byte // a pair that crosses blocks
}

// open makes a cursor that stands before the first pair whose key is not below from.
// next must be called, and may give some that are.
func (r *run) open(from []byte) *cursor {
	c := &cursor{run: r, block: r.file.dir.blocks.Get().(*block), offset: r.offset}
	for _, e := range r.index {
		n := min(len(e.key), len(from))
		// Keys are cut in the index: one that is equal as far as it goes may be behind.
		if bytes.Compare(e.key[:n], from[:n]) >= 0 {
			break
		}
		c.offset, c.number = e.offset, e.block
	}
	return c
}

func (c *cursor) close() {
	if c.block != nil {
		c.run.file.dir.blocks.Put(c.block)
		c.block = nil
	}
}

// next moves to the next pair; io.EOF at the end.
func (c *cursor) next() error {
	if len(c.rest) == 0 {
		if c.offset == c.run.end {
			if c.number != c.run.blocks {
				return ErrDamaged
			}
			return io.EOF
		}
		if err := c.load(); err != nil {
			return err
		}
	}
	key, n := binary.Uvarint(c.rest)
	if n <= 0 {
		return ErrDamaged
	}
	value, m := binary.Uvarint(c.rest[n:])
	if m <= 0 {
		return ErrDamaged
	}
	c.rest = c.rest[n+m:]
	if size := key + value; size > uint64(len(c.rest)) {
		if err := c.gather(size); err != nil {
			return err
		}
		c.Key, c.Value = c.large[:key:key], c.large[key:]
		return nil
	}
	c.Key, c.Value = c.rest[:key:key], c.rest[key:key+value:key+value]
	c.rest = c.rest[key+value:]
	return nil
}

// gather reads a pair that crosses blocks; what is sealed is ours, so its size is true.
func (c *cursor) gather(size uint64) error {
	if uint64(cap(c.large)) < size {
		c.large = make([]byte, 0, size)
	}
	c.large = append(c.large[:0], c.rest...)
	for uint64(len(c.large)) < size {
		if err := c.load(); err != nil {
			return err
		}
		c.large = append(c.large, c.rest...)
	}
	if uint64(len(c.large)) != size {
		return ErrDamaged
	}
	c.rest = nil
	return nil
}

func (c *cursor) load() error {
	var head [4]byte
	if err := c.read(head[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(head[:]))
	if n > c.run.end-c.offset || n > int64(2*blockSize) {
		return fmt.Errorf("%w: a block of %d bytes", ErrDamaged, n)
	}
	if int64(cap(c.sealed)) < n {
		c.sealed = make([]byte, n, 2*blockSize)
	}
	c.sealed = c.sealed[:n]
	if err := c.read(c.sealed); err != nil {
		return err
	}
	d := c.run.file.dir
	packed, err := d.aead.Open(c.sealed[:0], d.nonce(c.run.number, c.number), c.sealed, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if cap(c.plain) < blockSize {
		c.plain = make([]byte, 0, blockSize)
	}
	if c.rest, err = s2.Decode(c.plain[:cap(c.plain)], packed); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	c.number++
	return nil
}

func (c *cursor) read(b []byte) error {
	if c.offset+int64(len(b)) > c.run.end {
		return ErrDamaged
	}
	n, err := c.run.file.ReadAt(b, c.offset)
	switch {
	case n == len(b):
	case err == io.EOF:
		return fmt.Errorf("%w: it is too short", ErrDamaged)
	default:
		return fmt.Errorf("read a temporary file: %w", err)
	}
	c.offset += int64(n)
	return nil
}
