package homeserver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The files of a homeserver's folder.
const (
	configFile = "homeserver.yaml"
	keyFile    = "signing.key"
	logConfig  = "log.yaml"
	logFile    = "homeserver.log"
	mediaDir   = "media_store"
)

// configure writes homeserver.yaml. The first start decides what a homeserver
// keeps for ever: name, secrets, signing key. Later starts in the same folder, or
// in a copy of it, replace only what may change: the database, ports, paths and
// what Extra says.
func (s *Server) configure(o Options) error {
	if err := os.MkdirAll(filepath.Join(o.Dir, mediaDir), 0o755); err != nil {
		return err
	}
	conf, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		conf, err = s.first(o)
	}
	if err != nil {
		return err
	}
	s.name, _ = conf["server_name"].(string)
	s.secret, _ = conf["registration_shared_secret"].(string)
	if conf["database"], err = database(o.DSN); err != nil {
		return err
	}
	conf["pid_file"] = filepath.Join(o.Dir, "homeserver.pid")
	conf["signing_key_path"] = filepath.Join(o.Dir, keyFile)
	conf["log_config"] = filepath.Join(o.Dir, logConfig)
	conf["media_store_path"] = filepath.Join(o.Dir, mediaDir)
	conf["listeners"] = []any{listener(s.port, false, "client", "federation", "keys")}
	if o.Federation {
		if err := s.federate(o, conf); err != nil {
			return err
		}
	}
	if alone(conf); o.Workers {
		if err := s.work(conf); err != nil {
			return err
		}
	}
	maps.Copy(conf, o.Extra)
	text, err := yaml.Marshal(conf)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.Dir, logConfig), []byte(logging), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Dir, configFile), text, 0o600)
}

func (s *Server) read() (map[string]any, error) {
	text, err := os.ReadFile(s.ConfigPath())
	if err != nil {
		return nil, err
	}
	conf := map[string]any{}
	if err := yaml.Unmarshal(text, &conf); err != nil {
		return nil, fmt.Errorf("%s: %w", s.ConfigPath(), err)
	}
	return conf, nil
}

// first makes what a homeserver keeps for ever.
func (s *Server) first(o Options) (map[string]any, error) {
	name := o.ServerName
	if name == "" {
		name = "localhost"
		if o.Federation {
			port, err := freePort()
			if err != nil {
				return nil, err
			}
			name = "localhost:" + strconv.Itoa(port)
		}
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	// The format of signedjson.key.write_signing_keys.
	line := "ed25519 a_life " + base64.RawStdEncoding.EncodeToString(key.Seed()) + "\n"
	if err := os.WriteFile(filepath.Join(o.Dir, keyFile), []byte(line), 0o600); err != nil {
		return nil, err
	}
	conf := map[string]any{
		"server_name": name, "report_stats": false, "enable_metrics": false, "url_preview_enabled": false,
		"macaroon_secret_key": secret(), "form_secret": secret(), "registration_shared_secret": secret(),
		"bcrypt_rounds": 4, "password_config": map[string]any{"enabled": true, "pepper": secret()},
		"enable_registration": false, "suppress_key_server_warning": true, "trusted_key_servers": []any{},
		"federation_domain_whitelist": []any{}, "presence": map[string]any{"enabled": true},
		// What a new database still has to do in the background is done in seconds, not in
		// a minute of pauses; see Settled.
		"background_updates": map[string]any{"sleep_enabled": false},
		// Compared replies are never of a cache, and a client that syncs twice sees the database twice.
		"caches":                          map[string]any{"sync_response_cache_duration": "0s"},
		"max_upload_size":                 "20M",
		"user_ips_max_age":                "28d",
		"enable_room_list_search":         true,
		"forgotten_room_retention_period": "28d",
	}
	maps.Copy(conf, generous())
	return conf, nil
}

// generous are limits that no test reaches.
func generous() map[string]any {
	rate := func() map[string]any { return map[string]any{"per_second": 100000, "burst_count": 100000} }
	return map[string]any{
		"rc_message": rate(), "rc_registration": rate(), "rc_admin_redaction": rate(), "rc_joins_per_room": rate(),
		"rc_3pid_validation": rate(), "rc_third_party_invite": rate(), "rc_media_create": rate(), "rc_room_creation": rate(),
		"rc_user_directory": rate(), "rc_reports": rate(), "rc_key_requests": rate(), "rc_delayed_event_mgmt": rate(),
		"rc_login":    map[string]any{"address": rate(), "account": rate(), "failed_attempts": rate()},
		"rc_joins":    map[string]any{"local": rate(), "remote": rate()},
		"rc_invites":  map[string]any{"per_room": rate(), "per_user": rate(), "per_issuer": rate()},
		"rc_presence": map[string]any{"per_user": rate()},
		"rc_federation": map[string]any{
			"window_size": 1000, "sleep_limit": 100000, "sleep_delay": 1, "reject_limit": 100000, "concurrent": 100,
		},
	}
}

// logging sends everything to standard error, which is the log file: one line an
// entry, its level the third field.
const logging = `version: 1
formatters:
  line:
    format: '%(asctime)s %(levelname)s %(name)s %(request)s: %(message)s'
handlers:
  console:
    class: logging.StreamHandler
    formatter: line
root:
  level: INFO
  handlers: [console]
disable_existing_loggers: false
`

// listener is one listener on loopback.
func listener(port int, tls bool, resources ...string) map[string]any {
	return map[string]any{
		"port": port, "bind_addresses": []string{"127.0.0.1"}, "type": "http", "tls": tls,
		"resources": []any{map[string]any{"names": resources, "compress": false}},
	}
}

// database gives the section of homeserver.yaml for a postgres:// address.
func database(dsn string) (map[string]any, error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("the homeserver's database is not an address postgres://…")
	}
	args := map[string]any{"cp_min": 2, "cp_max": 10, "dbname": strings.TrimPrefix(u.Path, "/"), "host": u.Hostname()}
	if u.Port() != "" {
		if args["port"], err = strconv.Atoi(u.Port()); err != nil {
			return nil, err
		}
	}
	if u.User != nil {
		args["user"] = u.User.Username()
		if p, ok := u.User.Password(); ok {
			args["password"] = p
		}
	}
	for k, v := range u.Query() { // libpq's names
		args[k] = v[0]
	}
	return map[string]any{"name": "psycopg2", "args": args}, nil
}

func secret() string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
