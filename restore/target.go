package restore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lifeboat.im/lifeboat/record"
)

// ErrTarget: the text is none of the forms of a target. A matter of usage.
var ErrTarget = errors.New("not a restore target")

// targetForms is what every error about a target's form ends with.
const targetForms = `want latest, an RFC 3339 time with zone (2026-01-02T15:04:05+01:00), "10 minutes ago", ` +
	`lsn:0/16B3748, xid:7421 or mark:NAME, each optionally with before: in front`

// Kind says by what a target names its commit.
type Kind byte

// The kinds of targets.
const (
	// Latest is the newest durable commit.
	Latest Kind = iota + 1
	// ByTime is the prefix of the commit order before the first later commit.
	ByTime
	// ByLSN is the last commit that ends at or before a position.
	ByLSN
	// ByXID is the commit of a transaction.
	ByXID
	// ByMark is the commit at which a mark was set.
	ByMark
)

// Target is what a person asks to go back to. It is resolved against a lineage
// by [Target.Resolve]. The zero Target is invalid.
type Target struct {
	Kind Kind
	// Before asks for the last commit strictly before what the rest names.
	Before bool
	// Time is set for ByTime, in the zone it was given in.
	Time time.Time
	// LSN is set for ByLSN.
	LSN record.LSN
	// XID is set for ByXID: a 64-bit id, or the 32 bits that most of PostgreSQL's
	// views and logs show.
	XID record.XID
	// Mark is set for ByMark.
	Mark string

	now time.Time // when it was parsed: the future begins here
}

// ParseTarget reads the forms of surface.md; now is the moment that "ago" and
// the future are counted from. It accepts nothing else: no spaces around, no
// missing zone. Errors wrap [ErrTarget] and name the forms.
func ParseTarget(s string, now time.Time) (Target, error) {
	rest, before := strings.CutPrefix(s, "before:")
	t, err := parseTarget(rest, now)
	if err != nil {
		return Target{}, fmt.Errorf("parse target %q: %w: %s: %s", s, ErrTarget, err.Error(), targetForms)
	}
	t.Before, t.now = before, now
	return t, nil
}

func parseTarget(s string, now time.Time) (Target, error) {
	switch {
	case s == "latest":
		return Target{Kind: Latest}, nil
	case strings.HasPrefix(s, "lsn:"):
		l, err := record.ParseLSN(s[len("lsn:"):])
		if err != nil {
			return Target{}, err
		}
		return Target{Kind: ByLSN, LSN: l}, nil
	case strings.HasPrefix(s, "xid:"):
		n, err := parseCount(s[len("xid:"):])
		if err != nil {
			return Target{}, fmt.Errorf("transaction id: %w", err)
		}
		if n == 0 {
			return Target{}, errors.New("transaction id 0 does not exist")
		}
		return Target{Kind: ByXID, XID: record.XID(n)}, nil
	case strings.HasPrefix(s, "mark:"):
		name := s[len("mark:"):]
		if err := checkMark(name); err != nil {
			return Target{}, err
		}
		return Target{Kind: ByMark, Mark: name}, nil
	case strings.HasSuffix(s, " ago"):
		t, err := parseAgo(strings.TrimSuffix(s, " ago"), now)
		return Target{Kind: ByTime, Time: t}, err
	case s != "" && s[0] >= '0' && s[0] <= '9':
		t, err := parseTime(s)
		return Target{Kind: ByTime, Time: t}, err
	}
	return Target{}, errors.New("unknown form")
}

// parseCount reads a decimal number as Go prints it: digits only, no leading 0.
func parseCount(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a plain number", s)
	}
	return n, nil
}

func checkMark(name string) error {
	if name == "" || len(name) > 255 || !utf8.ValidString(name) {
		return errors.New("a mark's name has 1 to 255 bytes of UTF-8")
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return errors.New("a mark's name has no control characters")
	}
	return nil
}

func parseAgo(s string, now time.Time) (time.Time, error) {
	number, unit, ok := strings.Cut(s, " ")
	if !ok {
		return time.Time{}, errors.New("want a number and a unit before ago")
	}
	n, err := parseCount(number)
	if err != nil {
		return time.Time{}, err
	}
	var d time.Duration
	switch unit {
	case "second", "seconds":
		d = time.Second
	case "minute", "minutes":
		d = time.Minute
	case "hour", "hours":
		d = time.Hour
	case "day", "days":
		d = 24 * time.Hour
	default:
		return time.Time{}, fmt.Errorf("%q is not seconds, minutes, hours or days", unit)
	}
	if (n == 1) == strings.HasSuffix(unit, "s") {
		return time.Time{}, fmt.Errorf("%d does not go with %q", n, unit)
	}
	if n > uint64(200*365*24*time.Hour/d) {
		return time.Time{}, errors.New("more than 200 years ago")
	}
	return now.Add(-time.Duration(n) * d), nil
}

// parseTime is RFC 3339 without the liberties that time.Parse takes (a comma
// before the fraction, hours of one digit).
func parseTime(s string) (time.Time, error) {
	const form = "dddd-dd-ddTdd:dd:dd"
	if len(s) <= len(form) {
		return time.Time{}, errors.New("want a date, T, a time and a zone")
	}
	for i := range len(form) {
		digit := s[i] >= '0' && s[i] <= '9'
		if (form[i] == 'd') != digit || (form[i] != 'd' && form[i] != s[i]) {
			return time.Time{}, errors.New("want a date, T, a time and a zone")
		}
	}
	if strings.Contains(s, ",") {
		return time.Time{}, errors.New("want a point before fractions of a second")
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, errors.New("want a date, T, a time and a zone")
	}
	return t, nil
}

// String gives the text that [ParseTarget] reads; a relative time has become an
// absolute one.
func (t Target) String() string {
	s := ""
	if t.Before {
		s = "before:"
	}
	switch t.Kind {
	case Latest:
		return s + "latest"
	case ByTime:
		return s + t.Time.Format(time.RFC3339Nano)
	case ByLSN:
		return s + "lsn:" + t.LSN.String()
	case ByXID:
		return s + "xid:" + strconv.FormatUint(uint64(t.XID), 10)
	case ByMark:
		return s + "mark:" + t.Mark
	}
	return s + "invalid"
}
