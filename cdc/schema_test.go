package cdc

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

func dumpOptions(t testing.TB) DumpOptions {
	t.Helper()
	return DumpOptions{Bin: filepath.Dir(testpg.Bin(t, testpg.Newest, "pg_dump"))}
}

func TestDumpSchema(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		d.Exec(t, shapes...)
		d.Exec(t, "CREATE VIEW v AS SELECT a FROM bags", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
		s := sourceOf(t, d, "")
		s.cfg.Quiet = 50 * time.Millisecond
		o := dumpOptions(t)
		if _, err := s.DumpSchema(t.Context(), o); !errors.Is(err, ErrBusy) {
			t.Errorf("at the first look: %v", err)
		}
		var got *Dump
		testpg.WaitFor(t, 2*time.Minute, "a quiet schema", func() bool {
			var err error
			got, err = s.DumpSchema(t.Context(), o)
			if err != nil && !errors.Is(err, ErrBusy) {
				t.Fatal(err)
			}
			return err == nil
		})
		if !bytes.HasPrefix(got.Custom, []byte("PGDMP")) || !bytes.Contains(got.Plain, []byte("CREATE TABLE public.bags")) || !bytes.Contains(got.Plain, []byte("CREATE VIEW public.v")) {
			t.Errorf("dumped %d and %d bytes: %.300s", len(got.Custom), len(got.Plain), got.Plain)
		}
		if got.Catalog.Fingerprint != catalogOf(t, s).Fingerprint || len(got.Catalog.Tables) != 14 || got.Catalog.Before > got.Catalog.After || got.Catalog.Before == 0 {
			t.Errorf("catalog of the dump: %d tables", len(got.Catalog.Tables))
		}
		d.Exec(t, "BEGIN", "LOCK TABLE bags IN ACCESS EXCLUSIVE MODE")
		if _, err := s.DumpSchema(t.Context(), o); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "public.bags") {
			t.Errorf("with a locked table: %v", err)
		}
		d.Exec(t, "ROLLBACK")
		if _, err := s.DumpSchema(t.Context(), DumpOptions{Bin: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "apt install postgresql-client-") {
			t.Errorf("without pg_dump: %v", err)
		}
	})
}

func TestDSNSettings(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@h/db?sslmode=require&sslrootcert=%2Fa%20b":        "require|/a b",
		`host=h password='it\'s = x' sslmode = require sslrootcert=/a\ b`: "require|/a b",
		"host=h":              "|",
		"sslmode='verify-ca'": "verify-ca|",
	} {
		m := dsnSettings(dsn)
		if got := m["sslmode"] + "|" + m["sslrootcert"]; got != want {
			t.Errorf("%s: %s, want %s", dsn, got, want)
		}
	}
}

func TestPasswordGoesByEnvironment(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	s, err := Connect(t.Context(), Config{DSN: d.DSN + "&password=s3cret&connect_timeout=7"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	env := strings.Join(s.libpqEnv("x"), "\n")
	if !strings.Contains(env, "PGPASSWORD=s3cret") || !strings.Contains(env, "PGSSLMODE=disable") || !strings.Contains(env, "PGCONNECT_TIMEOUT=7") {
		t.Error(env)
	}
	s.cfg.Quiet = 1
	catalogOf(t, s)
	if _, err := s.DumpSchema(t.Context(), dumpOptions(t)); err != nil {
		t.Error(err)
	}
}

// The role of an agent owns the tables and has REPLICATION, and nothing else.
func TestNotSuperuser(t *testing.T) {
	each(t, func(t *testing.T, c *testpg.Cluster) {
		d := c.Database(t)
		role := "agent_" + d.Name
		c.Role(t, role, "REPLICATION")
		d.Exec(t, "CREATE SCHEMA app AUTHORIZATION "+role, "GRANT CREATE ON DATABASE "+d.Name+" TO "+role,
			"SET ROLE "+role, "CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)", "INSERT INTO app.t (v) VALUES ('x'), ('y')",
			"CREATE TABLE app.forced (i int)", "ALTER TABLE app.forced ENABLE ROW LEVEL SECURITY", "ALTER TABLE app.forced FORCE ROW LEVEL SECURITY",
			"RESET ROLE", "CREATE TABLE public.foreign_owner (i int)", "GRANT SELECT ON public.foreign_owner TO "+role)
		s := sourceOf(t, d, role)
		if _, err := s.Identify(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Now(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.CreatePublication(t.Context()); err != nil {
			t.Fatal(err)
		}
		cat := catalogOf(t, s)
		tab := *cat.Lookup("app", "t")
		if err := s.Enter(t.Context(), tab); err != nil {
			t.Fatal(err)
		}
		for name, why := range map[string]string{"app.forced": "row level security", "public.foreign_owner": "owned by"} {
			schema, table, _ := strings.Cut(name, ".")
			if x := cat.Lookup(schema, table); x.Capturable || !strings.Contains(x.Reason, why) {
				t.Errorf("%s: capturable %t because %q", name, x.Capturable, x.Reason)
			}
		}
		var b bag
		if _, err := s.Copy(t.Context(), tab, CopyOptions{Workers: 2}, b.sink); err != nil || len(b.lines) != 2 {
			t.Errorf("copy: %d lines, %v", len(b.lines), err)
		}
		if q, err := s.Sequences(t.Context()); err != nil || len(q) != 1 || q[0].Last != 2 {
			t.Errorf("sequences: %+v, %v", q, err)
		}
		catalogOf(t, s)
		s.cfg.Quiet = 1
		if _, err := s.DumpSchema(t.Context(), dumpOptions(t)); err != nil {
			t.Errorf("dump: %v", err)
		}
		found, err := s.Check(t.Context(), CheckOptions(dumpOptions(t)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if f.State == Fail && !strings.Contains(f.Name, "forced") && !strings.Contains(f.Name, "foreign_owner") {
				t.Errorf("check: %+v", f)
			}
		}
		if err := s.Leave(t.Context(), tab); err != nil {
			t.Error(err)
		}
		if err := s.RestoreIdentity(t.Context(), "app", "t", 'd', ""); err != nil {
			t.Error(err)
		}
		if err := s.DropPublication(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCheckFinds(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	role := "poor_" + d.Name
	d.Role(t, role, "")
	d.Exec(t, "CREATE TABLE virt (id int, g int GENERATED ALWAYS AS (id) VIRTUAL)", "CREATE TABLE kept (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id) VIRTUAL)",
		"CREATE UNLOGGED TABLE unl (i int)", "CREATE PUBLICATION lifeboat FOR ALL TABLES")
	find := func(s *Source) map[string]Finding {
		found, err := s.Check(t.Context(), CheckOptions(dumpOptions(t)))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]Finding{}
		for _, f := range found {
			out[f.Name] = f
		}
		return out
	}
	f := find(sourceOf(t, d, ""))
	for name, want := range map[string]State{
		`table "public"."virt"`: Fail, `table "public"."kept"`: Warn, `table "public"."unl"`: Warn, "publication": Fail, "wal_level": OK,
		"slot": Warn, "pg_dump": OK, "encoding": OK, "superuser": Warn, "replication": OK, "settings": OK,
	} {
		if f[name].State != want {
			t.Errorf("%s: %+v, want %s", name, f[name], want)
		}
	}
	f = find(sourceOf(t, d, role))
	for name, want := range map[string]State{"role": Fail, "replication": Fail, "create": Warn, "schema dump": Fail, `table "public"."kept"`: Fail} {
		if f[name].State != want || f[name].Mend == "" {
			t.Errorf("%s: %+v, want %s", name, f[name], want)
		}
	}
	d.Exec(t, "DROP PUBLICATION lifeboat")
}

func TestCreatePublicationRefusesForeign(t *testing.T) {
	d := testpg.Shared(t, testpg.Newest).Database(t)
	s := sourceOf(t, d, "")
	d.Exec(t, "CREATE TABLE t (i int)")
	for _, sql := range []string{
		"CREATE PUBLICATION lifeboat FOR ALL TABLES", "CREATE PUBLICATION lifeboat FOR TABLES IN SCHEMA public", "CREATE PUBLICATION lifeboat",
		"CREATE PUBLICATION lifeboat FOR TABLE t WHERE (i > 0) WITH (publish_generated_columns = stored)",
		"CREATE PUBLICATION lifeboat WITH (publish = 'insert', publish_generated_columns = stored)",
	} {
		d.Exec(t, sql)
		if err := s.CreatePublication(t.Context()); !errors.Is(err, ErrPublication) {
			t.Errorf("%s: %v", sql, err)
		}
		if err := s.DropPublication(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := s.CreatePublication(t.Context()); err != nil {
		t.Error(err)
	}
}
