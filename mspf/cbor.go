package mspf

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/fxamacker/cbor/v2"
	"lifeboat.im/lifeboat/mspf/event"
)

// ErrCBOR: the bytes are not CBOR as the format has it: definite lengths, text keys in
// the order of their encoding, none twice, no tags but big integers, UTF-8, nested at
// most 128 deep, numbers in their shortest form.
var ErrCBOR = errors.New("not the CBOR of an archive")

// Major types of CBOR (RFC 8949, 3.1).
const (
	majorUint   = 0
	majorNegint = 1
	majorBytes  = 2
	majorText   = 3
	majorArray  = 4
	majorMap    = 5
	majorTag    = 6
	majorSimple = 7
)

// maxDepth of the values in an archive.
const maxDepth = 128

type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// coding is RFC 8949's core deterministic encoding, and its strict reading.
var coding = sync.OnceValue(func() codec {
	eo := cbor.CoreDetEncOptions()
	eo.NilContainers = cbor.NilContainerAsEmpty
	enc, err := eo.EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, MaxNestedLevels: maxDepth,
		MaxArrayElements: 1 << 30, MaxMapPairs: 1 << 30,
		IntDec: cbor.IntDecConvertSignedOrBigInt, BigIntDec: cbor.BigIntDecodePointer, UTF8: cbor.UTF8RejectInvalid,
		DefaultMapType: reflect.TypeFor[map[string]any](),
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return codec{enc, dec}
})

func encode(v any) ([]byte, error) { return coding().enc.Marshal(v) }

// encodeShallow encodes what comes from outside and refuses what a reader would refuse.
func encodeShallow(v any) ([]byte, error) {
	raw, err := encode(v)
	if err == nil {
		err = coding().dec.Wellformed(raw)
	}
	if err == nil {
		return raw, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrCBOR, err)
}

// decodeTree reads one value that [scanner.value] found well-formed.
func decodeTree(raw []byte) (any, error) {
	var v any
	if err := coding().dec.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCBOR, err)
	}
	return v, nil
}

// document gives the canonical JSON of a value, with a newline: the bytes of a .json
// file of an archive.
func document(v any) ([]byte, error) {
	raw, err := encode(v)
	if err != nil {
		return nil, err
	}
	tree, err := decodeTree(raw)
	if err != nil {
		return nil, err
	}
	b, err := event.Canonical(tree)
	return append(b, '\n'), err
}

func appendText(b []byte, s string) []byte {
	return append(event.AppendHead(b, majorText, uint64(len(s))), s...)
}

// keyLess orders text keys as their encodings: the shorter first, then by bytes.
func keyLess(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
