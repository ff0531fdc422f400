package synapse_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/synapse"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const head = "server_name: example.org\n"

func TestHomeserver(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "homeserver.yaml"), head+`
database:
  name: psycopg2
  allow_unsafe_locale: yes
  args: {user: synapse, password: hunter2, dbname: synapse, host: /run/postgresql, port: 5433, cp_min: 5, cp_max: 10, keepalives_idle: 10, options: -c statement_timeout=1}
media_store_path: media
signing_key_path: /etc/matrix-synapse/example.org.signing.key
app_service_config_files: [/etc/bridges/irc.yaml, telegram.yaml]
macaroon_secret_key_path: /etc/secret/macaroon
redis: {enabled: true, password_path: /etc/secret/redis}
oidc_providers:
  - client_secret_path: /etc/secret/oidc
media_storage_providers:
  - {module: s3_storage_provider.S3StorageProviderBackend, store_local: true}
instance_map: {main: {host: localhost, port: 9093}}
modules: [{module: a.b.Module, config: {}}]
matrix_authentication_service: {enabled: true, endpoint: "http://localhost:8080/", secret_path: /etc/secret/mas}
`)
	h, err := synapse.ReadHomeserver(path)
	if err != nil {
		t.Fatal(err)
	}
	if h.DSN != "host=/run/postgresql port=5433 dbname=synapse user=synapse password=hunter2" {
		t.Errorf("DSN %s", h.DSN)
	}
	if h.MediaStore != filepath.Join(dir, "media") || !slices.Equal(h.Relative, []string{"media_store_path", "app_service_config_files"}) || h.Base != dir {
		t.Errorf("relative paths: %q, %v below %s", h.MediaStore, h.Relative, h.Base)
	}
	if !slices.Equal(h.AppServices, []string{"/etc/bridges/irc.yaml", filepath.Join(dir, "telegram.yaml")}) || h.SigningKey != "/etc/matrix-synapse/example.org.signing.key" {
		t.Errorf("files: %v, %s", h.AppServices, h.SigningKey)
	}
	for option, want := range map[string]string{
		"macaroon_secret_key_path": "/etc/secret/macaroon", "redis.password_path": "/etc/secret/redis",
		"oidc_providers[0].client_secret_path": "/etc/secret/oidc", "matrix_authentication_service.secret_path": "/etc/secret/mas",
	} {
		if h.Secrets[option] != want {
			t.Errorf("%s: %q", option, h.Secrets[option])
		}
	}
	if !h.Workers || h.MAS != "http://localhost:8080/" || !h.UnsafeLocale || !slices.Equal(h.Modules, []string{"a.b.Module"}) || len(h.Providers) != 1 {
		t.Errorf("workers %t, MAS %q, locale %t, modules %v, providers %v", h.Workers, h.MAS, h.UnsafeLocale, h.Modules, h.Providers)
	}
	inventory(t, h)
}

// Each part is there once, says why and, when it is outside, what to do; and
// neither it nor any way of printing shows a secret.
func inventory(t *testing.T, h *synapse.Homeserver) {
	t.Helper()
	var names []string
	for _, p := range h.Inventory() {
		names = append(names, p.Name)
		if p.Path == "" || p.Why == "" || p.Inside != (p.Name == "database") || p.Inside != (p.Mend == "") {
			t.Errorf("%+v", p)
		}
	}
	if s := strings.Join(names, ", "); s != "database, media store, media storage, signing key, configuration, bridges, authentication service" {
		t.Error(s)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "h", h)
	for _, text := range []string{log.String(), fmt.Sprintf("%v %+v %#v %s", h, h, h, h), fmt.Sprint(h.Inventory())} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a password is printed: %s", text)
		}
	}
}

// Debian's packages start Synapse with homeserver.yaml and conf.d; a later section
// replaces an earlier one as a whole.
func TestConfd(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "homeserver.yaml"), "server_name: old\ndatabase: {name: sqlite3, args: {database: /x}}\n")
	write(t, filepath.Join(dir, "conf.d", "a.yaml"), head+"database: {name: psycopg2, args: {dbname: a, user: u}}\n")
	write(t, filepath.Join(dir, "conf.d", "b.yaml"), "database: {name: psycopg2, args: {database: b}}\n")
	write(t, filepath.Join(dir, "conf.d", "c.yaml"), "# nothing\n")
	write(t, filepath.Join(dir, "conf.d", "ignored.yaml.bak"), "server_name: wrong\n")
	for _, p := range []string{path, dir} {
		h, err := synapse.ReadHomeserver(p)
		switch {
		case p == dir && errors.Is(err, synapse.ErrHomeserver) && strings.Contains(err.Error(), "synapse_port_db"):
			// A folder is its own files alone, as Synapse reads it.
		case err != nil || p == dir:
			t.Fatalf("%s: %v", p, err)
		case h.ServerName != "example.org" || h.DSN != "dbname=b" || len(h.Files) != 4:
			t.Errorf("%s: %s, %q, %v", p, h.ServerName, h.DSN, h.Files)
		case h.SigningKey != filepath.Join(dir, "conf.d", "example.org.signing.key"):
			t.Errorf("signing key %s", h.SigningKey)
		}
	}
	h, err := synapse.ReadHomeserver(filepath.Join(dir, "conf.d"))
	if err != nil || len(h.Files) != 3 || h.DSN != "dbname=b" {
		t.Errorf("a folder: %v, %v", h, err)
	}
}

func TestHomeserverFaults(t *testing.T) {
	const ok = "database: {name: psycopg2, args: {dbname: s}}\n"
	for _, c := range []struct{ name, text, want string }{
		{"sqlite", head + "database: {name: sqlite3, args: {database: /x}}\n", "synapse_port_db"},
		{"sqlite by path", head + "database_path: /x\n", "synapse_port_db"},
		{"no database", head, "no database is named"},
		{"two databases", head + "databases:\n  master: {name: psycopg2, data_stores: [main], args: {dbname: a}}\n  state: {name: psycopg2, data_stores: [state], args: {dbname: b}}\n", "this version follows one"},
		{"no section", head + "database: psycopg2\n", "homeserver.yaml:2: database is not a section"},
		{"args not indented", head + "database:\n  name: psycopg2\n  args: [dbname, a]\n", "database.args is not a section"},
		{"an empty one of several", head + "databases: {m: }\n", "SQLite"},
		{"both", head + ok + "databases: {m: {name: psycopg2, args: {dbname: a}}}\n", "both database and databases"},
		{"no name", ok, "server_name is missing"},
		{"engine", head + "database: {name: mysql, args: {}}\n", `"mysql"`},
		{"no dbname", head + "database: {name: psycopg2, args: {user: u}}\n", "names no database"},
		{"octal password", head + "database: {name: psycopg2, args: {dbname: s, password: 0123456}}\n", "put it into quotes"},
		{"boolean password", head + "database: {name: psycopg2, args: {dbname: s, password: yes}}\n", "put it into quotes"},
		{"list", head + "database: {name: psycopg2, args: {dbname: s, password: [a]}}\n", "put it into quotes"},
		{"search_path", head + "database: {name: psycopg2, args: {dbname: s, options: '-c search_path=x'}}\n", "search_path"},
		{"code", head + ok + "x: !!python/object/apply:os.system ['touch /tmp/x']\n", "asks for code"},
		{"code deeper", head + ok + "x: [{y: !include z.yaml}]\n", "asks for code"},
		{"documents", head + ok + "---\na: b\n", "second YAML document"},
		{"no YAML", head + "a: [\n", "homeserver.yaml"},
		{"a list", "- a\n", "key: value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := synapse.ReadHomeserver(write(t, filepath.Join(t.TempDir(), "homeserver.yaml"), c.text))
			if !errors.Is(err, synapse.ErrHomeserver) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("have %v, want %q", err, c.want)
			}
		})
	}
	if _, err := synapse.ReadHomeserver(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, synapse.ErrHomeserver) || !strings.Contains(err.Error(), "started with") {
		t.Error(err)
	}
}

// configurations are read by us and by Synapse's own YAML and psycopg2.
var configurations = []string{
	"database: {name: psycopg2, args: {dbname: s, user: u, password: 'p w', host: h}}",
	`database: {name: psycopg2, args: {database: s, password: "it's \\ a 'test'\n=x #"}}`,
	"database: {name: psycopg2, args: {dbname: s, password: 123456, port: 5433}}",
	"database: {name: psycopg2, args: {dbname: s, password: \"0123\", host: '::1'}}",
	"database: {name: psycopg2, args: {dbname: s, password: 'a'}, args: {dbname: t, password: b}}",
	"x: &d {dbname: s, password: base, host: h}\ndatabase: {name: psycopg2, args: {<<: *d, password: over}}",
	"x: &d {name: psycopg2, args: {dbname: s, password: äöü€}}\ndatabase: *d",
	"database: {name: psycopg2, args: {dbname: s, password: null, user: ~}}",
	"databases: {only: {name: psycopg2, args: {dbname: s, user: u, sslmode: verify-full, sslrootcert: /ca.pem}}}",
	"database:\n  name: psycopg2\n  args:\n    dbname: s\n    password: >-\n      folded\n      text\n",
	"database: {name: psycopg2, args: {dbname: s, password: 1e5}}",
	"database: {name: psycopg2, args: {dbname: s, password: 1_000}}",
	"database: {name: psycopg2, args: {dbname: s, password: 12:30}}",
	"database: {name: psycopg2, args: {dbname: s, password: 0x1F}}",
	"database: {name: psycopg2, args: {dbname: s, password: 0b11}}",
	"database: {name: psycopg2, args: {dbname: s, password: 0o17}}",
	"database: {name: psycopg2, args: {dbname: s, password: 1.50}}",
	"database: {name: psycopg2, args: {dbname: s, password: .5}}",
	"database: {name: psycopg2, args: {dbname: s, password: 1.5e+3}}",
	"database: {name: psycopg2, args: {dbname: s, password: .inf}}",
	"database: {name: psycopg2, args: {dbname: s, password: Off}}",
	"database: {name: psycopg2, args: {dbname: s, password: n}}",
	"database: {name: psycopg2, args: {dbname: s, password: 2001-01-01}}",
	"database: {name: psycopg2, args: {dbname: s, password: -017}}",
	"database: {name: psycopg2, args: {dbname: s, password: +17}}",
	"database: {name: psycopg2, args: {dbname: s, password: 089}}",
}

// oracle prints, for each configuration, what Synapse would hand to libpq.
const oracle = `
import sys, json, yaml
out = []
for text in json.load(sys.stdin):
    c = yaml.safe_load(text)
    d = c.get("database") or list(c["databases"].values())[0]
    a = {k: v for k, v in d["args"].items() if not k.startswith("cp_") and v is not None}
    if "database" in a: a["dbname"] = a.pop("database")
    out.append({k: str(v) for k, v in a.items()})
json.dump(out, sys.stdout)
`

// We read what Synapse reads, or refuse: never something else.
func TestReadsWhatSynapseReads(t *testing.T) {
	i := install(t)
	in, err := json.Marshal(configurations)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), i.Python, "-c", oracle)
	cmd.Env, cmd.Stdin, cmd.Stderr = []string{"PYTHONPATH=" + i.Lib, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, bytes.NewReader(in), t.Output()
	answer, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want []map[string]string
	if err := json.Unmarshal(answer, &want); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for n, text := range configurations {
		h, err := synapse.ReadHomeserver(write(t, filepath.Join(t.TempDir(), "homeserver.yaml"), head+text))
		if err != nil {
			if refused++; !strings.Contains(err.Error(), "put it into quotes") {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		c, err := pgconn.ParseConfig(strings.ReplaceAll(h.DSN, " sslmode=verify-full sslrootcert=/ca.pem", ""))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		w := want[n]
		if c.Password != w["password"] || c.Database != w["dbname"] || w["host"] != "" && c.Host != w["host"] || w["user"] != "" && c.User != w["user"] {
			t.Errorf("%s\nbecomes %s, Synapse reads %v", text, h.DSN, w)
		}
	}
	if refused == 0 || refused > len(configurations)*2/3 {
		t.Errorf("%d of %d refused", refused, len(configurations))
	}
}

func FuzzReadHomeserver(f *testing.F) {
	for _, c := range configurations {
		f.Add(head + c)
	}
	f.Add("a: &a [*a]\n")
	f.Add("x: &x {<<: [*x, *x, *x, *x, *x, *x, *x, *x]}\n<<: *x\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "h.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := synapse.ReadHomeserver(path)
		if err != nil {
			if !errors.Is(err, synapse.ErrHomeserver) {
				t.Fatal(err)
			}
			return
		}
		h.Inventory()
	})
}
