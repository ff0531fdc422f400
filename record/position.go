package record

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LSN is a position in the source's write-ahead log, in bytes. A position of
// Lifeboat is always a commit's end LSN (the first byte after its commit
// record), unless a field says otherwise.
type LSN uint64

// String gives the form that PostgreSQL prints: "0/16B3748".
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// MarshalText gives the form of String, for JSON and logs; the stored form is CBOR's.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText gives.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	*l = v
	return err
}

// ParseLSN reads the form that String gives; upper and lower case hex digits.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: want the form 0/16B3748", s)
	}
	h, err := parseHex32(hi)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	l, err := parseHex32(lo)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	return LSN(h)<<32 | LSN(l), nil
}

func parseHex32(s string) (uint32, error) {
	if s == "" || len(s) > 8 {
		return 0, fmt.Errorf("want one to eight hex digits, have %q", s)
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return 0, fmt.Errorf("want hex digits, have %q", s)
		}
	}
	v, err := strconv.ParseUint(s, 16, 32)
	return uint32(v), err
}

// XID is a 64-bit transaction id: the epoch in the upper half, PostgreSQL's
// 32-bit id in the lower.
type XID uint64

// Widen gives the 64-bit id nearest to near whose low half is low. near is the
// last seen pg_snapshot_xmax (protocol §1).
func Widen(low uint32, near XID) XID {
	base := uint64(near)&^0xFFFFFFFF | uint64(low)
	best, dist := base, diff(base, uint64(near))
	if base >= 1<<32 {
		if d := diff(base-1<<32, uint64(near)); d < dist {
			best, dist = base-1<<32, d
		}
	}
	if base <= ^uint64(0)-1<<32 {
		if d := diff(base+1<<32, uint64(near)); d < dist {
			best = base + 1<<32
		}
	}
	return XID(best)
}

func diff(a, b uint64) uint64 {
	if a > b {
		return a - b
	}
	return b - a
}

// Time is PostgreSQL's timestamp: microseconds since 2000-01-01 00:00:00 UTC.
type Time int64

const postgresEpoch = 946684800 // seconds from 1970 to 2000 (PostgreSQL: POSTGRES_EPOCH_JDATE)

// FromTime rounds down to a microsecond.
func FromTime(t time.Time) Time {
	return Time((t.Unix()-postgresEpoch)*1e6 + int64(t.Nanosecond())/1e3)
}

// Time gives the moment in UTC.
func (t Time) Time() time.Time {
	sec, us := int64(t)/1e6, int64(t)%1e6
	if us < 0 {
		sec, us = sec-1, us+1e6
	}
	return time.Unix(sec+postgresEpoch, us*1e3).UTC()
}

// String gives RFC 3339 in UTC with microseconds.
func (t Time) String() string { return t.Time().Format("2006-01-02T15:04:05.000000Z07:00") }

// MarshalText gives the form of String, for JSON and logs; the stored form is CBOR's.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads RFC 3339.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339Nano, string(b))
	*t = FromTime(v)
	return err
}

// Source names one database of one cluster: pg_control_system()'s system
// identifier and pg_database.oid.
type Source struct {
	SystemID uint64
	Database uint32
}

// String gives the form used in object keys: 16 hex digits, a dash, the oid.
func (s Source) String() string { return fmt.Sprintf("%016x-%d", s.SystemID, s.Database) }

// ParseSource reads exactly what String gives.
func ParseSource(s string) (Source, error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok || len(a) != 16 {
		return Source{}, fmt.Errorf("parse source %q: want 16 hex digits, a dash and a database oid", s)
	}
	id, err := strconv.ParseUint(a, 16, 64)
	if err != nil {
		return Source{}, fmt.Errorf("parse source %q: %w", s, err)
	}
	db, err := strconv.ParseUint(b, 10, 32)
	if err != nil {
		return Source{}, fmt.Errorf("parse source %q: %w", s, err)
	}
	out := Source{SystemID: id, Database: uint32(db)}
	if out.String() != s {
		return Source{}, fmt.Errorf("parse source %q: not in canonical form", s)
	}
	return out, nil
}

// Lineage is one unbroken history of a source: random, so that a database that
// was restored or re-created never continues another's.
type Lineage [8]byte

// NewLineage draws a lineage from the system's randomness.
func NewLineage() Lineage {
	var l Lineage
	_, _ = rand.Read(l[:]) // crypto/rand.Read never fails since Go 1.24
	return l
}

// String gives 16 hex digits.
func (l Lineage) String() string { return hex.EncodeToString(l[:]) }

// ParseLineage reads exactly what String gives.
func ParseLineage(s string) (Lineage, error) {
	var l Lineage
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(l) || s != strings.ToLower(s) {
		return l, fmt.Errorf("parse lineage %q: want 16 lower-case hex digits", s)
	}
	copy(l[:], b)
	return l, nil
}
