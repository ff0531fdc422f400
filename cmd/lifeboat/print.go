package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// say prints a sentence for people; silent with --json and --quiet.
func (a *app) say(format string, args ...any) {
	if a.flags.json || a.flags.quiet {
		return
	}
	fmt.Fprintln(a.out, visible(fmt.Sprintf(format, args...)))
}

// visible shows control characters instead of sending them to a terminal, which obeys
// them: a room's id, a name of a table or a row may come from anybody. Lines and
// columns of the text itself stay.
func visible(s string) string {
	harmless := func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) || r == '\u00a0' }
	if strings.IndexFunc(s, func(r rune) bool { return !harmless(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if harmless(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// flat makes one line of an error that lists, indented, what each address answered
// (pgconn.ConnectError), and says once what several say.
func flat(s string) string {
	lines := strings.Split(s, "\n\t")
	out := lines[0]
	for i, l := range lines[1:] {
		if i+2 < len(lines) && strings.HasPrefix(lines[i+2], l) {
			continue
		}
		if strings.HasSuffix(out, ":") {
			out += " " + l
		} else {
			out += "; " + l
		}
	}
	return out
}

// oneLine is visible for what must not look like a line of its own.
func oneLine(s string) string {
	return visible(strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(s))
}

// fact prints a line that the command exists for; silent with --json only.
func (a *app) fact(format string, args ...any) {
	if !a.flags.json {
		fmt.Fprintln(a.out, visible(fmt.Sprintf(format, args...)))
	}
}

// printJSON prints v when --json is set and reports whether it did.
func (a *app) printJSON(v any) (bool, error) {
	if !a.flags.json {
		return false, nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return true, err
	}
	_, err := a.out.Write(escapeControls(b.Bytes()))
	return true, err
}

// escapeControls escapes what encoding/json leaves in its strings and a terminal
// obeys: DEL and the C1 controls, U+007F to U+009F.
func escapeControls(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		if r >= 0x7f && r <= 0x9f {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = utf8.AppendRune(out, r)
		}
	}
	return out
}

// table prints rows in aligned columns, the first one as a heading.
func (a *app) table(rows [][]string) {
	if a.flags.json {
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, visible(strings.Join(r, "\t")))
	}
	_ = w.Flush()
}

// mib prints bytes in MiB, with as many digits as help.
func mib(n int64) string {
	v := float64(n) / (1 << 20)
	switch {
	case n == 0:
		return "0 MiB"
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f MiB", v)
	case v >= 1 || v <= -1:
		return fmt.Sprintf("%.1f MiB", v)
	}
	return fmt.Sprintf("%.3f MiB", v)
}

// moment prints a time in the local zone with its offset, to the microsecond that
// PostgreSQL stores, in the form that --at reads.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02T15:04:05.000000-07:00")
}

// minute is a time as tables show it, otherwise for the zero time.
func minute(t time.Time, otherwise string) string {
	if t.IsZero() {
		return otherwise
	}
	return t.Local().Format("2006-01-02 15:04-07:00")
}

// atMoment is moment in brackets, nothing for the zero time.
func atMoment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " (" + moment(t) + ")"
}

// took prints how long something took.
func took(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// count prints a number with its noun.
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
