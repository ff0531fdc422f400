package event

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// parser reads JSON text into a tree. It takes what encoding/json takes and gives what
// that gives (a fuzz target holds the two together), but in one pass, with integers as
// integers, and noting what CBOR would lose: events are read by the million.
type parser struct {
	text  []byte
	at    int
	exact bool
}

func (p *parser) fail(what string) error { return fmt.Errorf("at byte %d: %s", p.at, what) }

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// take skips spaces and then that byte, if it is there.
func (p *parser) take(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) (any, error) {
	p.space()
	if p.at >= len(p.text) {
		return nil, p.fail("it ends too early")
	}
	switch c := p.text[p.at]; c {
	case '{', '[':
		if depth > MaxDepth {
			return nil, ErrDeep
		}
		p.at++
		if c == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case '"':
		return p.str()
	case 't':
		return true, p.literal("true")
	case 'f':
		return false, p.literal("false")
	case 'n':
		return nil, p.literal("null")
	}
	return p.number()
}

func (p *parser) literal(s string) error {
	if !bytes.HasPrefix(p.text[p.at:], []byte(s)) {
		return p.fail("no value")
	}
	p.at += len(s)
	return nil
}

func (p *parser) object(depth int) (any, error) {
	if p.take('}') {
		return map[string]any{}, nil
	}
	var m map[string]any
	if depth == 1 {
		m = make(map[string]any, 16) // an event has more than eight keys
	} else {
		m = make(map[string]any, 4)
	}
	for {
		if p.space(); p.at >= len(p.text) || p.text[p.at] != '"' {
			return nil, p.fail("no key")
		}
		k, err := p.str()
		if err != nil {
			return nil, err
		}
		if !p.take(':') {
			return nil, p.fail("no colon")
		}
		if m[k], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if p.take('}') {
			return m, nil
		}
		if !p.take(',') {
			return nil, p.fail("no comma")
		}
	}
}

func (p *parser) array(depth int) (any, error) {
	list := []any{}
	if p.take(']') {
		return list, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if p.take(']') {
			return list, nil
		}
		if !p.take(',') {
			return nil, p.fail("no comma")
		}
	}
}

func (p *parser) number() (any, error) {
	start := p.at
	digits := func() bool {
		from := p.at
		for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
			p.at++
		}
		return p.at > from
	}
	is := func(set string) bool {
		if p.at < len(p.text) && bytes.IndexByte([]byte(set), p.text[p.at]) >= 0 {
			p.at++
			return true
		}
		return false
	}
	is("-")
	if !is("0") && !digits() {
		return nil, p.fail("no value")
	}
	if is(".") && !digits() {
		return nil, p.fail("no digits after the point")
	}
	if is("eE") {
		if is("+-"); !digits() {
			return nil, p.fail("no digits in the exponent")
		}
	}
	if text := p.text[start:p.at]; len(text) <= 15 && !bytes.ContainsAny(text, ".eE") {
		n := int64(0)
		for _, c := range bytes.TrimPrefix(text, []byte("-")) {
			n = 10*n + int64(c-'0')
		}
		if text[0] == '-' {
			n = -n
		}
		return n, nil
	}
	n, err := number(string(p.text[start:p.at]))
	if i, ok := n.(int64); !ok || i < -maxExact || i > maxExact {
		p.exact = false
	}
	return n, err
}

// str reads a string. Halves of surrogate pairs and bytes that are not UTF-8 become
// U+FFFD, and the text is not exact.
func (p *parser) str() (string, error) {
	s, simple, err := p.bytes()
	if err != nil {
		return "", err
	}
	if simple {
		return shared(s), nil
	}
	s, err = p.escaped(append(make([]byte, 0, len(s)+64), s...))
	return string(s), err
}

// bytes reads a string up to where it is not its bytes any more: if there is such a place,
// it is not simple, and [parser.escaped] goes on from there.
func (p *parser) bytes() (s []byte, simple bool, err error) {
	p.at++ // the quote
	start, text := p.at, p.text
	at, high := start, false
	for {
		// Eight at once, as long as none is a quote, a backslash, a control character or
		// not ASCII: then bit 7 of its byte is set below (a borrow comes from such a one only).
		for at+8 <= len(text) {
			w := binary.LittleEndian.Uint64(text[at:])
			const ones = 0x0101010101010101
			if (w|(w-' '*ones)|((w^'"'*ones)-ones)|((w^'\\'*ones)-ones))&(0x80*ones) != 0 {
				break
			}
			at += 8
		}
		if at >= len(text) {
			p.at = at
			return nil, false, p.fail("it ends inside a string")
		}
		c := text[at]
		if c >= ' ' && c != '"' && c != '\\' {
			high = high || c >= utf8.RuneSelf
			at++
			continue
		}
		s = text[start:at]
		if p.at = at; c < ' ' {
			return nil, false, p.fail("a control character in a string")
		}
		if high && !utf8.Valid(s) {
			p.at = start
			return nil, false, nil
		}
		if c == '"' {
			p.at++
		}
		return s, c == '"', nil
	}
}

// shared makes a string of bytes, without a copy of those that every event has.
func shared(b []byte) string {
	switch string(b) {
	case "auth_events":
		return "auth_events"
	case "body":
		return "body"
	case "content":
		return "content"
	case "depth":
		return "depth"
	case "hashes":
		return "hashes"
	case "membership":
		return "membership"
	case "msgtype":
		return "msgtype"
	case "m.room.member":
		return "m.room.member"
	case "m.room.message":
		return "m.room.message"
	case "m.text":
		return "m.text"
	case "origin":
		return "origin"
	case "origin_server_ts":
		return "origin_server_ts"
	case "prev_events":
		return "prev_events"
	case "room_id":
		return "room_id"
	case "sender":
		return "sender"
	case "sha256":
		return "sha256"
	case "signatures":
		return "signatures"
	case "state_key":
		return "state_key"
	case "type":
		return "type"
	case "unsigned":
		return "unsigned"
	}
	return string(b)
}

// escaped goes on with a string that is not its bytes.
func (p *parser) escaped(b []byte) ([]byte, error) {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return b, nil
		case c < ' ':
			return nil, p.fail("a control character in a string")
		case c == '\\':
			var err error
			if b, err = p.escape(b); err != nil {
				return nil, err
			}
		case c < utf8.RuneSelf:
			b = append(b, c)
			p.at++
		default:
			r, n := utf8.DecodeRune(p.text[p.at:])
			if r == utf8.RuneError && n == 1 {
				p.exact = false
			}
			b = utf8.AppendRune(b, r)
			p.at += n
		}
	}
	return nil, p.fail("it ends inside a string")
}

func (p *parser) escape(b []byte) ([]byte, error) {
	if p.at+1 >= len(p.text) {
		return nil, p.fail("it ends inside a string")
	}
	c := p.text[p.at+1]
	if i := bytes.IndexByte([]byte(`"\/bfnrt`), c); i >= 0 {
		p.at += 2
		return append(b, "\"\\/\b\f\n\r\t"[i]), nil
	}
	r, ok := p.unicode(p.at)
	if !ok {
		return nil, p.fail("an escape that is none")
	}
	p.at += 6
	if utf16.IsSurrogate(r) {
		low, ok := p.unicode(p.at)
		if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
			p.at += 6
			return utf8.AppendRune(b, pair), nil
		}
		p.exact = false
		r = utf8.RuneError
	}
	return utf8.AppendRune(b, r), nil
}

// unicode reads the six bytes of \uXXXX.
func (p *parser) unicode(at int) (rune, bool) {
	if at+6 > len(p.text) || p.text[at] != '\\' || p.text[at+1] != 'u' {
		return 0, false
	}
	for _, c := range p.text[at+2 : at+6] {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(p.text[at+2:at+6]), 16, 16)
	return rune(n), err == nil
}
