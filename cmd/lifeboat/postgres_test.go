package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lifeboat.im/lifeboat/internal/secondreader"
	"lifeboat.im/lifeboat/internal/testpg"
)

// TestPostgresScripts runs the real program against a real server by the scripts
// in testdata/postgres. Each has a database of its own, owned by a role that is
// not a superuser, at $SOURCE, and an empty one at $RESTORED. Beside the commands
// of the other scripts there are
//
//	sql STATEMENT…        runs in $SOURCE as the owner
//	super STATEMENT…      runs in $SOURCE as superuser
//	until REGEXP CMD…     repeats a command until it prints that
//	target CMD…           runs find --json, puts the newest restore_at into $AT
//	term                  sends SIGTERM to what runs in the background
//	listen SECONDS        stands for systemd with a watchdog of that interval
//	told STATE…           waits until it was told these, in that order; none: it was told nothing
//	homeserver            writes a homeserver.yaml of $SOURCE, with a password
//	keep NAME, same NAME  notes what the tables hold; compares $RESTORED with it
func TestPostgresScripts(t *testing.T) {
	testpg.Shared(t, testpg.Newest) // once, not in each script
	testscript.Run(t, testscript.Params{Dir: filepath.Join("testdata", "postgres"), Setup: postgresEnv, Cmds: postgresCommands()})
}

func postgresCommands() map[string]func(*testscript.TestScript, bool, []string) {
	cmds := scriptCommands()
	maps.Copy(cmds, map[string]func(*testscript.TestScript, bool, []string){
		"sql": sqlCommand, "super": superCommand, "until": untilCommand, "target": targetCommand, "term": termCommand, "keep": keepCommand, "same": sameCommand, "alarmid": alarmIDCommand,
		"homeserver": homeserverCommand, "listen": listenCommand, "told": toldCommand,
	})
	maps.Copy(cmds, s3Commands())
	return cmds
}

type databasesKey struct{}

// databases of a script.
type databases struct {
	t                testing.TB
	source, restored *testpg.Database
	role             string
	kept             map[string]string
	manager          *manager // after listen
}

func postgresEnv(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return fmt.Errorf("%T is no testing.TB", env.T())
	}
	c := testpg.Shared(t, testpg.Newest)
	d := &databases{t: t, source: c.Database(t), restored: c.Database(t), kept: map[string]string{}}
	d.role = "owner_" + d.source.Name
	c.Role(t, d.role, "REPLICATION")
	// A second agent waits twice this long for the slot.
	d.source.Exec(t, "ALTER ROLE "+d.role+" SET wal_sender_timeout = '4s'")
	for _, db := range []*testpg.Database{d.source, d.restored} {
		db.Exec(t, fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", db.Name, d.role), "ALTER SCHEMA public OWNER TO "+d.role)
	}
	// Restored objects belong to their old owner; the database must outlive no role.
	bin := filepath.Dir(testpg.Bin(t, testpg.Newest, "pg_dump"))
	config := fmt.Sprintf("slot: %s\npg_bin: %s\nschema_quiet: 1s\n", d.source.Name, bin)
	if err := os.WriteFile(filepath.Join(env.WorkDir, "more.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	env.Values[databasesKey{}] = d
	t.Cleanup(func() { // whatever a script has made under these names
		key := filepath.Join(env.WorkDir, "lifeboat.key")
		if _, err := os.Stat(key); err == nil {
			secondreader.Hold(t, filepath.Join(env.WorkDir, "repo"), key)
		}
	})
	env.Setenv("SOURCE", d.source.As(d.role))
	env.Setenv("RESTORED", d.restored.As(d.role))
	env.Setenv("SLOT", d.source.Name)
	env.Setenv("PGBIN", bin)
	env.Setenv("PSQL", testpg.Bin(t, testpg.Newest, "psql"))
	return scriptEnv(env)
}

func scriptDatabases(ts *testscript.TestScript) *databases {
	return ts.Value(databasesKey{}).(*databases)
}

func psql(ts *testscript.TestScript, dsn, sql string) string {
	out, err := exec.Command(ts.Getenv("PSQL"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", sql).CombinedOutput()
	if err != nil {
		ts.Fatalf("%s: %v\n%s", sql, err, out)
	}
	return strings.TrimSpace(string(out))
}

func sqlCommand(ts *testscript.TestScript, _ bool, args []string) {
	psql(ts, ts.Getenv("SOURCE"), strings.Join(args, ";"))
}

func superCommand(ts *testscript.TestScript, _ bool, args []string) {
	psql(ts, scriptDatabases(ts).source.DSN, strings.Join(args, ";"))
}

// untilCommand waits for what a background agent brings about.
func untilCommand(ts *testscript.TestScript, neg bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	var text []byte
	defer func() { ts.Logf("%s", text) }()
	testpg.WaitFor(scriptDatabases(ts).t, 2*time.Minute, strings.Join(args, " "), func() bool {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), scriptEnviron(ts)
		var err error
		text, err = cmd.CombinedOutput() // ts.Exec would log every try
		return err == nil && want.Match(text) != neg
	})
}

// scriptEnviron gives what a script's programs need of its variables.
func scriptEnviron(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "TMPDIR", "TZ", "SOURCE", "RESTORED"} {
		env = append(env, k+"="+ts.Getenv(k))
	}
	return env
}

func targetCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec(args[0], append(args[1:], "--json")...))
	var found []foundCommit
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &found))
	if len(found) == 0 {
		ts.Fatalf("nothing found")
	}
	ts.Setenv("AT", found[0].RestoreAt)
	ts.Setenv("XID", fmt.Sprint(found[0].XID))
	ts.Setenv("TIME", found[0].Time.Format(time.RFC3339Nano))
}

// alarmIDCommand keeps the id of the open alarm in ALARM.
func alarmIDCommand(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(ts.Exec("lifeboat", "alarm", "list", "--json"))
	var open []alarm
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &open))
	if len(open) != 1 {
		ts.Fatalf("%d alarms are open", len(open))
	}
	ts.Setenv("ALARM", open[0].ID)
}

// contents gives every table of a database as text, its rows sorted.
func contents(ts *testscript.TestScript, dsn string) string {
	var b strings.Builder
	list := psql(ts, dsn, "SELECT c.oid::regclass FROM pg_class c WHERE relkind = 'r' AND oid >= 16384 ORDER BY relname")
	for table := range strings.FieldsSeq(list) {
		fmt.Fprintf(&b, "%s:\n%s\n", table, psql(ts, dsn, "SELECT t::text FROM "+table+" t ORDER BY t::text"))
	}
	return b.String()
}

func homeserverCommand(ts *testscript.TestScript, _ bool, _ []string) {
	u, err := url.Parse(ts.Getenv("SOURCE"))
	ts.Check(err)
	text := fmt.Sprintf("server_name: example.org\nmedia_store_path: /srv/media\napp_service_config_files: [/etc/irc.yaml]\n"+
		"database: {name: psycopg2, args: {user: %q, password: hunter2, dbname: %q, host: %q, port: %s, sslmode: disable, cp_max: 10}}\n",
		u.User.Username(), strings.TrimPrefix(u.Path, "/"), u.Hostname(), u.Port())
	ts.Check(os.WriteFile(ts.MkAbs("homeserver.yaml"), []byte(text), 0o600))
}

func termCommand(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGTERM))
	}
}

func keepCommand(ts *testscript.TestScript, _ bool, args []string) {
	scriptDatabases(ts).kept[args[0]] = contents(ts, ts.Getenv("SOURCE"))
}

func sameCommand(ts *testscript.TestScript, _ bool, args []string) {
	want, have := scriptDatabases(ts).kept[args[0]], contents(ts, ts.Getenv("RESTORED"))
	if want != have {
		ts.Check(os.WriteFile(ts.MkAbs("want"), []byte(want), 0o600))
		ts.Check(os.WriteFile(ts.MkAbs("have"), []byte(have), 0o600))
		diff, _ := exec.Command("diff", ts.MkAbs("want"), ts.MkAbs("have")).Output()
		ts.Fatalf("the restored database differs (want, have):\n%.3000s", diff)
	}
}
