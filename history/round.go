package history

import "lifeboat.im/lifeboat/record"

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
