package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, false, fmt.Errorf("parse event: %w: %w", ErrJSON, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, false, fmt.Errorf("parse event: %w: something follows it", ErrJSON)
	}
	obj, ok := tree.(map[string]any)
	if !ok {
		return nil, false, fmt.Errorf("parse event: %w", ErrJSON)
	}
	exact = !loneSurrogate(text)
	v, err := numbers(obj, &exact, 1)
	if err != nil {
		return nil, false, fmt.Errorf("parse event: %w: %w", ErrJSON, err)
	}
	return v.(map[string]any), exact, nil
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

// numbers replaces json.Number in place.
func numbers(v any, exact *bool, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, ErrDeep
	}
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			n, err := numbers(e, exact, depth+1)
			if err != nil {
				return nil, err
			}
			x[k] = n
		}
	case []any:
		for i, e := range x {
			n, err := numbers(e, exact, depth+1)
			if err != nil {
				return nil, err
			}
			x[i] = n
		}
	case json.Number:
		n, err := number(string(x))
		if i, ok := n.(int64); !ok || i < -maxExact || i > maxExact {
			*exact = false
		}
		return n, err
	}
	return v, nil
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

// loneSurrogate looks for an escape of half a surrogate pair in valid JSON.
func loneSurrogate(text []byte) bool {
	for i := 0; i+5 < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		if text[i+1] != 'u' {
			i++
			continue
		}
		c := hex4(text[i+2:])
		i += 5
		switch {
		case c >= 0xDC00 && c <= 0xDFFF:
			return true
		case c >= 0xD800 && c <= 0xDBFF:
			if i+6 >= len(text) || text[i+1] != '\\' || text[i+2] != 'u' {
				return true
			}
			if low := hex4(text[i+3:]); low < 0xDC00 || low > 0xDFFF {
				return true
			}
			i += 6
		}
	}
	return false
}

func hex4(b []byte) int {
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}
