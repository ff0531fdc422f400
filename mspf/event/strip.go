package event

import "slices"

// stripped are the keys that servers add to an event for themselves: no hash and no
// signature covers them.
func stripped() []string { return []string{"unsigned", "age_ts", "outlier", "destinations"} }

// Strip takes off what servers add to an event for themselves: unsigned, age_ts, outlier
// and destinations. It changes its argument.
func Strip(ev map[string]any) {
	for _, k := range stripped() {
		delete(ev, k)
	}
}

// StripText is [Strip] for the text of an event: every other byte of a member stays as it
// is. It reads texts nested as deep as they like. The error is [ErrJSON].
func StripText(text []byte) ([]byte, error) {
	p := parser{text: text}
	if !p.take('{') {
		return nil, ErrJSON
	}
	out := append(make([]byte, 0, len(text)), '{')
	if p.take('}') {
		return append(out, '}'), nil
	}
	for {
		p.space()
		start := p.at
		if start >= len(text) || text[start] != '"' {
			return nil, ErrJSON
		}
		k, err := p.str()
		if err != nil || !p.take(':') || !p.skip() {
			return nil, ErrJSON
		}
		if !slices.Contains(stripped(), k) {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, text[start:p.at]...)
		}
		if p.take('}') {
			return append(out, '}'), nil
		}
		if !p.take(',') {
			return nil, ErrJSON
		}
	}
}

// skip goes over one value.
func (p *parser) skip() bool {
	for depth := 0; ; {
		p.space()
		if p.at >= len(p.text) {
			return false
		}
		switch c := p.text[p.at]; c {
		case '{', '[':
			depth++
			p.at++
			continue
		case '}', ']':
			depth--
			p.at++
		case ',', ':':
			p.at++
			continue
		case '"':
			if _, err := p.str(); err != nil {
				return false
			}
		default:
			p.scalar()
		}
		if depth <= 0 {
			return depth == 0
		}
	}
}

// scalar goes over a number or a word.
func (p *parser) scalar() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\r', '\n', ',', ':', '{', '}', '[', ']', '"':
			return
		}
		p.at++
	}
}
