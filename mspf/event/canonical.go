package event

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf8"
)

// ErrCanonical: the tree has no canonical JSON.
var ErrCanonical = errors.New("no canonical JSON")

// Canonical gives the canonical JSON of a tree: keys in the order of their code
// points, no spaces, the shortest escapes (Matrix specification, appendices,
// "Canonical JSON"). Floats, which only room versions below 6 allow, are spelled as
// Python spells them, because the servers that signed such events did. Errors are
// [ErrCanonical].
func Canonical(v any) ([]byte, error) { return appendCanonical(make([]byte, 0, usual), v, 1) }

// usual is how many bytes most events have.
const usual = 1 << 10

func appendCanonical(b []byte, v any, depth int) ([]byte, error) {
	if depth > MaxDepth+8 {
		return nil, fmt.Errorf("%w: nested too deep", ErrCanonical)
	}
	switch x := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, x), nil
	case string:
		return appendString(b, x)
	case int64:
		return strconv.AppendInt(b, x, 10), nil
	case uint64:
		return strconv.AppendUint(b, x, 10), nil
	case *big.Int:
		return x.Append(b, 10), nil
	case float64:
		return appendFloat(b, x)
	case []any:
		return appendArray(b, x, depth)
	case map[string]any:
		return appendObject(b, x, depth)
	}
	return nil, fmt.Errorf("%w: a %T", ErrCanonical, v)
}

func appendArray(b []byte, list []any, depth int) (_ []byte, err error) {
	b = append(b, '[')
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendCanonical(b, e, depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// appendObject leaves out the keys to drop.
func appendObject(b []byte, m map[string]any, depth int, drop ...string) (_ []byte, err error) {
	var few [16]string // on the stack
	keys := few[:0]
	for k := range m {
		if !slices.Contains(drop, k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys) // the order of UTF-8 bytes is that of code points
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k); err != nil {
			return nil, err
		}
		b = append(b, ':')
		if b, err = appendCanonical(b, m[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendString(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return nil, fmt.Errorf("%w: a string is not UTF-8", ErrCanonical)
	}
	const hex = "0123456789abcdef"
	b = append(b, '"')
	done := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[done:]...), '"'), nil
}

// appendFloat spells as Python's repr: the shortest digits that read back, an
// exponent below 1e-4 and from 1e16 on, and always a point or an exponent.
func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%w: not a finite number", ErrCanonical)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, 64), nil // Go, too, writes at least two digits of exponent
	}
	n := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	if !slices.Contains(b[n:], '.') {
		b = append(b, '.', '0')
	}
	return b, nil
}
