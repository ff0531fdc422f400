package cdc

import (
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestVacuumChangesNothing: fingerprints and a table's stay in the publication are
// known by the transactions that wrote their catalog rows, which freezing and rewriting
// those rows keep: routine maintenance copies nothing again.
func TestVacuumChangesNothing(t *testing.T) {
	for _, major := range []int{testpg.Oldest, testpg.Newest} {
		d := testpg.Shared(t, major).Database(t)
		d.Exec(t, "CREATE TABLE t (i int PRIMARY KEY, v text)")
		s := sourceOf(t, d, "")
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Enter(t.Context(), tableOf(t, s, "t")); err != nil {
			t.Fatal(err)
		}
		look := func() *Catalog {
			cat, err := s.Catalog(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return cat
		}
		before := look()
		was := before.Lookup("public", "t")
		if was.Member == "" {
			t.Fatalf("PostgreSQL %d: the table is not in the publication", major)
		}
		for _, how := range []string{"(FREEZE)", "(FULL)", "(FULL, FREEZE)"} {
			for _, table := range []string{"pg_publication", "pg_publication_rel", "pg_attribute", "pg_class"} {
				d.Exec(t, "VACUUM "+how+" pg_catalog."+table)
				now := look()
				is := now.Lookup("public", "t")
				if is.Member != was.Member || now.Members != before.Members {
					t.Errorf("PostgreSQL %d: VACUUM %s %s: member %q was %q", major, how, table, is.Member, was.Member)
				}
				if is.Fingerprint != was.Fingerprint || now.Fingerprint != before.Fingerprint {
					t.Errorf("PostgreSQL %d: VACUUM %s %s changed a fingerprint", major, how, table)
				}
			}
		}
	}
}
