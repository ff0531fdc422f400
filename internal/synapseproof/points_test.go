package synapseproof

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

// commits gives every transaction of the log after the first restore point.
func commits(t testing.TB, v *history.View) []record.Transaction {
	t.Helper()
	var all []record.Transaction
	err := v.Commits(t.Context(), v.First, v.Durable, false, func(c record.Transaction, _ []history.Touch) error {
		if c.End > v.First {
			all = append(all, c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// points takes n commits at random that are exact, in the order of the log, and
// says how many it tried for that: those that a named interval covers are refused.
func (l *lab) points(rng *rand.Rand, v *history.View, n int) (exact []*restore.Plan, tried int, refused []*restore.IncompleteError) {
	l.t.Helper()
	all := commits(l.t, v)
	for _, i := range rng.Perm(len(all)) {
		if len(exact) == n {
			break
		}
		tried++
		plan, err := restore.NewPlan(l.t.Context(), v, restore.Point{LSN: all[i].End, Commit: all[i]}, l.restoreOptions())
		var incomplete *restore.IncompleteError
		switch {
		case errors.As(err, &incomplete):
			refused = append(refused, incomplete)
		case err != nil:
			l.t.Fatalf("plan %s: %v", all[i].End, err)
		default:
			exact = append(exact, plan)
		}
	}
	slices.SortFunc(exact, func(a, b *restore.Plan) int { return cmp.Compare(a.Point.LSN, b.Point.LSN) })
	return exact, tried, refused
}

// prove restores each plan and holds every table that survives a crash against
// physical recovery to the same position. It gives the number of tables held.
func (l *lab) prove(oracle *testpg.Oracle, plans []*restore.Plan) (tables int) {
	l.t.Helper()
	ctx := l.t.Context()
	target := testpg.Shared(l.t, l.cluster.Major)
	v := l.view()
	for _, plan := range plans {
		at, to := plan.Point.LSN, target.Database(l.t)
		report, err := plan.Materialise(ctx, to.DSN, l.operator, nil)
		if err != nil {
			l.t.Errorf("restore %s: %v", at, err)
			continue
		}
		for _, r := range report.Tables {
			if r.Proof != restore.ProofCommit {
				l.t.Errorf("at %s table %s was held against the %s only", at, r.Table, r.Proof)
			}
		}
		physical := oracle.At(l.t, at)
		fleeting := l.fleeting(v, physical.DSN(l.db.Name), to)
		skip := func(schema, table string) bool { return schema == "lifeboat" || fleeting[schema+"."+table] }
		diff, err := testpg.Differences(ctx, physical.DSN(l.db.Name), to.DSN, skip)
		if errors.Is(err, testpg.ErrLocked) {
			physical = oracle.Promote(l.t)
			diff, err = testpg.Differences(ctx, physical.DSN(l.db.Name), to.DSN, skip)
		}
		if err != nil {
			l.t.Fatalf("compare %s: %v", at, err)
		}
		for _, d := range diff {
			l.t.Errorf("at %s recovery is the first, the restore the second: %s", at, d)
		}
		tables += len(report.Tables)
	}
	return tables
}

// fleeting gives the tables that recovery has, that the restore lacks, and that no
// look at the catalog ever met: Synapse made and dropped them between two looks,
// while it built the user directory anew. The log knows them by no number.
func (l *lab) fleeting(v *history.View, physical string, restored *testpg.Database) map[string]bool {
	l.t.Helper()
	const tables = "SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind = 'r' AND c.oid >= 16384"
	met := map[uint32]bool{}
	for _, b := range v.Bases {
		met[b.Table] = true
	}
	for _, i := range v.Incompletes {
		met[i.Table] = true
	}
	for _, d := range v.Dropped {
		met[d.Table] = true
	}
	have := map[string]bool{}
	for _, r := range restored.Query(l.t, tables) {
		have[r[1]] = true
	}
	out := map[string]bool{}
	conn := testpg.Connect(l.t, physical)
	rows, err := conn.Query(l.t.Context(), tables)
	if err != nil {
		l.t.Fatal(err)
	}
	for rows.Next() {
		var oid int64
		var name string
		if err := rows.Scan(&oid, &name); err != nil {
			l.t.Fatal(err)
		}
		if !met[uint32(oid)] && !have[name] {
			l.t.Logf("no look at the catalog met table %s", name)
			out[name] = true
		}
	}
	if err := rows.Err(); err != nil {
		l.t.Fatal(err)
	}
	return out
}
