package event

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// What keeps a text from being read.
var (
	ErrJSON = errors.New("not a JSON object")                      // it is something else
	ErrDeep = fmt.Errorf("nested deeper than %d levels", MaxDepth) // it is an object that no archive can hold
)

// MaxDepth is how deep an event may be nested, as the archive's CBOR may.
const MaxDepth = 128

const maxExact = 1<<53 - 1

// Parse reads the JSON text of one event. Exact says that the tree carries all of
// it: every number is an integer within ±(2^53-1) and no string holds half of a
// surrogate pair, so that CBOR and any JSON library keep what hashes and signatures
// cover. An event that is not exact has to be kept as text, too.
//
// Of a key that occurs twice the last one wins, as in Python. Errors are [ErrJSON],
// and [ErrDeep] as well.
func Parse(text []byte) (ev map[string]any, exact bool, err error) {
	p := parser{text: text, exact: true}
	tree, err := p.value(1)
	if err == nil {
		if p.space(); p.at < len(text) {
			err = p.fail("something follows it")
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("parse event: %w: %w", ErrJSON, err)
	}
	obj, ok := tree.(map[string]any)
	if !ok {
		return nil, false, fmt.Errorf("parse event: %w", ErrJSON)
	}
	return obj, p.exact, nil
}

// Exact says whether CBOR and JSON carry the tree without loss: see [Parse].
func Exact(v any) bool {
	switch x := v.(type) {
	case map[string]any:
		for _, e := range x {
			if !Exact(e) {
				return false
			}
		}
	case []any:
		for _, e := range x {
			if !Exact(e) {
				return false
			}
		}
	case int64:
		return x >= -maxExact && x <= maxExact
	case float64, *big.Int:
		return false
	}
	return true
}

// number: as Python reads it, a point or an exponent makes a float.
func number(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(f, 0) {
			return nil, fmt.Errorf("the number %.40s is too large", s)
		}
		return f, nil
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i, nil
	}
	if len(s) > 5000 {
		return nil, errors.New("a number has more than 5000 digits")
	}
	b, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, fmt.Errorf("%.40q is no number", s)
	}
	return b, nil
}
