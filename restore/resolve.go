package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// errStop ends a walk over the commits early.
var errStop = errors.New("stop")

// maxInverted bounds the clock inversions that a point names.
const maxInverted = 20

// Resolve finds the commit that the target names in a lineage. [ErrNoPoint]
// says what there is instead.
func (t Target) Resolve(ctx context.Context, v *history.View) (Point, error) {
	if !v.Ready || v.First == 0 {
		return Point{}, fmt.Errorf("resolve %s: %w: the first copy of the tables is not complete yet", t, ErrNoPoint)
	}
	limit, inverted, err := t.limit(ctx, v)
	if err != nil {
		return Point{}, err
	}
	if limit < v.Pruned {
		// Commits between the points that are left are gone, so only what names such a
		// point itself means it.
		named := t.Kind == ByLSN || t.Kind == ByMark || t.Kind == ByXID
		if t.Before || !named || v.PrunedAt(limit) {
			return Point{}, fmt.Errorf("resolve %s: %w", t, pruned(v))
		}
	} else if limit < v.First {
		return Point{}, fmt.Errorf("resolve %s: %w: the oldest one is lsn:%s", t, ErrNoPoint, v.First)
	}
	if t.Kind == ByTime {
		// The first position has no time of its own: without a commit at or before the
		// target, the state of that position may be of any later time.
		c, err := lastCommit(ctx, v, limit)
		if err != nil {
			return Point{}, err
		}
		if c.End == 0 {
			return Point{}, fmt.Errorf("resolve %s: %w: no commit of that time or before it is known; the oldest point is lsn:%s", t, ErrNoPoint, v.First)
		}
	}
	p, err := pointAt(ctx, v, limit)
	p.Inverted = inverted
	if err == nil && !t.Before && (t.Kind == Latest || t.Kind == ByLSN || t.Kind == ByMark) {
		// The position itself was named: the schema is that of the position, which may
		// have changed since the last commit of rows.
		p.LSN = max(p.LSN, limit)
	}
	return p, err
}

// pointAt gives the point of the last commit that ends at or before limit, which
// is not below the oldest restorable position.
func pointAt(ctx context.Context, v *history.View, limit record.LSN) (Point, error) {
	c, err := lastCommit(ctx, v, limit)
	if err != nil {
		return Point{}, err
	}
	p := Point{LSN: c.End, Commit: c}
	if c.End < v.First && limit >= v.First { // nothing was committed since the first copies became exact
		p = Point{LSN: v.First}
	}
	newest := c
	if limit < v.Durable {
		if newest, err = lastCommit(ctx, v, v.Durable); err != nil {
			return Point{}, err
		}
	}
	p.Newest = newest.End <= p.LSN
	return p, nil
}

// pruned says what a prune left.
func pruned(v *history.View) error {
	var left strings.Builder
	for i := len(v.Points) - 1; i >= 0; i-- {
		p := v.Points[i]
		fmt.Fprintf(&left, ", and %s (%s)", p.Target(), p.Why)
		if i < len(v.Points)-8 {
			fmt.Fprintf(&left, " and %d older points (`lifeboat points`)", i)
			break
		}
	}
	return fmt.Errorf("%w; every commit from lsn:%s on is left%s", ErrPruned, v.First, left.String())
}

// limit gives the greatest position that belongs to the target.
func (t Target) limit(ctx context.Context, v *history.View) (record.LSN, []record.Transaction, error) {
	at := v.Durable
	switch t.Kind {
	case Latest:
		if t.Before {
			c, err := lastCommit(ctx, v, v.Durable)
			if err != nil {
				return 0, nil, err
			}
			at = c.End
		}
	case ByLSN:
		if at = t.LSN; at > v.Durable {
			return 0, nil, t.future(ctx, v)
		}
	case ByXID:
		c, err := t.transaction(ctx, v)
		if err != nil {
			return 0, nil, err
		}
		at = c.End
	case ByMark:
		i := slices.IndexFunc(v.Marks, func(m history.Mark) bool { return m.Name == t.Mark })
		if i < 0 {
			return 0, nil, fmt.Errorf("resolve %s: %w: no mark has this name (points lists them)", t, ErrNoPoint)
		}
		for _, m := range v.Marks[i:] { // the newest of that name
			if m.Name == t.Mark {
				at = m.At
			}
		}
	case ByTime:
		return t.timeLimit(ctx, v)
	default:
		return 0, nil, fmt.Errorf("resolve %s: %w", t, ErrTarget)
	}
	if t.Before && at > 0 {
		at--
	}
	return at, nil, nil
}

func (t Target) future(ctx context.Context, v *history.View) error {
	c, err := lastCommit(ctx, v, v.Durable)
	if err != nil {
		return err
	}
	newest := fmt.Sprintf("lsn:%s", v.Durable)
	if c.End != 0 {
		newest = fmt.Sprintf("lsn:%s, committed %s", c.End, c.Time)
	}
	return fmt.Errorf("resolve %s: %w: it lies in the future; the newest durable commit is %s", t, ErrNoPoint, newest)
}

// transaction finds the commit of a transaction id of 64 or of 32 bits.
func (t Target) transaction(ctx context.Context, v *history.View) (record.Transaction, error) {
	var exact, low record.Transaction
	lows := 0
	err := v.Commits(ctx, 0, v.Durable, false, func(c record.Transaction, _ []history.Touch) error {
		switch {
		case c.XID == t.XID:
			exact = c
		case t.XID < 1<<32 && uint32(c.XID) == uint32(t.XID):
			low = c
			lows++
		}
		return nil
	})
	switch {
	case err != nil:
		return exact, fmt.Errorf("resolve %s: %w", t, err)
	case exact.End != 0:
		return exact, nil
	case lows == 1:
		return low, nil
	case lows > 1:
		return low, fmt.Errorf("resolve %s: %w: %d transactions have these 32 bits, the last is xid:%d", t, ErrNoPoint, lows, low.XID)
	}
	if v.Pruned != 0 {
		return exact, fmt.Errorf("resolve %s: no durable commit is of this transaction, or %w", t, pruned(v))
	}
	return exact, fmt.Errorf("resolve %s: %w: no durable commit is of this transaction (a subtransaction has the id of its top level)", t, ErrNoPoint)
}

// span is a stretch of the log, a segment or a history, and its commit times.
type span struct {
	start, end  record.LSN
	first, last record.Time
	commits     uint64
}

// spans lists the log's stretches with transactions, ascending.
func spans(v *history.View) []span {
	out := make([]span, 0, len(v.Segments)+len(v.Histories))
	for _, h := range v.Histories {
		out = append(out, span{h.Start, h.End, h.First, h.Last, h.Transactions})
	}
	for _, s := range v.Segments {
		out = append(out, span{s.Start, s.End, s.First, s.Last, s.Transactions})
	}
	out = slices.DeleteFunc(out, func(s span) bool { return s.commits == 0 })
	slices.SortFunc(out, func(a, b span) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	return out
}

// lastCommit gives the last commit that ends at or before limit, zero when there
// is none.
func lastCommit(ctx context.Context, v *history.View, limit record.LSN) (record.Transaction, error) {
	var last record.Transaction
	all := spans(v)
	for i := len(all) - 1; i >= 0 && last.End == 0; i-- {
		if all[i].start >= limit {
			continue
		}
		err := v.Commits(ctx, all[i].start, min(limit, all[i].end), false, func(c record.Transaction, _ []history.Touch) error {
			last = c
			return nil
		})
		if err != nil {
			return last, fmt.Errorf("find the last commit up to %s: %w", limit, err)
		}
	}
	return last, nil
}

// timeLimit is the prefix rule: the target ends before the first commit whose
// time is later (with before: not earlier) than the target's. Only stretches that
// can hold it are read.
func (t Target) timeLimit(ctx context.Context, v *history.View) (record.LSN, []record.Transaction, error) {
	at := record.FromTime(t.Time)
	if at > v.DurableTime && t.Time.After(t.now) {
		return 0, nil, t.future(ctx, v)
	}
	if t.Before && record.FromTime(t.Time).Time().Equal(t.Time) {
		at-- // commit times are whole microseconds
	}
	var stop record.Transaction
	var inverted []record.Transaction
	for _, s := range spans(v) {
		if stop.End == 0 && s.last <= at || stop.End != 0 && s.first > at {
			continue
		}
		err := v.Commits(ctx, s.start, s.end, false, func(c record.Transaction, _ []history.Touch) error {
			switch {
			case stop.End == 0 && c.Time > at:
				stop = c
			case stop.End != 0 && c.Time <= at:
				if len(inverted) == maxInverted {
					return errStop
				}
				inverted = append(inverted, c)
			}
			return nil
		})
		if errors.Is(err, errStop) {
			break
		}
		if err != nil {
			return 0, nil, fmt.Errorf("resolve %s: %w", t, err)
		}
	}
	if stop.End == 0 {
		return v.Durable, nil, nil
	}
	return stop.End - 1, inverted, nil
}
