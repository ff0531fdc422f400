package history

import (
	"fmt"
	"strings"

	"lifeboat.im/lifeboat/record"
)

// tracePrefix begins the line that a restore leaves in its database's comment.
const tracePrefix = "lifeboat: restored from "

// Trace is the line that says in a database's comment which commit it was restored
// from, so that whoever adopts it names the right parent and the right commit.
func (p Parent) Trace() string {
	return tracePrefix + p.ID.String() + " at lsn:" + p.At.String()
}

// ParseTrace takes the trace out of a database's comment. ok is false when there is
// none; rest is the comment without any such line, also without one that is not whole.
func ParseTrace(comment string) (p Parent, rest string, ok bool) {
	var kept []string
	for line := range strings.SplitSeq(comment, "\n") {
		text, ours := strings.CutPrefix(line, tracePrefix)
		if !ours {
			kept = append(kept, line)
			continue
		}
		if parent, err := parseTrace(text); err == nil {
			p, ok = parent, true
		}
	}
	return p, strings.Join(kept, "\n"), ok
}

func parseTrace(text string) (p Parent, err error) {
	id, at, ok := strings.Cut(text, " at lsn:")
	if !ok {
		return p, fmt.Errorf("trace %q: no position: %w", text, record.ErrCorrupt)
	}
	if p.ID, err = ParseLineageID(id); err != nil {
		return p, err
	}
	p.At, err = record.ParseLSN(at)
	return p, err
}

// WithTrace gives a database's comment with the trace in place of any older one.
func WithTrace(comment string, p Parent) string {
	_, rest, _ := ParseTrace(comment)
	if rest == "" {
		return p.Trace()
	}
	return rest + "\n" + p.Trace()
}
