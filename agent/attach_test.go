package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

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
	testpg.WaitFor(t, 60*time.Second, "a closed gap", func() bool { return len(b.closed("public.a")) > 0 })
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
