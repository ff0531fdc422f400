package mspf

import (
	"fmt"
	"maps"
	"slices"
)

// builder collects the one map of a CBOR file, from encoded leaves: maps of maps of
// arrays, as deep as the item has it. The zero builder is empty.
type builder struct {
	root  node
	bytes int // about what it will encode to
	count int64
}

// node is a map (kids), an array (list and its count) or a leaf. Only the root may be
// empty.
type node struct {
	kids map[string]*node
	list []byte
	n    uint64
	leaf []byte
}

// keyBytes is what a key costs beside its text: its head and that of its value.
const keyBytes = 6

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
	if n.leaf != nil || n.kids != nil || n.list != nil {
		return fmt.Errorf("%w: %q", ErrTwice, path)
	}
	n.leaf = raw
	b.bytes += len(raw)
	return nil
}

// add appends to an array.
func (b *builder) add(raw []byte, path ...string) error {
	n := b.find(path)
	if n.leaf != nil || n.kids != nil {
		return fmt.Errorf("%w: %q", ErrTwice, path)
	}
	n.list = append(n.list, raw...)
	n.n++
	b.bytes += len(raw)
	return nil
}

func (b *builder) encode() []byte { return b.root.append(make([]byte, 0, b.bytes+16)) }

func (n *node) append(b []byte) []byte {
	switch {
	case n.leaf != nil:
		return append(b, n.leaf...)
	case n.list != nil:
		return append(appendHead(b, majorArray, n.n), n.list...)
	}
	b = appendHead(b, majorMap, uint64(len(n.kids)))
	for _, k := range slices.SortedFunc(maps.Keys(n.kids), keyLess) {
		b = n.kids[k].append(appendText(b, k))
	}
	return b
}
