package archive

import (
	"sync"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
)

// report counts what is not carried, or not whole. It is safe for concurrent use.
type report struct {
	mu sync.Mutex
	by map[mspf.Loss]int64 // without a count
}

func newReport() *report { return &report{by: map[mspf.Loss]int64{}} }

func (r *report) add(n int64, l mspf.Loss) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by[l] += n
}

func (r *report) losses() []mspf.Loss {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []mspf.Loss
	for l, n := range r.by {
		l.Count = n
		all = append(all, l)
	}
	return all
}

// notCarried counts the rows of what this archive has no item for: items that are not
// written, tables that Synapse uses for itself, and tables that nobody knows. Whatever
// it is, im.lifeboat.synapse has the rows.
func (b *builder) notCarried() error {
	for _, t := range synapse.Tables() {
		carried := carriedItems[t.Item]
		if b.read[t.Name] || t.Item == "" && len(t.From) > 0 {
			continue
		}
		n := int64(0)
		for _, err := range b.rows(t.Name) {
			if err != nil {
				return err
			}
			n++
		}
		switch {
		case t.Item == "":
			b.report.add(n, mspf.Loss{Key: t.Name, Code: "left_out", State: mspf.Absent, Reason: "no part of an archive: " + t.Reason})
		case carried:
			b.report.add(n, mspf.Loss{Item: t.Item, Key: t.Name, Code: "table_not_carried", State: mspf.Unsupported, Reason: "the item has no place for the rows of this table"})
		default:
			b.report.add(n, mspf.Loss{Item: t.Item, Key: t.Name, Code: "item_not_written", State: mspf.Unsupported, Reason: "this item is not written yet"})
		}
	}
	return nil
}

// carriedItems are the items that are written.
var carriedItems = map[string]bool{
	"m.core": true, "m.rooms": true, "m.events": true, "m.users": true, "m.e2e.keys": true, "m.e2e.to_device": true,
	mspf.Prefix + "server": true, mspf.Prefix + "rooms": true, mspf.Prefix + "room_state": true, mspf.Prefix + "invites": true,
	mspf.Prefix + "event_meta": true, mspf.Prefix + "users": true,
}
