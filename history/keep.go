package history

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"lifeboat.im/lifeboat/record"
)

// Keep is what retention keeps of each lineage, measured by the lineage's own newest
// commit and never by a clock.
type Keep struct {
	// EveryCommit: any commit of the last such span can be restored.
	EveryCommit time.Duration
	// Weekly and Monthly are for how many weeks and months back the first round of each
	// is kept, the newest commit's own included; 0: none.
	Weekly, Monthly int
}

// Retained is what [Retain] decides.
type Retained struct {
	// From: every commit from this position on is kept, so all that are not older than
	// Since. All is set when nothing may go, and says why.
	From  record.LSN
	Since record.Time
	All   string
	// Points are the older ones that are kept too, ascending.
	Points []KeptPoint
	// Why names the retained bases, histories, segments and schemas, each with the first
	// point that needs it.
	Why map[Position]string
}

// Retain says what of a lineage must stay: for the horizon and for each round, mark and
// pin the newest base of every table at or before it, all records from that base's
// records-from on up to the point, and the schema there; everything after the horizon;
// and under a legal hold everything. Segments that no history holds always stay.
//
// It is a pure function of the picture. It does not believe a base, schema or drop that
// claims to be older than the epoch in which it stands: what such a one would displace
// stays as well.
func Retain(v *View, k Keep) *Retained { return retain(v, k, faults{}) }

func retain(v *View, k Keep, f faults) *Retained {
	r := &retainer{v: v, out: &Retained{Why: map[Position]string{}}, floors: map[uint64]record.LSN{}, faults: f}
	for _, e := range v.Epochs {
		r.floors[e.Epoch] = e.Durable
	}
	for _, s := range v.Segments {
		r.keep(s.Position, "not merged")
		r.units = append(r.units, unitInfo{s.Position, s.Start, s.End, s.Last, s.Transactions})
	}
	for _, h := range v.Histories {
		r.units = append(r.units, unitInfo{h.Position, h.Start, h.End, h.Last, h.Transactions})
	}
	slices.SortFunc(r.units, func(a, b unitInfo) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	newest := v.newestCommit()
	switch {
	case !v.Ready || v.First == 0:
		r.out.All = "the first copies are not complete"
	case len(v.Holds) > 0:
		r.out.All = "legal hold " + v.Holds[0].Name
	case newest == 0:
		r.out.All = "there is no commit yet"
	}
	if r.out.All != "" {
		r.everything()
		return r.out
	}
	r.window(newest, k)
	if !r.faults.dropPoints {
		r.sparse(newest, k)
	}
	return r.out
}

// unitInfo is a segment or a history, as retention sees it.
type unitInfo struct {
	at         Position
	start, end record.LSN
	last       record.Time
	commits    uint64
}

type retainer struct {
	v      *View
	out    *Retained
	units  []unitInfo            // ascending by start
	floors map[uint64]record.LSN // what was durable where an epoch began
	faults faults
}

func (r *retainer) keep(at Position, why string) {
	if _, ok := r.out.Why[at]; !ok {
		r.out.Why[at] = why
	}
}

// newestCommit is the lineage's own clock: its newest commit time.
func (v *View) newestCommit() (t record.Time) {
	for _, h := range v.Histories {
		if h.Transactions > 0 {
			t = max(t, h.Last)
		}
	}
	for _, s := range v.Segments {
		if s.Transactions > 0 {
			t = max(t, s.Last)
		}
	}
	return t
}

func (r *retainer) everything() {
	r.out.From = r.v.First
	r.out.Points = append(r.out.Points, r.v.Points...)
	for _, u := range r.units {
		r.keep(u.at, r.out.All)
	}
	for _, b := range r.v.Bases {
		r.keep(b.Position, r.out.All)
	}
	for _, s := range r.v.Schemas {
		r.keep(s.Position, r.out.All)
	}
}

// window keeps every commit that is not older than the span. Its horizon is the start
// of the first stretch of the log that holds such a commit, so that all before it are
// older, however the clocks jumped.
func (r *retainer) window(newest record.Time, k Keep) {
	why := "window"
	r.out.Since = newest - record.Time(k.EveryCommit/time.Microsecond)
	r.out.From = r.v.Durable
	for _, u := range r.units {
		if u.commits > 0 && u.last >= r.out.Since {
			r.out.From = min(r.out.From, u.start)
			break
		}
	}
	r.out.From = max(r.out.From, r.v.First)
	from := r.point(r.out.From, math.MaxUint64, why)
	for _, b := range r.v.Bases {
		if b.ExactFrom > r.out.From || r.floors[b.Epoch] > r.out.From {
			r.keep(b.Position, why)
			from = min(from, b.RecordsFrom)
		}
	}
	for _, u := range r.units {
		if u.end > from {
			r.keep(u.at, why)
		}
	}
	for _, s := range r.v.Schemas {
		if s.From > r.out.From || r.floors[s.Epoch] > r.out.From {
			r.keep(s.Position, why)
		}
	}
}

// point keeps what a restore to a position needs, of the records those up to until.
// It gives the position from which records are kept.
func (r *retainer) point(at, until record.LSN, why string) record.LSN {
	floor := func(p Position) record.LSN { return r.floors[p.Epoch] }
	none := func(Position) record.LSN { return 0 }
	from := at
	// What a reader takes is decided by what the entries say; the second look is for
	// entries that say what cannot be.
	for _, least := range []func(Position) record.LSN{none, floor} {
		schema := -1
		for i, s := range r.v.Schemas {
			if l := max(s.From, least(s.Position)); l <= at || schema < 0 {
				schema = i
			}
		}
		certain := record.LSN(0)
		for i := schema; i >= 0 && i < min(schema+2, len(r.v.Schemas)); i++ {
			s := r.v.Schemas[i]
			r.keep(s.Position, why) // and the next: a gap may reach up to it
			if i == schema && s.From <= at {
				certain = max(s.From, floor(s.Position))
			}
		}
		chosen := map[uint32]BaseInfo{}
		for _, b := range r.v.Bases {
			lsn := max(b.ExactFrom, least(b.Position))
			o, ok := chosen[b.Table]
			if lsn <= at && (!ok || lsn >= max(o.ExactFrom, least(o.Position))) {
				chosen[b.Table] = b
			}
		}
		for _, t := range slices.Sorted(maps.Keys(chosen)) {
			b := chosen[t]
			gone := slices.ContainsFunc(r.v.Dropped, func(d Dropped) bool {
				return d.Table == t && b.ExactFrom <= d.At && d.At <= certain
			})
			if gone || r.faults.dropWindowBase && until == math.MaxUint64 {
				continue
			}
			r.keep(b.Position, why)
			from = min(from, b.RecordsFrom)
		}
	}
	last := -1 // where the last commit up to the point is, so that it can be named
	for i, u := range r.units {
		if u.end > from && u.start < min(until, at) {
			r.keep(u.at, why)
		}
		if u.commits > 0 && u.start < at {
			last = i
		}
	}
	if last >= 0 {
		r.keep(r.units[last].at, why)
	}
	return from
}

// sparse keeps the older points: marks and pins, and the first round of each of the
// last weeks and months, so that later ones cannot push it out.
func (r *retainer) sparse(newest record.Time, k Keep) {
	var points []KeptPoint
	for _, p := range []struct {
		list []Mark
		why  string
	}{{r.v.Marks, "mark"}, {r.v.Pins, "pin"}} {
		for _, m := range p.list {
			points = append(points, KeptPoint{Why: p.why, Name: m.Name, At: m.At, Time: m.Time})
		}
	}
	weeks, months := map[int64]bool{}, map[int64]bool{}
	for _, o := range r.v.Rounds {
		if n := Month(newest) - Month(o.Time); o.Kind == Monthly && n < int64(k.Monthly) && !months[Month(o.Time)] {
			months[Month(o.Time)] = true
			points = append(points, KeptPoint{Why: Monthly, At: o.Point, Time: o.Time})
		}
		if n := Week(newest) - Week(o.Time); n < int64(k.Weekly) && !weeks[Week(o.Time)] {
			weeks[Week(o.Time)] = true
			points = append(points, KeptPoint{Why: Weekly, At: o.Point, Time: o.Time})
		}
	}
	slices.SortStableFunc(points, func(a, b KeptPoint) int { return cmp.Compare(a.At, b.At) })
	for _, p := range points {
		switch {
		case p.At >= r.out.From || r.v.PrunedAt(p.At) || r.v.Pruned == 0 && p.At < r.v.First:
			continue // the window has it, or nothing has
		}
		why := p.Why
		if p.Name != "" {
			why += " " + p.Name
		}
		r.point(p.At, p.At, why)
		if n := len(r.out.Points); n > 0 && r.out.Points[n-1].At == p.At && r.out.Points[n-1].Why != "mark" && p.Why != "mark" {
			continue // two reasons for one point
		}
		r.out.Points = append(r.out.Points, p)
	}
}
