package restore

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
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

// setSequences gives the sequences of the target the values of their samples: those that
// are exact, and else one that was never handed out before.
func setSequences(ctx context.Context, conn *pgconn.PgConn, samples []sample) (set int, err error) {
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
	var b strings.Builder
	for _, q := range samples {
		name := ident(q.Schema, q.Name)
		l, ok := have[name]
		if !ok {
			continue // it did not exist at the point
		}
		if !q.exact {
			q.Last, q.Called = l.beyond(q.Last), true
		}
		fmt.Fprintf(&b, "SELECT pg_catalog.setval(%s::pg_catalog.regclass, %d, %t);\n", literal(name), l.clamp(q.Last), q.Called)
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

// sample is the state of a sequence that fits the point best.
type sample struct {
	record.Sequence // under its name at the point
	// exact: it is of the newest commit, or of a moment after the point; else it is of one
	// before, and nothing shows that it changed since.
	exact bool
}

// sequences gives a sample of each sequence that was there at the point, or came later,
// by name.
func (p *Plan) sequences(ctx context.Context) ([]sample, error) {
	after, newest, err := p.view.SequencesAt(ctx, p.Point.LSN)
	if err != nil {
		return nil, fmt.Errorf("read the sequences: %w", err)
	}
	at := map[uint32]record.Sequence{} // with names as they were
	for _, s := range p.schema.Sequences {
		at[s.OID] = s
	}
	for oid, s := range newest {
		if _, ok := at[oid]; !ok {
			at[oid] = s
		}
	}
	out := make([]sample, 0, len(at))
	for oid, named := range at {
		s, exact := named, p.Point.Newest
		if n, ok := newest[oid]; ok {
			s = n
		}
		if a, ok := after[oid]; ok && !p.Point.Newest {
			s, exact = a, true
		}
		s.Schema, s.Name = named.Schema, named.Name
		out = append(out, sample{s, exact})
	}
	slices.SortFunc(out, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name), cmp.Compare(a.OID, b.OID))
	})
	return out, nil
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
