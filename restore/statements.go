package restore

import "strings"

// statements cuts a script of pg_restore into its commands, as psql would: a semicolon
// ends one unless it is in quotes, a comment, parentheses, or a body that begins with
// BEGIN ATOMIC. Comments between commands and psql's own commands are left out.
func statements(script string) []string {
	var out []string
	c := cutter{text: script}
	for c.next() {
		out = append(out, c.statement)
	}
	return out
}

type cutter struct {
	text      string
	statement string

	depth  int      // of parentheses
	bodies int      // of BEGIN and CASE within the body of a function
	words  []string // the first ones of the statement, in lower case
}

// next finds the next statement; false at the end.
func (c *cutter) next() bool {
	c.depth, c.bodies, c.words = 0, 0, nil
	c.text = blanks(c.text)
	for i := 0; i < len(c.text); {
		switch {
		case c.text[i] == ';' && c.depth == 0 && c.bodies == 0:
			c.statement, c.text = strings.TrimSpace(c.text[:i]), c.text[i+1:]
			if c.statement == "" {
				return c.next()
			}
			return true
		case c.text[i] == '(':
			c.depth++
		case c.text[i] == ')':
			c.depth--
		default:
			if n := quoted(c.text[i:], i > 0 && word(c.text[i-1])); n > 0 {
				i += n
				continue
			}
			if n := wordLength(c.text[i:]); n > 0 {
				c.word(strings.ToLower(c.text[i : i+n]))
				i += n
				continue
			}
		}
		i++
	}
	c.statement, c.text = strings.TrimSpace(c.text), ""
	return c.statement != ""
}

// word follows the bodies of functions that are written in plain SQL.
func (c *cutter) word(w string) {
	if len(c.words) < 4 {
		c.words = append(c.words, w)
	}
	if c.depth > 0 || len(c.words) < 2 || c.words[0] != "create" || !c.routine() {
		return
	}
	switch w {
	case "begin":
		c.bodies++
	case "case":
		if c.bodies > 0 {
			c.bodies++
		}
	case "end":
		if c.bodies > 0 {
			c.bodies--
		}
	}
}

func (c *cutter) routine() bool {
	k := c.words[1]
	if k == "or" && len(c.words) == 4 {
		k = c.words[3]
	}
	return k == "function" || k == "procedure"
}

// blanks skips white space, comments, and lines that only psql understands.
func blanks(s string) string {
	for {
		s = strings.TrimLeft(s, " \t\r\n\f")
		if strings.HasPrefix(s, `\`) {
			_, s, _ = strings.Cut(s, "\n")
			continue
		}
		n := comment(s)
		if n == 0 {
			return s
		}
		s = s[n:]
	}
}

func comment(s string) int {
	switch {
	case strings.HasPrefix(s, "--"):
		if n := strings.IndexByte(s, '\n'); n >= 0 {
			return n + 1
		}
		return len(s)
	case strings.HasPrefix(s, "/*"):
		depth := 0
		for i := 0; i+1 < len(s); i++ {
			switch s[i : i+2] {
			case "/*":
				depth++
				i++
			case "*/":
				depth--
				i++
				if depth == 0 {
					return i + 1
				}
			}
		}
		return len(s)
	}
	return 0
}

// quoted gives the length of a comment or of something in quotes at the beginning of s;
// 0 when there is none. In a word, a dollar is a letter.
func quoted(s string, inWord bool) int {
	if n := comment(s); n > 0 {
		return n
	}
	switch {
	case s[0] == '"':
		return until(s, 1, `"`)
	case s[0] == '\'':
		return until(s, 1, "'")
	case (s[0] == 'E' || s[0] == 'e') && strings.HasPrefix(s[1:], "'") && !inWord:
		for i := 2; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '\'':
				return i + 1
			}
		}
		return len(s)
	case s[0] == '$' && !inWord:
		n := 1
		for n < len(s) && word(s[n]) && s[n] != '$' {
			n++
		}
		if n < len(s) && s[n] == '$' && (n == 1 || s[1] < '0' || s[1] > '9') {
			return until(s, n+1, s[:n+1])
		}
	}
	return 0
}

// until gives the length up to the end mark. A doubled quote ends one and begins another
// string: nothing between them can end a statement.
func until(s string, from int, mark string) int {
	n := strings.Index(s[from:], mark)
	if n < 0 {
		return len(s)
	}
	return from + n + len(mark)
}

func word(b byte) bool {
	return b == '_' || b == '$' || b >= 0x80 || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

func wordLength(s string) int {
	n := 0
	for n < len(s) && word(s[n]) {
		n++
	}
	return n
}
