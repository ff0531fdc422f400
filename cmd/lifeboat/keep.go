package main

import (
	"fmt"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
)

// keepFinding says what retention costs in reading at the source and in stored bytes,
// from what the log holds by now.
func keepFinding(c *config, v *history.View) agent.Finding {
	f := agent.Finding{Name: "keep", State: "ok"}
	k := c.Keep
	if k == (history.Keep{}) {
		f.Why = "everything: nothing is ever removed, and the repository grows (docs/operations.md, Retention and prune)"
		return f
	}
	var rows int64
	for _, b := range v.Proofs() {
		rows += b.Bytes
	}
	const month = 30 * 24 * time.Hour
	copies := float64(month) / float64(c.Tuning.RefreshEvery)
	switch {
	case k.Weekly > 0:
		copies = max(copies, 30./7)
	case k.Monthly > 0:
		copies = max(copies, 1)
	}
	span := k.EveryCommit + c.Tuning.RefreshEvery
	f.Why = fmt.Sprintf("any commit of %s, %d weekly and %d monthly points: it reads about %s of rows a month (every table %.1f times), and stores of the copies what changed between them, of %d copies at most %s before compression",
		formatDuration(k.EveryCommit), k.Weekly, k.Monthly, mib(int64(copies*float64(rows))), copies,
		k.Weekly+k.Monthly+2, mib(rows*int64(k.Weekly+k.Monthly+2)))
	if daily, ok := dailyRecords(v); ok {
		f.Why += fmt.Sprintf("; records of up to %s stay, about %s at %s a day", formatDuration(span), mib(int64(span.Hours()/24*float64(daily))), mib(daily))
	}
	return f
}

// dailyRecords is how many bytes of records a day brought, over what is merged.
func dailyRecords(v *history.View) (int64, bool) {
	var bytes int64
	var first, last record.Time
	for _, h := range v.Histories {
		if h.Transactions == 0 {
			continue
		}
		if first == 0 || h.First < first {
			first = h.First
		}
		last = max(last, h.Last)
		bytes += h.Bytes
	}
	took := last.Time().Sub(first.Time())
	if first == 0 || took < time.Hour {
		return 0, false
	}
	return int64(float64(bytes) / took.Hours() * 24), true
}
