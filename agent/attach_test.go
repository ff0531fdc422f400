package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/restore"
)

// TestAfterDetach: whoever types attach or run after detach is told the one command
// that goes on, nothing is half done, and that command does all of it.
func TestAfterDetach(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)")
	b.attach()
	stop := b.run()
	b.waitReady()
	b.mark("before")
	stop()
	if _, err := Detach(t.Context(), b.repo, b.agentSecrets(), b.o, false); err != nil {
		t.Fatal(err)
	}
	b.db.Exec(t, "INSERT INTO a VALUES (2)")
	const command = "`lifeboat run --new-base`"
	for _, dry := range []bool{true, false} {
		_, err := Attach(t.Context(), b.repo, b.agentSecrets(), b.o, dry)
		if !errors.Is(err, ErrSourceLost) || !strings.Contains(err.Error(), command) {
			t.Errorf("attach (dry %t): %v, want ErrSourceLost that names %s", dry, err, command)
		}
	}
	if err := Run(t.Context(), b.repo, b.agentSecrets(), b.o); !errors.Is(err, ErrSourceLost) || !strings.Contains(err.Error(), command) {
		t.Errorf("run: %v, want ErrSourceLost that names %s", err, command)
	}
	if n := b.db.Query(t, "SELECT count(*) FROM pg_publication"); n[0][0] != "0" {
		t.Error("what was refused has made a publication")
	}
	found, err := Doctor(t.Context(), b.repo, b.agentSecrets(), b.o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if (f.Name == "slot" || f.Name == "publication") && (f.State != "fail" || f.Mend != strings.Trim(command, "`")) {
			t.Errorf("doctor: %+v, want a fault that %s mends", f, command)
		}
	}
	b.o.NewBase = true
	stop = b.run()
	testpg.WaitFor(t, 2*time.Minute, "a closed gap", func() bool { return len(b.closed("public.a")) > 0 })
	b.mark("after")
	b.wantLive()
	stop()
	for _, at := range []struct{ mark, rows string }{{"before", "1"}, {"after", "2"}} {
		db, err := b.restoreAt("mark:"+at.mark, restore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if n := db.Query(t, "SELECT count(*) FROM a"); n[0][0] != at.rows {
			t.Errorf("restored %s: %s rows, want %s", at.mark, n[0][0], at.rows)
		}
	}
	if _, err := Attach(t.Context(), b.repo, b.agentSecrets(), b.o, false); err != nil {
		t.Errorf("attach of what is attached: %v", err)
	}
}

// TestForeignSlotAndPublication: what another database or another role owns under our
// name is refused by every command with one clear error, and is never dropped.
func TestForeignSlotAndPublication(t *testing.T) {
	c := testpg.Shared(t, 18)
	c.Role(t, "table_owner", "REPLICATION")
	b := newBench(t, c, nil, "CREATE TABLE a (id int PRIMARY KEY)", "ALTER TABLE a OWNER TO table_owner")
	b.db.Exec(t, "GRANT CREATE ON DATABASE "+b.db.Name+" TO table_owner")
	b.o.Source.DSN = c.DSNAs("table_owner", b.db.Name)
	fresh := b.o
	fresh.State = t.TempDir()
	anew := b.o
	anew.NewBase = true
	attach := func(o Options) error {
		_, err := Attach(t.Context(), b.repo, b.agentSecrets(), o, false)
		return err
	}
	run := func(o Options) error { return Run(t.Context(), b.repo, b.agentSecrets(), o) }

	b.db.Exec(t, `CREATE PUBLICATION "`+b.db.Name+`"`)
	if err := attach(b.o); !errors.Is(err, cdc.ErrPublication) || !strings.Contains(err.Error(), "owned by a role") {
		t.Errorf("attach beside another role's publication: %v", err)
	}
	b.db.Exec(t, `DROP PUBLICATION "`+b.db.Name+`"`)
	b.attach()

	other := c.Database(t)
	drop, create := "SELECT pg_drop_replication_slot('"+b.db.Name+"')", "SELECT pg_create_logical_replication_slot('"+b.db.Name+"', '%s')"
	other.Exec(t, drop)
	for _, whose := range []struct {
		db     *testpg.Database
		plugin string
	}{{other, "pgoutput"}, {b.db, "test_decoding"}} {
		whose.db.Exec(t, fmt.Sprintf(create, whose.plugin))
		for name, err := range map[string]error{
			"attach": attach(b.o), "attach anew": attach(fresh), "run": run(b.o), "run --new-base": run(anew),
			"detach": func() error {
				_, err := Detach(t.Context(), b.repo, b.agentSecrets(), b.o, false)
				return err
			}(),
		} {
			if !errors.Is(err, cdc.ErrSlotForeign) || strings.Count(err.Error(), "slot: ") != 1 {
				t.Errorf("%s on a slot of %s by %s: %v, want ErrSlotForeign with what to write", name, whose.db.Name, whose.plugin, err)
			}
		}
		whose.db.Exec(t, drop) // fails if one of them has dropped it
	}
}
