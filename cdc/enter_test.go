package cdc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

func itoa(v uint64) string { return strconv.FormatUint(v, 10) }

// identityCase is one row of the matrix of protocol §5.
type identityCase struct {
	name    string // of the table
	sql     string // makes it; %s is its name
	from    int    // least server version
	why     string // part of Why: minimal; "": full
	reason  string // part of Reason: not capturable
	replace byte   // relreplident after Enter
	key     string // columns of the key
	// write are what the application does before and after; none may fail.
	write []string
}

func identityCases() []identityCase {
	upsert := "INSERT INTO %s (id, v) VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = excluded.v"
	writes := []string{"INSERT INTO %s (id, v) VALUES (1, 'x')", "UPDATE %s SET v = 'y'", "DELETE FROM %s"}
	keyed := []string{writes[0], upsert, writes[1], writes[2]}
	return []identityCase{
		{name: "plain", sql: "CREATE TABLE %s (id int PRIMARY KEY, v text)", replace: 'f', key: "id", write: keyed},
		{name: "bag", sql: "CREATE TABLE %s (id int, v text)", replace: 'f', write: writes},
		{name: "deferred", sql: "CREATE TABLE %s (id int PRIMARY KEY DEFERRABLE, v text)", replace: 'f', write: writes},
		{name: "nothing", sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text); ALTER TABLE %[1]s REPLICA IDENTITY NOTHING", replace: 'f', key: "id", write: keyed},
		{name: "second", sql: "CREATE TABLE %[1]s (v text, id int NOT NULL, n int UNIQUE); CREATE UNIQUE INDEX ON %[1]s (id)", replace: 'f', key: "id", write: keyed},
		{name: "include", sql: "CREATE TABLE %[1]s (v text NOT NULL, id int NOT NULL); CREATE UNIQUE INDEX ON %[1]s (id) INCLUDE (v)", replace: 'f', key: "id", write: keyed},
		{name: "partial", sql: "CREATE TABLE %[1]s (id int NOT NULL, v text); CREATE UNIQUE INDEX ON %[1]s (id) WHERE id > 0", replace: 'f', write: writes},
		{name: "expression", sql: "CREATE TABLE %[1]s (id int NOT NULL, v text); CREATE UNIQUE INDEX ON %[1]s ((id + 1))", replace: 'f', write: writes},
		{name: "nullable", sql: "CREATE TABLE %s (id int UNIQUE, v text)", replace: 'f', write: keyed},
		{name: "zero", sql: "CREATE TABLE %s ()", replace: 'f', write: []string{"INSERT INTO %s DEFAULT VALUES", "DELETE FROM %s"}},
		{
			name: "composite", sql: "CREATE TABLE %s (v text, id int, k int, PRIMARY KEY (k, id))", replace: 'f', key: "k,id",
			write: []string{"INSERT INTO %s (id, v, k) VALUES (1, 'x', 2)", "UPDATE %s SET v = 'y'", "DELETE FROM %s"},
		},
		{name: "stored", sql: "CREATE TABLE %s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id * 2) STORED)", replace: 'f', key: "id", write: keyed},
		{name: "wide", sql: "CREATE TABLE %s (id int PRIMARY KEY, v text)", why: "too large", replace: 'd', key: "id", write: keyed},
		{name: "virtual", from: 18, sql: "CREATE TABLE %s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id * 2) VIRTUAL)", why: "virtual", replace: 'd', key: "id", write: keyed},
		{name: "virtual_index", from: 18, sql: "CREATE TABLE %s (id int NOT NULL UNIQUE, v text, g int GENERATED ALWAYS AS (id * 2) VIRTUAL)", why: "virtual", replace: 'i', key: "id", write: keyed},
		{
			name: "virtual_other", from: 18, sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text, u uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), g int GENERATED ALWAYS AS (id * 2) VIRTUAL); ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX %[1]s_u_key",
			why: "virtual", replace: 'i', key: "u", write: keyed,
		},
		{
			name: "virtual_full", from: 18, sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id * 2) VIRTUAL); ALTER TABLE %[1]s REPLICA IDENTITY FULL",
			why: "virtual", replace: 'd', key: "id", write: keyed,
		},
		{name: "virtual_bag", from: 18, sql: "CREATE TABLE %s (id int, v text, g int GENERATED ALWAYS AS (id * 2) VIRTUAL)", why: "virtual", reason: "no key", write: writes},
		{
			name: "not_valid", from: 18, sql: "CREATE TABLE %[1]s (id int UNIQUE, v text); INSERT INTO %[1]s VALUES (NULL, 'n'), (NULL, 'n'); ALTER TABLE %[1]s ADD CONSTRAINT nn NOT NULL id NOT VALID", replace: 'f',
			write: []string{writes[0], "UPDATE %s SET v = 'y' WHERE id = 1", "DELETE FROM %s WHERE id = 1"},
		},
		{name: "listed", sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text); CREATE PUBLICATION p_listed FOR TABLE %[1]s (id)", why: "column list", replace: 'd', key: "id", write: keyed},
		{
			name: "listed_index", sql: "CREATE TABLE %[1]s (a int NOT NULL UNIQUE, id int NOT NULL UNIQUE, v text); ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX %[1]s_id_key; CREATE PUBLICATION p_listed2 FOR TABLE %[1]s (id)",
			why: "column list", replace: 'i', key: "id", write: []string{"INSERT INTO %s VALUES (1, 1, 'x')", "UPDATE %s SET v = 'y'", "DELETE FROM %s"},
		},
		{name: "listed_insert", sql: "CREATE TABLE %[1]s (id int, v text); CREATE PUBLICATION p_listed3 FOR TABLE %[1]s (id) WITH (publish = 'insert')", why: "column list", reason: "no key", write: writes},
		{name: "filtered", sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text); CREATE PUBLICATION p_filtered FOR TABLE %[1]s WHERE (id > 0)", why: "row filter", replace: 'd', key: "id", write: keyed},
		{
			name: "gencols", from: 18, sql: "CREATE TABLE %[1]s (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id * 2) STORED); CREATE PUBLICATION p_gencols FOR TABLE %[1]s",
			why: "leaves out", replace: 'd', key: "id", write: keyed,
		},
		{name: "unlogged", sql: "CREATE UNLOGGED TABLE %s (id int PRIMARY KEY, v text)", reason: "unlogged", key: "id", write: keyed},
		{name: "leaf", sql: "CREATE TABLE %[1]s_root (id int, v text) PARTITION BY LIST (id); CREATE TABLE %[1]s PARTITION OF %[1]s_root FOR VALUES IN (1)", replace: 'f', write: writes},
		{
			name: "leaf_listed", sql: "CREATE TABLE %[1]s_root (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE %[1]s PARTITION OF %[1]s_root FOR VALUES IN (1); CREATE PUBLICATION p_leaf FOR TABLE %[1]s_root (id) WITH (publish_via_partition_root)",
			why: "column list", replace: 'd', key: "id", write: keyed,
		},
		{name: "child", sql: "CREATE TABLE %[1]s_parent (id int, v text); CREATE TABLE %[1]s (PRIMARY KEY (id)) INHERITS (%[1]s_parent)", replace: 'f', key: "id", write: keyed},
	}
}

func TestC5_IdentityMatrix(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		s := sourceOf(t, d, "")
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, x := range identityCases() {
			if x.from <= c.Major {
				t.Run(x.name, func(t *testing.T) { x.run(t, d, s) })
			}
		}
	})
}

func (x *identityCase) run(t *testing.T, d *testpg.Database, s *Source) {
	d.Exec(t, fmt.Sprintf(x.sql, x.name))
	write := func(when string) {
		for _, sql := range x.write {
			if _, err := d.Try(t, fmt.Sprintf(sql, x.name)); err != nil {
				t.Fatalf("%s: %s: %v", when, sql, err)
			}
		}
	}
	write("before")
	tab := tableOf(t, s, x.name)
	if (tab.Wanted == record.Minimal) != (x.why != "") || !strings.Contains(tab.Why, x.why) {
		t.Errorf("wanted %c because %q, expected because %q", tab.Wanted, tab.Why, x.why)
	}
	if key := keyNames(&tab.Relation); key != x.key {
		t.Errorf("key %q, want %q", key, x.key)
	}
	if tab.Capturable == (x.reason != "") || !strings.Contains(tab.Reason, x.reason) {
		t.Fatalf("capturable %t because %q, want %q", tab.Capturable, tab.Reason, x.reason)
	}
	err := s.Enter(t.Context(), tab)
	if x.reason != "" {
		if !errors.Is(err, ErrNotCapturable) {
			t.Errorf("Enter: %v", err)
		}
		write("after")
		return
	}
	if err != nil {
		t.Fatalf("Enter: %v\n%s", err, s.EnterSQL(tab))
	}
	write("after")
	now := tableOf(t, s, x.name)
	if now.Replident != x.replace || !now.Settled || !now.InPublication || now.Fingerprint != tab.Fingerprint {
		t.Errorf("entered as %+v", now)
	}
	if err := s.Enter(t.Context(), tab); err != nil && !errors.Is(err, ErrChanged) {
		t.Errorf("Enter again: %v", err)
	}
	if err := s.Leave(t.Context(), now); err != nil {
		t.Errorf("Leave: %v", err)
	}
	if err := s.Leave(t.Context(), now); err != nil {
		t.Errorf("Leave again: %v", err)
	}
	if tab.Replident != now.Replident || tab.ReplidentIndex != now.ReplidentIndex {
		if err := s.RestoreIdentity(t.Context(), "public", x.name, tab.Replident, tab.ReplidentIndex); err != nil {
			t.Errorf("RestoreIdentity: %v", err)
		}
	}
	if back := tableOf(t, s, x.name); back.Replident != tab.Replident || back.InPublication {
		t.Errorf("left as %+v", back)
	}
}

func keyNames(r *record.Relation) string {
	var out []string
	for _, k := range r.Key {
		out = append(out, r.Columns[k].Name)
	}
	return strings.Join(out, ",")
}

func TestRestoreIdentityWithoutItsIndex(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	d.Exec(t, "CREATE TABLE t (id int NOT NULL)", "CREATE UNIQUE INDEX x ON t (id)", "ALTER TABLE t REPLICA IDENTITY FULL", "DROP INDEX x")
	s := sourceOf(t, d, "")
	if err := s.RestoreIdentity(t.Context(), "public", "t", 'i', "x"); err != nil {
		t.Fatal(err)
	}
	if x := tableOf(t, s, "t"); x.Replident != 'd' {
		t.Errorf("identity %c", x.Replident)
	}
	if err := s.RestoreIdentity(t.Context(), "public", "gone", 'd', ""); err != nil {
		t.Error(err)
	}
}
