package agent

import (
	"context"
	"fmt"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
)

// Hours is a part of the day in local time, in minutes since midnight; To may be
// before From, past midnight. The zero value is the whole day.
type Hours struct{ From, To int }

// ParseHours reads for instance 01:00-05:30.
func ParseHours(s string) (Hours, error) {
	var h Hours
	var fh, fm, th, tm int
	n, err := fmt.Sscanf(s, "%d:%d-%d:%d", &fh, &fm, &th, &tm)
	h.From, h.To = fh*60+fm, th*60+tm
	if err != nil || n != 4 || h.String() != s || h.From >= 24*60 || h.To > 24*60 || fm > 59 || tm > 59 || h.From == h.To {
		return Hours{}, fmt.Errorf("want a part of the day such as 01:00-05:00, have %q", s)
	}
	return h, nil
}

// String gives the form that ParseHours reads, "any" for the whole day.
func (h Hours) String() string {
	if h == (Hours{}) {
		return "any"
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", h.From/60, h.From%60, h.To/60, h.To%60)
}

// Has reports whether t lies in it.
func (h Hours) Has(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	switch {
	case h == (Hours{}):
		return true
	case h.From < h.To:
		return h.From <= m && m < h.To
	}
	return m >= h.From || m < h.To
}

// Length is how long it is in a day.
func (h Hours) Length() time.Duration {
	m := h.To - h.From
	if m <= 0 {
		m += 24 * 60
	}
	return time.Duration(m) * time.Minute
}

// next is when it begins after t.
func (h Hours) next(t time.Time) time.Time {
	n := time.Date(t.Year(), t.Month(), t.Day(), h.From/60, h.From%60, 0, 0, t.Location())
	if !n.After(t) {
		n = n.AddDate(0, 0, 1)
	}
	return n
}

// rate is how fast a table of that size is copied anew, in bytes a second: as it was
// set, and faster where the copy would not end in half of CopyMax. 0: no bound.
func (t *Tuning) rate(size int64) int64 {
	if t.RefreshRate < 0 {
		return 0
	}
	return max(t.RefreshRate, int64(float64(size)/(t.CopyMax.Seconds()/2)))
}

// soon is the age of a copy from which it is made anew in the hours for that; past
// RefreshEvery it is at any hour.
func (t *Tuning) soon() time.Duration { return t.RefreshEvery - t.RefreshEvery/14 }

// refresh asks for a new copy of tables whose records have outgrown their base, and
// of every table once per window: this bounds restores and is the proof. It makes
// the rounds as well.
func (a *agent) refresh(ctx context.Context) error {
	tick := time.NewTicker(min(2*time.Second, max(a.o.Tuning.RefreshEvery/4, 100*time.Millisecond)))
	defer tick.Stop()
	r := &rounds{a: a}
	for {
		a.refreshDue()
		if err := r.step(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		signal(a.copier.due)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *agent) refreshDue() {
	c := a.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tables {
		switch {
		case t.wanted != "" || t.due != "" || t.proving || t.exactFrom == 0:
		case int64(t.recordBytes) > max(a.o.Tuning.RefreshMin, t.baseBytes/2) && t.again(a.now()):
			t.due = "its records outgrew its base"
		case a.now().Sub(t.copied) > a.o.Tuning.soon():
			t.due = "its proof is due"
		}
	}
}

// again reports whether a table that has outgrown its base may be copied now. One that
// is changed all the time is copied ever less often, down to once an hour: each copy is
// an entry that checkpoints carry.
func (t *table) again(now time.Time) bool {
	const least = 10 * time.Second
	since := now.Sub(t.copied)
	switch {
	case since < t.pause:
		return false
	case since < 4*t.pause+least:
		t.pause = min(2*t.pause+least, time.Hour)
	default:
		t.pause = 0
	}
	return true
}

// nextDue gives the table to copy anew now: of those that may be, the one whose copy
// is the oldest. why is what asks for it.
func (k *copier) nextDue() (next *cdc.Table, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cat == nil {
		return nil, ""
	}
	c, now, tuning := k.a.capture, k.a.now(), &k.a.o.Tuning
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest time.Time
	for i := range k.cat.Tables {
		ct := &k.cat.Tables[i]
		t := c.tables[ct.Relation.OID]
		if t == nil || t.due == "" || t.wanted != "" || !k.ready(t, ct, now) || next != nil && !t.copied.Before(oldest) {
			continue
		}
		if tuning.RefreshHours.Has(now) || now.Sub(t.copied) > tuning.RefreshEvery {
			next, why, oldest = ct, t.due, t.copied
		}
	}
	return next, why
}

// refreshOne copies the next table anew, slowly and alone.
func (k *copier) refreshOne(ctx context.Context) (again bool, err error) {
	ct, why := k.nextDue()
	if ct == nil {
		return false, nil
	}
	k.a.log.Debug("table is copied anew", "table", ct.Relation.String(), "reason", why)
	return true, k.one(ctx, ctx, *ct, cdc.CopyOptions{Workers: 1, Rate: k.a.o.Tuning.rate(ct.Bytes)})
}

// later is when a table is tried again whose copy took too long: in the hours for
// it, when there are such.
func (k *copier) later() time.Time {
	now, h := k.a.now(), k.a.o.Tuning.RefreshHours
	if h == (Hours{}) {
		return now.Add(time.Hour)
	}
	return h.next(now)
}

// refreshFinding says how tables are copied anew, and whether one pass over all of
// them fits into the window.
func refreshFinding(v *history.View, t *Tuning) Finding {
	var all, largest int64
	var slow string
	for _, b := range v.Proofs() {
		all += b.Bytes
		if b.Bytes > largest {
			largest, slow = b.Bytes, b.Name
		}
	}
	f := Finding{Name: "refresh", State: "ok", Why: fmt.Sprintf("every table is copied anew within %s, and when its records exceed half of its base; %d MiB of rows a pass",
		days(t.RefreshEvery), all>>20)}
	if t.RefreshHours != (Hours{}) {
		f.Why += ", at " + t.RefreshHours.String()
	}
	if t.RefreshRate < 0 {
		return f
	}
	took := func(n int64) time.Duration {
		return time.Duration(float64(n) / float64(t.RefreshRate) * float64(time.Second))
	}
	f.Why += fmt.Sprintf(", at %d MiB/s: %s", t.RefreshRate>>20, took(all).Round(time.Minute))
	room := time.Duration(float64(t.RefreshEvery) * float64(t.RefreshHours.Length()) / float64(24*time.Hour))
	switch {
	case took(all) > room:
		f.State, f.Mend = string(cdc.Warn), "raise refresh.rate or widen refresh.hours"
		f.Why += fmt.Sprintf(", which is longer than the %s that there are", room.Round(time.Minute))
	case took(largest) > t.CopyMax/2:
		f.Why += fmt.Sprintf("; %s is copied faster than that, to be done in half of refresh.copy_max (%s)", slow, t.CopyMax)
	}
	return f
}

// days is a duration in days where it is some.
func days(d time.Duration) string {
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}
