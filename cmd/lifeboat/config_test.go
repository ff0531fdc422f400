package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testApp is an app with an environment of its own.
func testApp(t *testing.T, env map[string]string) *app {
	t.Helper()
	return &app{env: func(k string) string { return env[k] }, now: time.Now, out: t.Output(), err: t.Output()}
}

func writeFile(t *testing.T, dir, name, text string, perm os.FileMode) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConfigFaults(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"swapped letters", "repositroy: /b\n", `f.yaml:1: unknown key "repositroy": did you mean "repository"?`},
		{"one letter more", "repository: /b\nrppo: 5s\n", `f.yaml:2: unknown key "rppo": did you mean "rpo"?`},
		{"another case", "Source: x\n", `did you mean "source"?`},
		{"nothing near", "zzzzzzzzzzz: 1\n", "config show"},
		{"nothing kept", "keep: {every_commit: 14d, weekly: 0}\n", "leave weekly out to keep none"},
		{"no window", "keep: {monthly: 12}\n", "every_commit of 1d or more"},
		{"a short window", "keep: {every_commit: 1h}\n", "every_commit of 1d or more"},
		{"a negative window", "keep: {every_commit: -14d}\n", "want a time such as"},
		{"a misspelt keep", "keep: {every_comit: 14d}\n", "did you mean \"every_commit\""},
		{"s3 text", "s3: a\n", "s3: want keys"},
		{"s3 twice", "s3: {region: a, region: b}\n", "region"},
		{"s3 style", "s3: {path_style: auto}\n", "f.yaml:1: s3: path_style: want true"},
		{"s3 limit", "s3: {upload_limit: fast}\n", "want a size"},
		{"twice", "rpo: 5s\nrpo: 6s\n", "f.yaml:2: rpo is already set in line 1"},
		{"no unit", "rpo: 5\n", "f.yaml:1: rpo: want a time such as"},
		{"negative", "rpo: -5s\n", "want a time"},
		{"size", "wal_budget: 2 Gigs\n", "wal_budget: want a size such as 512MiB"},
		{"size 0", "wal_budget: 0\n", "want a size"},
		{"list for text", "source: [a]\n", "source: want text"},
		{"text for list", "recipients: age1x\n", "recipients: "},
		{"two sources", "source: a\nsource_file: b\n", "both source and source_file"},
		{"two documents", "rpo: 5s\n---\nrpo: 6s\n", "second YAML document"},
		{"a list", "- a\n", "want lines of the form key: value"},
		{"not YAML", "a: [\n", "f.yaml"},
		{"profile", "profile: dendrite\n", `profile "dendrite" is not known: use synapse or generic`},
		{"refresh text", "refresh: daily\n", "f.yaml:1: refresh: want keys"},
		{"refresh typo", "refresh: {rates: 1MiB}\n", `f.yaml:1: refresh: unknown key "rates": did you mean "rate"?`},
		{"refresh twice", "refresh: {rate: 1MiB, rate: 2MiB}\n", "rate"},
		{"refresh rate", "refresh: {rate: 10KiB/s}\n", "refresh: rate: want at least 1MiB a second"},
		{"refresh hours", "refresh: {hours: at night}\n", "refresh: hours: want a part of the day such as 01:00-05:00"},
		{"alarm share", "alarm: {share: 0.3}\n", "alarm: share: want a part such as 30%"},
		{"alarm share 0", "alarm: {share: 0%}\n", "want a part such as 30%"},
		{"alarm rows", "alarm: {rows: -1}\n", "alarm: rows: want a whole number from 1"},
		{"alarm text", "alarm: never\n", "alarm: want off, or keys"},
		{"count", "copy_workers: 0\n", "want a whole number from 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig("f.yaml", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("have %v, want %q", err, c.want)
			}
			if exitCode(err) != exitUsage {
				t.Fatalf("exit code %d, want %d", exitCode(err), exitUsage)
			}
		})
	}
}

func TestConfigValues(t *testing.T) {
	c, err := parseConfig("/etc/lifeboat/lifeboat.yaml", []byte("repository: backup\nstate: /var/lib/lifeboat\nrpo: 1m30s\nwal_budget: 512 MiB\nrefresh_every: 14d\nrecipients: [age1a, age1b]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Repository != "/etc/lifeboat/backup" || c.State != "/var/lib/lifeboat" || c.Tuning.RPO != 90*time.Second ||
		c.Tuning.WALBudget != 512<<20 || c.Tuning.RefreshEvery != 14*24*time.Hour || len(c.Recipients) != 2 || c.Agent.Slot != "lifeboat" {
		t.Fatalf("read %+v", c)
	}
	c, err = parseConfig("x", []byte("refresh: {rate: 8MiB/s, hours: 22:00-04:30, copy_max: 2h}\nalarm: {share: 12.5%, rows: 50}\n"))
	if tu := c.Tuning; err != nil || tu.RefreshRate != 8<<20 || tu.RefreshHours.String() != "22:00-04:30" || tu.CopyMax != 2*time.Hour || tu.Alarm.Share != 0.125 || tu.Alarm.Rows != 50 {
		t.Fatalf("refresh and alarm: %+v %v", tu, err)
	}
	if c, err = parseConfig("x", []byte("alarm: off\n")); err != nil || !c.Tuning.Alarm.Off {
		t.Fatalf("alarm off: %+v %v", c.Tuning.Alarm, err)
	}
	if c, err = parseConfig("x", nil); err != nil || c.Tuning.RPO != 5*time.Second {
		t.Fatalf("empty file: %+v %v", c, err)
	}
	if c, err = parseConfig("x", []byte("wal_budget: unlimited\n")); err != nil || c.Tuning.WALBudget != -1 {
		t.Fatalf("unlimited: %d %v", c.Tuning.WALBudget, err)
	}
}

// Every option must show what it reads, in a form that it reads again.
func TestConfigShowsWhatItReads(t *testing.T) {
	c := defaults()
	var b strings.Builder
	for _, o := range options() {
		if v := o.show(&c); v != "" && v != "[]" {
			b.WriteString(o.name + ": " + v + "\n")
		}
	}
	again, err := parseConfig("", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options() {
		if o.show(&c) != o.show(&again) {
			t.Errorf("%s: %q became %q", o.name, o.show(&c), o.show(&again))
		}
	}
}

func TestSecretsComeFromFilesCredentialsAndEnvironment(t *testing.T) {
	dir := t.TempDir()
	creds := filepath.Join(dir, "creds")
	if err := os.Mkdir(creds, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "dsn", "postgres://u@h/db\n", 0o600)
	writeFile(t, dir, "pw", "s'e\\c ret\n", 0o600)
	load := func(yaml string, env map[string]string) (string, error) {
		a := testApp(t, env)
		a.flags.config = writeFile(t, dir, "lifeboat.yaml", yaml, 0o600)
		c, err := a.loadConfig()
		if err != nil {
			return "", err
		}
		return c.Source, nil
	}
	want := func(have string, err error, want string) {
		t.Helper()
		if err != nil || have != want {
			t.Fatalf("have %q, %v; want %q", have, err, want)
		}
	}
	s, err := load("source_file: dsn\npassword_file: pw\n", nil)
	want(s, err, "postgres://u:s%27e%5Cc%20ret@h/db")
	s, err = load("source: host=h dbname=db\npassword_file: pw\n", nil)
	want(s, err, `host=h dbname=db password='s\'e\\c ret'`)
	s, err = load("", map[string]string{"LIFEBOAT_SOURCE": "host=env"})
	want(s, err, "host=env")
	writeFile(t, creds, "source", "host=cred", 0o600)
	writeFile(t, creds, "source_password", "x", 0o600)
	s, err = load("", map[string]string{"LIFEBOAT_SOURCE": "host=env", "CREDENTIALS_DIRECTORY": creds})
	want(s, err, "host=cred password='x'")
	if err := os.Chmod(filepath.Join(dir, "pw"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = load("source: host=h\npassword_file: pw\n", nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Fatalf("a secret that everybody reads: %v", err)
	}
}

func TestPasswordsAreHidden(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:hunter2@h/db", "postgresql://u@h/db?password=hunter2", "host=h password=hunter2 dbname=d",
		"host=h PASSWORD = 'hunter2 x' dbname=d", "postgres://u@h/db?sslpassword=hunter2", "sslpassword=hunter2",
		"postgres://u:hunter2@h:port\x01/",
	} {
		if s := redactDSN(dsn); strings.Contains(s, "hunter2") {
			t.Errorf("%q is shown as %q", dsn, s)
		}
		if !hasPassword(dsn) && !strings.Contains(dsn, "\x01") {
			t.Errorf("%q: no password seen", dsn)
		}
	}
	for _, dsn := range []string{"postgres://u@h/db", "host=h user=u passfile=/x", "service=x"} {
		if hasPassword(dsn) {
			t.Errorf("%q: a password seen", dsn)
		}
		if redactDSN(dsn) != dsn {
			t.Errorf("%q is shown as %q", dsn, redactDSN(dsn))
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("source: x\nrpo: 5s\n")
	f.Add("a: &a [*a]\n")
	f.Add("wal_budget: 9999999999999TiB\nrecipients: [a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseConfig("f", []byte(text)); err != nil && exitCode(err) != exitUsage {
			t.Fatalf("exit code %d for %v", exitCode(err), err)
		}
	})
}
