package proof

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// commits gives every transaction of the log, after checking that each is there
// once and in order: nothing twice.
func commits(t testing.TB, v *history.View) []record.Transaction {
	t.Helper()
	var all []record.Transaction
	seen := map[record.XID]bool{}
	err := v.Commits(t.Context(), 0, v.Durable, false, func(c record.Transaction, _ []history.Touch) error {
		if n := len(all); n > 0 && (c.Commit < all[n-1].End || c.End <= all[n-1].End) {
			t.Errorf("transaction %d, (%s, %s], follows one that ends at %s", c.XID, c.Commit, c.End, all[n-1].End)
		}
		if seen[c.XID] {
			t.Errorf("transaction %d is in the log twice", c.XID)
		}
		seen[c.XID] = true
		all = append(all, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// point is one restore to try.
type point struct {
	target string
	want   record.LSN // the commit that it must find
}

// choose takes n random commits, by LSN, by transaction and by time in turn, in
// the order of the log. What a time means is computed here anew, from the list:
// the prefix before the first later commit.
func choose(rng *rand.Rand, v *history.View, all []record.Transaction, n int) []point {
	all = slices.Clone(all)
	all = slices.DeleteFunc(all, func(c record.Transaction) bool { return c.End <= v.First })
	var out []point
	for k, i := range rng.Perm(len(all))[:min(n, len(all))] {
		c := all[i]
		p := point{want: c.End}
		switch k % 3 {
		case 0:
			p.target = "lsn:" + c.End.String()
		case 1:
			p.target = fmt.Sprintf("xid:%d", c.XID)
		case 2:
			p.target = c.Time.Time().Format(time.RFC3339Nano)
			p.want = v.First // no commit before the first later one
			for _, o := range all {
				if o.Time > c.Time {
					break
				}
				p.want = o.End
			}
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b point) int { return cmp.Compare(a.want, b.want) })
	return out
}

// outcome counts what a list of points came to.
type outcome struct {
	exact, refused, tables int
	held                   []heldPoint // the exact ones
}

// heldPoint is a position whose tables were held against physical recovery.
type heldPoint struct {
	at     record.LSN
	tables map[string]string // digest of each
}

// readAt is which of the exact points the second reader reads as well, which takes seconds.
const readAt = 2

// prove restores each point into a database of its own, and holds every table
// against physical recovery to the same position. A point inside an incomplete
// interval must be refused; then it is restored by consent, and the other tables
// are held.
func (l *lab) prove(oracle *testpg.Oracle, points []point) outcome {
	l.t.Helper()
	v := l.view()
	target := testpg.Shared(l.t, l.cluster.Major)
	var sum outcome
	for _, p := range points {
		skip, exact := map[string]bool{}, true
		to := target.Database(l.t)
		plan := l.plan(v, p, &exact)
		report, err := plan.Materialise(l.t.Context(), to.DSN, l.operator, nil)
		if err != nil {
			l.t.Errorf("restore %s: %v", p.target, err)
			continue
		}
		if exact {
			sum.exact++
		} else {
			sum.refused++
			for _, i := range plan.Incomplete {
				skip[i.Table] = true
			}
		}
		at := oracle.At(l.t, p.want)
		left := func(schema, table string) bool { return skip[schema+"."+table] || schema == "lifeboat" }
		diff, err := testpg.Differences(l.t.Context(), at.DSN(l.db.Name), to.DSN, left)
		if errors.Is(err, testpg.ErrLocked) {
			at = oracle.Promote(l.t)
			diff, err = testpg.Differences(l.t.Context(), at.DSN(l.db.Name), to.DSN, left)
		}
		if err != nil {
			l.t.Fatalf("compare %s: %v", p.target, err)
		}
		for _, d := range diff {
			l.t.Errorf("at %s (%s), recovery is the first, the restore the second: %s", p.target, p.want, d)
		}
		read := map[string]string{}
		for _, r := range report.Tables {
			if r.Incomplete == "" {
				sum.tables++
				read[r.Table] = digest(r)
			}
		}
		if exact {
			sum.held = append(sum.held, heldPoint{p.want, read})
		}
		if exact && sum.exact == readAt {
			testpg.ReadStore(l.t, l.child.Repo, filepath.Join(l.dir, "operator.age"), v.ID.String(), p.want.String(), read)
		}
	}
	return sum
}

// digest is a table's, as the second reader prints it.
func digest(r restore.TableReport) string {
	return fmt.Sprintf("%d %d %d", r.Hash.Hi, r.Hash.Lo, r.Hash.Count)
}

func (l *lab) plan(v *history.View, p point, exact *bool) *restore.Plan {
	l.t.Helper()
	ctx := l.t.Context()
	target, err := restore.ParseTarget(p.target, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	at, err := target.Resolve(ctx, v)
	if err != nil {
		l.t.Fatal(err)
	}
	// A point may also be a later position up to which nothing more was committed.
	if at.LSN != p.want && at.Commit.End != p.want {
		l.t.Errorf("%s resolves to %s, want %s", p.target, at, p.want)
	}
	o := restore.Options{PgRestore: l.child.Source.PgBin, Workers: 2}
	plan, err := restore.NewPlan(ctx, v, at, o)
	var incomplete *restore.IncompleteError
	if errors.As(err, &incomplete) {
		*exact = false
		o.AcceptIncomplete = true
		plan, err = restore.NewPlan(ctx, v, at, o)
	}
	if err != nil {
		l.t.Fatalf("plan %s: %v", p.target, err)
	}
	return plan
}
