package restore

import (
	"context"
	"errors"
	"fmt"
	"math"

	"lifeboat.im/lifeboat/record"
)

// recordScan reads the records of the wanted tables up to the point, in commit
// order; two scans give the same records in the same order.
type recordScan func(ctx context.Context, want func(table uint32) bool,
	f func(t *record.Transaction, rel *record.Relation, r *record.Record) error) error

// job is one table on its way through the rounds.
type job struct {
	*merge
	table  uint32
	digest record.Digest    // of the base
	shape  *record.Relation // of the base; nil: there is no base
	lone   bool             // it has no limit of memory, because its rows cannot be split
}

// gather is pass 1: it notes the records of the pending tables and gives those
// that fit the memory; the others wait for a later round. At least one fits.
func gather(ctx context.Context, scan recordScan, pending []*job) (group map[uint32]*job, later []*job, err error) {
	group = make(map[uint32]*job, len(pending))
	for _, j := range pending {
		group[j.table] = j
		j.begin(j.digest, j.shape)
	}
	postpone := func(j *job) {
		delete(group, j.table)
		j.clear()
		later = append(later, j)
	}
	err = scan(ctx, func(t uint32) bool { return group[t] != nil },
		func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
			j := group[rel.OID]
			if j == nil || !j.wants(t) {
				return nil
			}
			for {
				err := j.note(ctx, rel, r)
				switch {
				case err == nil:
					if j.crossing && j.bits > 0 {
						j.unlimit()
						postpone(j)
					}
					return nil
				case errors.Is(err, errAsBag):
					j.bag, j.bits, j.part = true, 0, 0
					postpone(j)
					return nil
				case !errors.Is(err, errBudget):
					return err
				}
				if victim := largest(group); len(group) > 1 {
					postpone(victim)
					if victim == j {
						return nil
					}
				} else if err := j.split(); err != nil {
					return err
				}
			}
		})
	if err != nil {
		return nil, nil, err
	}
	if len(group) == 0 && len(later) > 0 {
		return gather(ctx, scan, later)
	}
	return group, later, nil
}

func largest(group map[uint32]*job) *job {
	var out *job
	for _, j := range group {
		if out == nil || len(j.slots) > len(out.slots) || (len(j.slots) == len(out.slots) && j.table > out.table) {
			out = j
		}
	}
	return out
}

// split halves the range of keys that this round does.
func (j *job) split() error {
	switch {
	case j.crossing:
		j.unlimit()
		return nil
	case j.bits == 40:
		return fmt.Errorf("table %s: the memory budget is too small for a restore", j.name)
	}
	j.bits, j.part = j.bits+1, j.part*2
	if len(j.slots) == 0 {
		return nil
	}
	return j.resize(len(j.slots), j.bits, j.part)
}

// unlimit lifts the limit of a table whose unknown values move between keys: the
// ranges of its keys depend on one another. Such tables are few (minimal
// identity, large values, changing keys).
func (j *job) unlimit() {
	own := &memory{limit: math.MaxInt64, used: int64(len(j.slots)) * slotSize}
	j.mem.used -= own.used
	j.mem, j.bits, j.part, j.lone = own, 0, 0, true
}

// next moves on to the table's next range of keys; false when all are done.
func (j *job) next() bool {
	j.clear()
	j.part++
	return j.part < 1<<j.bits
}
