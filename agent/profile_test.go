package agent

import (
	"slices"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// What the profile says of a table is in its base and in the records of the stream;
// one that comes later, or changes, makes nothing incomplete and no copy differ.
func TestProfileReachesTheLog(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE letters (id int PRIMARY KEY, v text)", "CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO letters VALUES (1, 'a')")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.db.Exec(t, "INSERT INTO letters VALUES (2, 'b')")
	before := b.mark("generic")
	stop()
	b.o.Source.Profile = func(schema, table string) (string, []string, bool) {
		if schema == "public" && table == "letters" {
			return "x.letters", []string{"id"}, true
		}
		return "", nil, false
	}
	stop = b.run()
	b.db.Exec(t, "INSERT INTO letters VALUES (3, 'c')", "INSERT INTO other VALUES (1)")
	after := b.mark("profile")
	v := b.view()
	seen := map[string]int{}
	err := v.Records(t.Context(), 0, after, func(uint32) bool { return true }, func(tx *record.Transaction, rel *record.Relation, _ *record.Record) error {
		want := rel.Name == "letters" && tx.End > before
		if have := rel.Item == "x.letters" && slices.Equal(rel.Subject, []string{"id"}) && rel.Secret; have != want {
			t.Errorf("%s at %s: item %q, subject %v, secret %t", rel.Name, tx.End, rel.Item, rel.Subject, rel.Secret)
		}
		seen[rel.Name]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen["letters"] != 2 || seen["other"] != 1 {
		t.Errorf("records: %v", seen)
	}
	if len(v.Incompletes) != 0 || len(v.Mismatches) != 0 {
		t.Errorf("incomplete %+v, mismatches %+v", v.Incompletes, v.Mismatches)
	}
	res, err := VerifyLive(t.Context(), b.repo, b.operator, b.o)
	if err != nil || slices.ContainsFunc(res, func(r LiveResult) bool { return !r.OK }) {
		t.Errorf("verify --live: %+v, %v", res, err)
	}
	stop()

	fresh := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE letters (id int PRIMARY KEY, v text)")
	fresh.o.Source.Profile = b.o.Source.Profile
	fresh.attach()
	stop = fresh.run()
	fresh.waitReady()
	if v = fresh.view(); len(v.Bases) != 1 {
		t.Fatalf("%d bases", len(v.Bases))
	}
	base, err := v.Base(t.Context(), v.Bases[0])
	if err != nil {
		t.Fatal(err)
	}
	if r := base.Relation; r.Item != "x.letters" || !slices.Equal(r.Subject, []string{"id"}) || !r.Secret {
		t.Errorf("base: %+v", r)
	}
	stop()
}
