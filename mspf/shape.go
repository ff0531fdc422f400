package mspf

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// kind of a value in an archive.
type kind byte

const (
	kindAny  kind = iota
	kindOpen      // an object with whatever keys: text → any
	kindText
	kindNullText // text or null
	kindInt
	kindBool
	kindList
	kindMap
	kindObject
	kindTuple
	kindConst
)

// shape is the type of a value, from which both the check of written archives and
// docs/mspf.cddl come.
type shape struct {
	kind   kind
	key    string  // of a map: what its keys are
	elems  []shape // of a list or map: one; of a tuple: each
	fields []field // of an object
	values []string
}

type field struct {
	name     string
	optional bool
	shape    shape
	text     string
}

func text() shape     { return shape{kind: kindText} }
func integer() shape  { return shape{kind: kindInt} }
func boolean() shape  { return shape{kind: kindBool} }
func anything() shape { return shape{kind: kindAny} }
func open() shape     { return shape{kind: kindOpen} }

func oneOf(values ...string) shape    { return shape{kind: kindConst, values: values} }
func listOf(e shape) shape            { return shape{kind: kindList, elems: []shape{e}} }
func tuple(e ...shape) shape          { return shape{kind: kindTuple, elems: e} }
func mapOf(key string, e shape) shape { return shape{kind: kindMap, key: key, elems: []shape{e}} }
func object(fields ...field) shape    { return shape{kind: kindObject, fields: fields} }
func req(name string, s shape, text ...string) field {
	return field{name: name, shape: s, text: strings.Join(text, " ")}
}

func opt(name string, s shape, text ...string) field {
	return field{name: name, shape: s, optional: true, text: strings.Join(text, " ")}
}

// check says where a value does not have the shape; nil when it has.
func (s shape) check(v any, at string) error {
	bad := func(want string) error { return fmt.Errorf("%s is %s, not %s", at, describe(v), want) }
	switch s.kind {
	case kindAny:
		return nil
	case kindOpen:
		if _, ok := v.(map[string]any); !ok {
			return bad("an object")
		}
	case kindText, kindNullText:
		if _, ok := v.(string); !ok && (v != nil || s.kind == kindText) {
			return bad("text")
		}
	case kindConst:
		if x, ok := v.(string); !ok || !slices.Contains(s.values, x) {
			return bad("one of " + strings.Join(s.values, ", "))
		}
	case kindInt:
		switch v.(type) {
		case int64, *big.Int:
		default:
			return bad("an integer")
		}
	case kindBool:
		if _, ok := v.(bool); !ok {
			return bad("true or false")
		}
	case kindList, kindTuple:
		return s.checkList(v, at)
	case kindMap, kindObject:
		m, ok := v.(map[string]any)
		if !ok {
			return bad("an object")
		}
		return s.checkMap(m, at)
	}
	return nil
}

func (s shape) checkList(v any, at string) error {
	list, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%s is %s, not an array", at, describe(v))
	}
	if s.kind == kindTuple && len(list) != len(s.elems) {
		return fmt.Errorf("%s has %d entries, not %d", at, len(list), len(s.elems))
	}
	for i, e := range list {
		if err := s.elems[min(i, len(s.elems)-1)].check(e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func (s shape) checkMap(m map[string]any, at string) error {
	if s.kind == kindMap {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if err := s.elems[0].check(m[k], at+"."+k); err != nil {
				return err
			}
		}
		return nil
	}
	known := map[string]bool{}
	for _, f := range s.fields {
		known[f.name] = true
		v, ok := m[f.name]
		if !ok {
			if !f.optional {
				return fmt.Errorf("%s has no %s", at, f.name)
			}
			continue
		}
		if err := f.shape.check(v, at+"."+f.name); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !known[k] {
			return fmt.Errorf("%s has a key %q that the format does not know", at, k)
		}
	}
	return nil
}

func describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%.40q", x)
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	case int64, bool:
		return fmt.Sprint(x)
	}
	return fmt.Sprintf("a %T", v)
}
