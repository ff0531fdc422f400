package restore

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/record"
)

// sequenceMargin is how many steps a sequence is moved beyond its newest sample
// when none is from at or after the point (design §7).
const sequenceMargin = 1000

// limits are a sequence's in the target.
type limits struct{ increment, least, most int64 }

// setSequences gives every sequence of the target the value that is exact at the
// newest commit, and otherwise one that was never handed out before the point.
func (p *Plan) setSequences(ctx context.Context, conn *pgconn.PgConn) (set int, err error) {
	after, newest, err := p.view.SequencesAt(ctx, p.Point.LSN)
	if err != nil {
		return 0, fmt.Errorf("read the sequences: %w", err)
	}
	rows, err := query(ctx, conn, `SELECT n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax FROM pg_catalog.pg_sequence s
JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`)
	if err != nil {
		return 0, fmt.Errorf("read the target's sequences: %w", err)
	}
	have := map[string]limits{}
	for _, r := range rows {
		var l limits
		for i, to := range []*int64{&l.increment, &l.least, &l.most} {
			if *to, err = strconv.ParseInt(r[2+i], 10, 64); err != nil {
				return 0, err
			}
		}
		have[ident(r[0], r[1])] = l
	}
	names := map[uint32]string{} // as they were at the point
	samples := map[uint32]record.Sequence{}
	for _, s := range p.schema.Sequences {
		names[s.OID], samples[s.OID] = ident(s.Schema, s.Name), s
	}
	for _, m := range []map[uint32]record.Sequence{newest, after} {
		for oid, s := range m {
			if _, ok := names[oid]; !ok {
				names[oid] = ident(s.Schema, s.Name)
			}
			samples[oid] = s
		}
	}
	var b strings.Builder
	for oid, s := range samples {
		l, ok := have[names[oid]]
		if !ok {
			continue // it did not exist at the point
		}
		if _, exact := after[oid]; p.Point.Newest {
			if n, ok := newest[oid]; ok {
				s = n
			}
		} else if !exact {
			s.Last, s.Called = l.beyond(s.Last), true
		}
		fmt.Fprintf(&b, "SELECT pg_catalog.setval(%s::pg_catalog.regclass, %d, %t);\n", literal(names[oid]), l.clamp(s.Last), s.Called)
		set++
	}
	if set == 0 {
		return 0, nil
	}
	if err := runSQL(ctx, conn, b.String()); err != nil {
		return 0, fmt.Errorf("set the sequences: %w", err)
	}
	return set, nil
}

// beyond moves a value by the margin in the sequence's direction.
func (l limits) beyond(v int64) int64 {
	step := l.increment
	switch {
	case step > math.MaxInt64/sequenceMargin:
		return l.most
	case step < math.MinInt64/sequenceMargin:
		return l.least
	}
	step *= sequenceMargin
	switch {
	case step > 0 && v > math.MaxInt64-step:
		return l.most
	case step < 0 && v < math.MinInt64-step:
		return l.least
	}
	return l.clamp(v + step)
}

func (l limits) clamp(v int64) int64 { return max(l.least, min(l.most, v)) }
