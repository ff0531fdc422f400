package history

import (
	"time"

	"lifeboat.im/lifeboat/record"
)

// The kinds of rounds. A monthly one is also the weekly one of its week.
const (
	Weekly  = "weekly"
	Monthly = "monthly"
)

// Round is a sparse point: every table was copied within a short span, and with
// those bases, the records of (From, Point] and the schema, the database can be
// restored exactly at Point, whatever else is gone.
type Round struct {
	Kind string `cbor:"1,keyasint"`
	// From is the least records-from of the newest bases up to Point, one of each table
	// that there was at it; Until the greatest exact-from.
	From  record.LSN `cbor:"2,keyasint"`
	Until record.LSN `cbor:"3,keyasint"`
	Point record.LSN `cbor:"4,keyasint"`
	// Time is the newest commit time up to Point: the lineage's own clock.
	Time record.Time `cbor:"5,keyasint"`
}

// Week counts weeks that begin on Monday, UTC.
func Week(t record.Time) int64 {
	const day = 24 * time.Hour
	return int64((t.Time().Sub(record.Time(0).Time()) + 5*day) / (7 * day)) // 2000-01-01 was a Saturday
}

// Month counts months, UTC.
func Month(t record.Time) int64 {
	u := t.Time().UTC()
	return int64(u.Year())*12 + int64(u.Month())
}
