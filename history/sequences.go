package history

import (
	"cmp"
	"context"
	"slices"

	"lifeboat.im/lifeboat/record"
)

// sampled is a stretch of the log whose body holds samples of sequences.
type sampled struct {
	start, end record.LSN
	samples    func(ctx context.Context) ([]record.Sequence, error) // read once
}

// sampled lists the stretches, ascending.
func (v *View) sampled() []sampled {
	out := make([]sampled, 0, len(v.Histories)+len(v.Segments))
	for _, h := range v.Histories {
		out = append(out, sampled{h.Start, h.End, func(ctx context.Context) ([]record.Sequence, error) {
			b, err := v.history(ctx, h)
			if err != nil {
				return nil, err
			}
			return b.Sequences, nil
		}})
	}
	for _, s := range v.Segments {
		out = append(out, sampled{s.Start, s.End, func(ctx context.Context) ([]record.Sequence, error) {
			b, err := v.Segment(ctx, s)
			if err != nil {
				return nil, err
			}
			return b.Sequences, nil
		}})
	}
	slices.SortStableFunc(out, func(a, b sampled) int { return cmp.Compare(a.start, b.start) })
	for i := range out {
		read, done := out[i].samples, false
		out[i].samples = func(ctx context.Context) ([]record.Sequence, error) {
			if done {
				return nil, nil
			}
			done = true
			return read(ctx)
		}
	}
	return out
}

// SequencesAt gives, by OID, for each sequence that the schema at an LSN or the newest
// one lists: the first sample at or after the LSN, and the newest of all, which is
// certain only where there is no sample after. It reads no more bodies than it takes:
// an agent samples every sequence at the first flush of each epoch, and with each
// schema.
func (v *View) SequencesAt(ctx context.Context, at record.LSN) (after, newest map[uint32]record.Sequence, err error) {
	after, newest = map[uint32]record.Sequence{}, map[uint32]record.Sequence{}
	take := func(list []record.Sequence) {
		for _, q := range list {
			if o, ok := newest[q.OID]; !ok || q.At >= o.At {
				newest[q.OID] = q
			}
			if o, ok := after[q.OID]; q.At >= at && (!ok || q.At < o.At) {
				after[q.OID] = q
			}
		}
	}
	wanted := map[uint32]bool{}
	for i, s := range v.Schemas {
		b, err := v.Schema(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		take(b.Sequences)
		if i == len(v.Schemas)-1 || v.Schemas[i+1].From > at {
			for _, q := range b.Sequences {
				wanted[q.OID] = true
			}
		}
	}
	units := v.sampled()
	first, _ := slices.BinarySearchFunc(units, at, func(u sampled, at record.LSN) int { return cmp.Compare(u.end, at) })
	for _, u := range units[first:] {
		// A sample of a stretch is of a moment after its start.
		if !missing(wanted, func(q uint32) bool { s, ok := after[q]; return ok && s.At <= u.start }) {
			break
		}
		list, err := u.samples(ctx)
		if err != nil {
			return nil, nil, err
		}
		take(list)
	}
	// Without a sample after, what lies before decides, the newest first. Samples of a
	// later stretch were taken later; those of a schema need not have been.
	seen := map[uint32]bool{}
	for _, u := range slices.Backward(units[:first]) {
		if !missing(wanted, func(q uint32) bool {
			_, ok := after[q]
			return ok || seen[q]
		}) {
			break
		}
		list, err := u.samples(ctx)
		if err != nil {
			return nil, nil, err
		}
		take(list)
		for _, q := range list {
			seen[q.OID] = true
		}
	}
	return after, newest, nil
}

// SequencesBy gives, of the sequences with these OIDs, the newest sample that was taken by
// the flush that holds at: every value that was handed out before is covered, because a
// flush samples what changed, after its last commit. Unlike that of [View.SequencesAt] the
// answer stays the same whatever comes after. Sequences without a sample are left out.
func (v *View) SequencesBy(ctx context.Context, at record.LSN, oids []uint32) (map[uint32]record.Sequence, error) {
	wanted, by := map[uint32]bool{}, map[uint32]record.Sequence{}
	for _, q := range oids {
		wanted[q] = true
	}
	take := func(list []record.Sequence) (done bool) { // the newest list first
		for _, q := range list {
			if _, ok := by[q.OID]; !ok {
				by[q.OID] = q
			}
		}
		return !missing(wanted, func(q uint32) bool { _, ok := by[q]; return ok })
	}
	for _, s := range slices.Backward(v.Segments) {
		if s.Start >= at {
			continue
		}
		b, err := v.Segment(ctx, s)
		if err != nil {
			return nil, err
		}
		if take(b.Sequences) {
			return by, nil
		}
	}
	for _, h := range slices.Backward(v.Histories) {
		if h.Start >= at {
			continue
		}
		b, err := v.history(ctx, h)
		if err != nil {
			return nil, err
		}
		end := len(b.Sequences)
		for _, s := range slices.Backward(b.Segments) {
			begin := end - int(s.Sequences)
			if s.Start < at {
				take(b.Sequences[begin:end])
			}
			end = begin
		}
		if take(nil) {
			break
		}
	}
	return by, nil
}

// missing reports whether one of the sequences is not found.
func missing(wanted map[uint32]bool, found func(uint32) bool) bool {
	for q := range wanted {
		if !found(q) {
			return true
		}
	}
	return false
}

// Samples gives every sample of a sequence that the log holds, in no order.
func (v *View) Samples(ctx context.Context, f func(record.Sequence)) error {
	each := func(list []record.Sequence) {
		for _, q := range list {
			f(q)
		}
	}
	for _, s := range v.Schemas {
		b, err := v.Schema(ctx, s)
		if err != nil {
			return err
		}
		each(b.Sequences)
	}
	for _, h := range v.Histories {
		b, err := v.history(ctx, h)
		if err != nil {
			return err
		}
		each(b.Sequences)
	}
	for _, s := range v.Segments {
		b, err := v.Segment(ctx, s)
		if err != nil {
			return err
		}
		each(b.Sequences)
	}
	return nil
}
