package history

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// bodies counts the entries that are read.
type bodies struct {
	*counting
	entries int
}

func (b *bodies) Get(ctx context.Context, key string) ([]byte, error) {
	b.entries++
	return b.counting.Get(ctx, key)
}

// TestSequencesAt: at any position a sequence gets a value that none before the position
// was above, the newest one where nothing was sampled later, and the newest epoch's
// first samples spare the reader what is older.
func TestSequencesAt(t *testing.T) {
	ctx, w := t.Context(), newWritten(t)
	seed := testpg.Seed(t)
	r := rand.New(rand.NewPCG(seed, 1))
	last := int64(100)
	type sample struct {
		at   record.LSN
		last int64
	}
	var all []sample
	w.schema(t, 9)
	var taken record.LSN
	by := map[record.LSN]int64{} // what a flush's last commit has when it is the newest
	for epoch := range 6 {
		for i := range 8 {
			s, _ := segmentOf(w.w.View().Durable, []row{ins(100, "9\tx")})
			if i == 0 || r.IntN(3) == 0 {
				last += r.Int64N(5)
				// It is taken after the segment's last commit, maybe far behind it.
				taken = max(taken, s.End+record.LSN(r.IntN(300)))
				s.Sequences = []record.Sequence{{OID: 7, Schema: "public", Name: "s", Last: last, Called: true, At: taken}}
				all = append(all, sample{taken, last})
			}
			must(t, w.w.Segment(ctx, s, SegmentMeta{SchemaCertain: s.End}))
			v := w.w.View()
			got, err := v.SequencesBy(ctx, s.End, []uint32{7})
			must(t, err)
			if by[s.End] = last; got[7].Last != last {
				t.Errorf("by %s, the newest: %+v, want %d", s.End, got, last)
			}
		}
		if epoch < 5 {
			must(t, w.w.Rotate(ctx, Opening{Durable: w.w.View().Durable}))
			if epoch < 4 {
				must(t, w.w.Merge(ctx, w.w.View().Head.Epoch-1))
			}
		}
	}
	c := &bodies{counting: &counting{Backend: w.mem, bytes: map[string]int{}}}
	repo, err := Open(ctx, c)
	must(t, err)
	v, err := quick(repo.Log(w.secrets, w.id, nil)).Load(ctx)
	must(t, err)
	for at := v.Schemas[len(v.Schemas)-1].From; at <= v.Durable; at += 50 {
		after, newest, err := v.SequencesAt(ctx, at)
		must(t, err)
		i := slices.IndexFunc(all, func(s sample) bool { return s.at > at })
		if i < 0 {
			i = len(all)
		}
		least := int64(9) // the schema's
		if i > 0 {
			least = all[i-1].last
		}
		got, ok := after[7]
		if !ok {
			got = newest[7]
		}
		if got.Last < least || !ok && got.Last != last || ok && got.At < at {
			t.Errorf("at %s: %+v (after: %t), want at least %d", at, got, ok, least)
		}
	}
	for end, want := range by {
		if got, err := v.SequencesBy(ctx, end, []uint32{7}); err != nil || got[7].Last != want {
			t.Errorf("by %s, later: %+v, %v, want still %d", end, got, err, want)
		}
	}
	c.entries = 0
	_, _, err = v.SequencesAt(ctx, v.Durable)
	must(t, err)
	if most := len(v.Schemas) + 8; c.entries > most {
		t.Errorf("%d entries were read for the newest position, want at most %d", c.entries, most)
	}
}
