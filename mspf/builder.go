package mspf

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"

	"lifeboat.im/lifeboat/mspf/event"
)

// builder collects the one map of a CBOR file, from encoded leaves: maps of maps of
// arrays, as deep as the item has it. The zero builder is empty.
type builder struct {
	root  node
	bytes int // about what it will encode to
	count int64
	free  [][]byte // pieces of an earlier file, to be used again
}

// node is a map (kids), an array (pieces, list and its count) or a leaf. Only the root may
// be empty.
type node struct {
	kids   map[string]*node
	pieces [][]byte // full ones; list goes on behind them
	list   []byte
	n      uint64
	leaf   []byte
}

const (
	// keyBytes is what a key costs beside its text: its head and that of its value.
	keyBytes = 6
	// pieceBytes has a long array in each of its pieces: what grows is not copied for ever.
	pieceBytes = 64 << 10
)

func (b *builder) find(path []string) *node {
	n := &b.root
	for _, k := range path {
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		kid := n.kids[k]
		if kid == nil {
			kid = &node{}
			n.kids[k] = kid
			b.bytes += len(k) + keyBytes
		}
		n = kid
	}
	return n
}

// set puts a value where there is none.
func (b *builder) set(raw []byte, path ...string) error {
	n := b.find(path)
	if n.leaf != nil || n.kids != nil || n.n > 0 {
		return fmt.Errorf("%w: %q", ErrTwice, path)
	}
	n.leaf = raw
	b.bytes += len(raw)
	return nil
}

// add appends to an array; raw is copied.
func (b *builder) add(raw []byte, path ...string) error { return b.append(nil, raw, path...) }

// append is add for a value of two parts.
func (b *builder) append(head, raw []byte, path ...string) error {
	n := b.find(path)
	if n.leaf != nil || n.kids != nil {
		return fmt.Errorf("%w: %q", ErrTwice, path)
	}
	size := len(head) + len(raw)
	if len(n.list)+size > cap(n.list) && len(n.list)+size > pieceBytes/2 {
		b.piece(n, size)
	}
	n.list = append(append(n.list, head...), raw...)
	n.n++
	b.bytes += size
	return nil
}

// piece begins a new one, for a value of so many bytes.
func (b *builder) piece(n *node, size int) {
	if len(n.list) > 0 {
		n.pieces = append(n.pieces, n.list)
	}
	if last := len(b.free) - 1; last >= 0 && size <= pieceBytes {
		n.list, b.free = b.free[last], b.free[:last]
	} else {
		n.list = make([]byte, 0, max(size, pieceBytes))
	}
}

// reset makes it empty.
func (b *builder) reset() {
	free := b.root.release(b.free)
	*b = builder{free: free[:min(len(free), fileBytes/pieceBytes)]}
}

func (n *node) release(free [][]byte) [][]byte {
	for _, p := range append(n.pieces, n.list) {
		if cap(p) == pieceBytes {
			free = append(free, p[:0])
		}
	}
	for _, kid := range n.kids {
		free = kid.release(free)
	}
	return free
}

func (b *builder) encode() []byte {
	out := bytes.NewBuffer(make([]byte, 0, b.bytes+16))
	_ = b.writeTo(out) // a buffer takes everything
	return out.Bytes()
}

// size is how many bytes it encodes to.
func (b *builder) size() int64 { return b.root.size() }

func (b *builder) writeTo(w io.Writer) error { return b.root.writeTo(w) }

func (n *node) size() int64 {
	var head [9]byte
	switch {
	case n.leaf != nil:
		return int64(len(n.leaf))
	case n.n > 0:
		size := len(event.AppendHead(head[:0], majorArray, n.n)) + len(n.list)
		for _, p := range n.pieces {
			size += len(p)
		}
		return int64(size)
	}
	size := int64(len(event.AppendHead(head[:0], majorMap, uint64(len(n.kids)))))
	for k, kid := range n.kids {
		size += int64(len(event.AppendHead(head[:0], majorText, uint64(len(k))))+len(k)) + kid.size()
	}
	return size
}

func (n *node) writeTo(w io.Writer) error {
	switch {
	case n.leaf != nil:
		_, err := w.Write(n.leaf)
		return err
	case n.n > 0:
		_, err := w.Write(event.AppendHead(nil, majorArray, n.n))
		for i := 0; i < len(n.pieces) && err == nil; i++ {
			_, err = w.Write(n.pieces[i])
		}
		if err == nil {
			_, err = w.Write(n.list)
		}
		return err
	}
	if _, err := w.Write(event.AppendHead(nil, majorMap, uint64(len(n.kids)))); err != nil {
		return err
	}
	for _, k := range slices.SortedFunc(maps.Keys(n.kids), keyLess) {
		if _, err := w.Write(appendText(nil, k)); err != nil {
			return err
		}
		if err := n.kids[k].writeTo(w); err != nil {
			return err
		}
	}
	return nil
}
