package restore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// Plan is what a restore will do, computed before anything is touched. It is
// what is printed and what is executed.
type Plan struct {
	Lineage string `json:"lineage"`
	Point   Point  `json:"point"`
	// Mode is what is done to the rows after they were proven.
	Mode synapse.Mode `json:"mode"`
	// SchemaFrom and SchemaUntil say where the schema is certain.
	SchemaFrom  record.LSN  `json:"schema_from"`
	SchemaUntil record.LSN  `json:"schema_until"`
	Tables      []TablePlan `json:"tables"`
	// Incomplete are the tables that are restored as best known.
	Incomplete []Interval `json:"incomplete,omitempty"`
	Notes      []string   `json:"notes,omitempty"`
	Rows       int64      `json:"rows"`
	Bytes      int64      `json:"bytes"`
	// Records and RecordBytes are at most what is read of the log.
	Records     uint64        `json:"records"`
	RecordBytes int64         `json:"record_bytes"`
	Expected    time.Duration `json:"expected_ns"`

	view    *history.View
	schema  *history.Schema
	options Options
	now     func() time.Time
}

// TablePlan is one table's part.
type TablePlan struct {
	Table string `json:"table"`
	OID   uint32 `json:"oid"`
	// HasBase: rows exist; else the table stays empty.
	HasBase bool             `json:"has_base"`
	Base    history.BaseInfo `json:"base"`
	// Incomplete says why the rows are only the best known; empty: exact.
	Incomplete string `json:"incomplete,omitempty"`
}

// NewPlan computes a restore of the point. It reads the log and nothing else. An
// *[IncompleteError] names the tables that are not exact at the point, unless the
// options accept it.
func NewPlan(ctx context.Context, v *history.View, p Point, o Options) (*Plan, error) {
	if v.PrunedAt(p.LSN) {
		return nil, fmt.Errorf("plan restore of %s: %w", p.LSN, pruned(v))
	}
	if v.First == 0 || p.LSN < v.First && v.Pruned == 0 || p.LSN > v.Durable {
		return nil, fmt.Errorf("plan restore of %s: %w: there are points from %s to %s", p.LSN, ErrNoPoint, v.First, v.Durable)
	}
	st, err := stateAt(ctx, v, p.LSN, o.Only)
	if err != nil {
		return nil, fmt.Errorf("plan restore of %s: %w", p.LSN, err)
	}
	if len(st.incomplete) > 0 && !o.AcceptIncomplete {
		e := &IncompleteError{At: p, Tables: st.incomplete}
		if e.Before, err = completeBefore(ctx, v, st, o.Only); err != nil {
			return nil, err
		}
		return nil, e
	}
	mode, err := chooseMode(st.schema, p, o)
	if err == nil && mode == synapse.Move {
		err = aliveElsewhere(v, o.Family, o.Damaged)
	}
	if err != nil {
		return nil, fmt.Errorf("plan restore of %s: %w", p.LSN, err)
	}
	plan := &Plan{
		Lineage: v.ID.String(), Point: p, Mode: mode, SchemaFrom: st.info.From, SchemaUntil: st.info.Until, Tables: st.tables,
		Incomplete: st.incomplete, Notes: st.notes, view: v, schema: st.schema, options: o, now: time.Now,
	}
	if len(o.Only) > 0 {
		plan.Notes = append(plan.Notes, fmt.Sprintf("only the rows of %s: every other table stays empty, foreign keys that refer to one are reported as failed, and sequences stand at their beginning",
			strings.Join(o.Only, ", ")))
	}
	for _, d := range o.Damaged {
		note := d.String()
		if mode == synapse.Rollback {
			note += "; if it is of this server, what it did since and which numbers it handed out is not known, and sequences pass by their margin what the others know"
		}
		plan.Notes = append(plan.Notes, note)
	}
	plan.measure()
	return plan, nil
}

// state is what the log knows of a position.
type state struct {
	info       history.SchemaInfo
	schema     *history.Schema
	tables     []TablePlan
	incomplete []Interval
	notes      []string
}

func stateAt(ctx context.Context, v *history.View, at record.LSN, only []string) (*state, error) {
	st := &state{}
	gaps, err := st.chooseSchema(ctx, v, at)
	if err != nil {
		return nil, err
	}
	for _, i := range append(gaps, v.Incompletes...) {
		if i.Table == 0 && i.Covers(at) {
			st.incomplete = append(st.incomplete, Interval{Table: "the whole database", Reason: i.Reason, From: i.From, Until: i.Until})
		}
	}
	chosen := map[string]bool{}
	for _, n := range only {
		chosen[n] = false
	}
	for _, t := range st.schema.Tables {
		name := t.Schema + "." + t.Name
		if _, ok := chosen[name]; len(only) > 0 && !ok {
			continue
		}
		chosen[name] = true
		if t.Kind != 'r' {
			continue
		}
		if err := st.addTable(ctx, v, at, t, gaps); err != nil {
			return nil, err
		}
	}
	st.addUnlisted(v, at, gaps, chosen, len(only) > 0)
	for n, seen := range chosen {
		if !seen {
			return nil, fmt.Errorf("%w: there is no table %s at %s", ErrNoPoint, n, at)
		}
	}
	slices.SortFunc(st.tables, func(a, b TablePlan) int { return cmp.Compare(b.Base.Bytes, a.Base.Bytes) })
	return st, nil
}

// chooseSchema takes the newest schema from at or before the position; inside a
// schema gap that is the older one, and gaps names the tables that changed.
func (st *state) chooseSchema(ctx context.Context, v *history.View, at record.LSN) (gaps []history.Incomplete, err error) {
	if len(v.Schemas) == 0 {
		return nil, fmt.Errorf("%w: the log holds no schema yet", ErrNoPoint)
	}
	i := len(v.Schemas) - 1
	for i > 0 && v.Schemas[i].From > at {
		i--
	}
	st.info = v.Schemas[i]
	switch {
	case at < st.info.From:
		gaps = append(gaps, history.Incomplete{Reason: "no schema is certain before " + st.info.From.String(), Until: st.info.From})
	case at > st.info.Until && i == len(v.Schemas)-1:
		st.notes = append(st.notes, fmt.Sprintf("the schema is certain up to %s; a change after it is not known yet", st.info.Until))
	}
	for _, g := range v.SchemaGaps() {
		if at > g.From && at < g.Until {
			changed, err := v.GapTables(ctx, g)
			if err != nil {
				return nil, fmt.Errorf("compare the schemas around %s: %w", at, err)
			}
			gaps = append(gaps, changed...)
		}
	}
	st.schema, err = v.Schema(ctx, st.info)
	return gaps, err
}

// addUnlisted names the tables that may have been there at the position and that
// the chosen schema does not list: they came in a schema gap, and what was seen of
// them later says that they are not exact here. They cannot be restored; never
// silently.
func (st *state) addUnlisted(v *history.View, at record.LSN, gaps []history.Incomplete, chosen map[string]bool, chosenOnly bool) {
	listed := map[uint32]bool{0: true}
	for _, t := range st.schema.Tables {
		listed[t.OID] = true
	}
	for _, list := range [][]history.Incomplete{gaps, v.Incompletes} {
		for _, i := range list {
			if _, ok := chosen[i.Name]; listed[i.Table] || !i.Covers(at) || chosenOnly && !ok {
				continue
			}
			listed[i.Table] = true
			st.incomplete = append(st.incomplete, Interval{Table: i.Name, Reason: i.Reason + " and it is not in the schema of this position", From: i.From, Until: i.Until})
		}
	}
	for _, i := range outlived(v, at) {
		if _, ok := chosen[i.Name]; listed[i.Table] || chosenOnly && !ok {
			continue
		}
		listed[i.Table] = true
		st.incomplete = append(st.incomplete, Interval{Table: i.Name, Reason: i.Reason, From: i.From, Until: i.Until})
	}
}

// outlived gives the tables that were copied before the position and are not known
// to be gone there. One that came and went while the schema was never quiet enough
// to be dumped is in no schema: what was dumped before and what stands after it can
// be the very same.
func outlived(v *history.View, at record.LSN) []history.Incomplete {
	known := map[uint32]*history.Incomplete{}
	for _, b := range v.Bases {
		if b.ExactFrom <= at && known[b.Table] == nil {
			known[b.Table] = &history.Incomplete{
				Table: b.Table, Name: b.Name, From: b.ExactFrom, Reason: "it is in no schema: it came and went while the schema changed",
			}
		}
	}
	for _, i := range v.Incompletes { // it came after this
		if k := known[i.Table]; k != nil {
			k.From = min(k.From, i.From)
		}
	}
	for _, d := range v.Dropped {
		switch k := known[d.Table]; {
		case k == nil:
		case d.At <= at:
			delete(known, d.Table)
		default:
			k.Until = d.At
		}
	}
	out := make([]history.Incomplete, 0, len(known))
	for _, oid := range slices.Sorted(maps.Keys(known)) {
		out = append(out, *known[oid])
	}
	return out
}

func (st *state) addTable(ctx context.Context, v *history.View, at record.LSN, t history.SchemaTable, gaps []history.Incomplete) error {
	p := TablePlan{Table: t.Schema + "." + t.Name, OID: t.OID}
	later := record.LSN(0)
	for _, b := range v.Bases {
		switch {
		case b.Table != t.OID:
		case b.ExactFrom > at:
			if later == 0 || b.ExactFrom < later {
				later = b.ExactFrom
			}
		case !p.HasBase || b.ExactFrom >= p.Base.ExactFrom:
			p.HasBase, p.Base = true, b
		}
	}
	if !t.Captured && !p.HasBase {
		st.notes = append(st.notes, fmt.Sprintf("table %s is not part of the backup and stays empty", p.Table))
		return nil
	}
	for _, list := range [][]history.Incomplete{v.Incompletes, gaps, disproved(v)} {
		for _, i := range list {
			if i.Table == t.OID && i.Covers(at) {
				p.Incomplete = i.Reason
				st.incomplete = append(st.incomplete, Interval{Table: p.Table, Reason: i.Reason, From: i.From, Until: i.Until})
			}
		}
	}
	if !p.HasBase && p.Incomplete == "" {
		p.Incomplete = "its first copy is later"
		from, err := lastWithout(ctx, v, t.OID, st.info)
		if err != nil {
			return err
		}
		st.incomplete = append(st.incomplete, Interval{Table: p.Table, Reason: p.Incomplete, From: from, Until: later})
	}
	st.tables = append(st.tables, p)
	return nil
}

// disproved gives the intervals in which a later copy contradicted the records: what
// they and the older base make of a table cannot be trusted there.
func disproved(v *history.View) []history.Incomplete {
	out := make([]history.Incomplete, 0, len(v.Mismatches))
	for _, m := range v.Mismatches {
		out = append(out, history.Incomplete{
			Table: m.Table, Name: m.Name, From: m.From, Until: m.Until,
			Reason: "a later copy did not have the digest that the records predict (" + m.Reason + ")",
		})
	}
	return out
}

// lastWithout gives the last position at which a table is known not to have
// existed, going back from a schema; 0: there is none.
func lastWithout(ctx context.Context, v *history.View, table uint32, from history.SchemaInfo) (record.LSN, error) {
	for i := len(v.Schemas) - 1; i >= 0; i-- {
		if v.Schemas[i].From >= from.From {
			continue
		}
		s, err := v.Schema(ctx, v.Schemas[i])
		if err != nil {
			return 0, fmt.Errorf("look for the schema without table %d: %w", table, err)
		}
		if !slices.ContainsFunc(s.Tables, func(t history.SchemaTable) bool { return t.OID == table }) {
			return v.Schemas[i].Until, nil
		}
	}
	return 0, nil
}

// completeBefore gives the last commit before a state's incomplete intervals at
// which every table is exact; the zero Point when there is none.
func completeBefore(ctx context.Context, v *history.View, st *state, only []string) (Point, error) {
	for range 1000 {
		at := st.incomplete[0].From
		for _, i := range st.incomplete {
			at = min(at, i.From)
		}
		if at < v.First || at == 0 {
			return Point{}, nil
		}
		p, err := pointAt(ctx, v, at)
		if err != nil {
			return Point{}, err
		}
		if st, err = stateAt(ctx, v, p.LSN, only); err != nil {
			return Point{}, err
		}
		if len(st.incomplete) == 0 {
			return p, nil
		}
	}
	return Point{}, nil
}

// rowRate and recordRate are what one processor of a small machine does; the plan
// says "about".
const (
	rowRate    = 40 << 20 // bytes of rows a second, loaded, indexed and read back
	recordRate = 250_000  // records a second, read twice
)

func (p *Plan) measure() {
	from := p.Point.LSN
	for _, t := range p.Tables {
		if t.HasBase {
			p.Rows += t.Base.Rows
			p.Bytes += t.Base.Bytes
			from = min(from, t.Base.RecordsFrom)
		}
	}
	for _, h := range p.view.Histories {
		if h.End > from && h.Start < p.Point.LSN {
			p.Records += h.Records
			p.RecordBytes += h.Bytes
		}
	}
	for _, s := range p.view.Segments {
		if s.End > from && s.Start < p.Point.LSN {
			p.Records += s.Records
			p.RecordBytes += s.Bytes
		}
	}
	seconds := 2 + float64(p.Bytes)/rowRate + float64(p.Records)/recordRate
	p.Expected = time.Duration(seconds * float64(time.Second)).Round(time.Second)
}
