package record

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is pg_current_snapshot(): which transactions a copy sees. Ids are
// those of top-level transactions.
type Snapshot struct {
	_ struct{} `cbor:",toarray"`
	// XMin: every transaction below it had ended. XMax: none at or above it had begun
	// to be visible. XIP: those between that were still in progress, ascending.
	XMin, XMax XID
	XIP        []XID
}

// Sees reports whether the snapshot sees a committed transaction.
func (s *Snapshot) Sees(x XID) bool {
	if x < s.XMin {
		return true
	}
	if x >= s.XMax {
		return false
	}
	_, in := slices.BinarySearch(s.XIP, x)
	return !in
}

// ParseSnapshot reads PostgreSQL's text form "xmin:xmax:xip,xip".
func ParseSnapshot(s string) (Snapshot, error) {
	var out Snapshot
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return out, fmt.Errorf("parse snapshot %q: want xmin:xmax:list", s)
	}
	ids := []*XID{&out.XMin, &out.XMax}
	for i, p := range ids {
		v, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return out, fmt.Errorf("parse snapshot %q: %w", s, err)
		}
		*p = XID(v)
	}
	if f[2] != "" {
		for part := range strings.SplitSeq(f[2], ",") {
			v, err := strconv.ParseUint(part, 10, 64)
			if err != nil {
				return out, fmt.Errorf("parse snapshot %q: %w", s, err)
			}
			out.XIP = append(out.XIP, XID(v))
		}
	}
	last := out.XMin
	for i, x := range out.XIP {
		if x < last || i > 0 && x == last || x >= out.XMax {
			return out, fmt.Errorf("parse snapshot %q: not in order", s)
		}
		last = x
	}
	if out.XMin > out.XMax || out.String() != s {
		return out, fmt.Errorf("parse snapshot %q: not as PostgreSQL writes it", s)
	}
	return out, nil
}

// String gives PostgreSQL's text form.
func (s Snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d:", s.XMin, s.XMax)
	for i, x := range s.XIP {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", x)
	}
	return b.String()
}
