package synapse

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrHomeserver: homeserver.yaml cannot be used; the message says what to do.
var ErrHomeserver = errors.New("homeserver configuration")

// Homeserver is what homeserver.yaml says of the parts that a backup must hold.
// Paths are absolute. It carries secrets and has no printable form of them.
type Homeserver struct {
	// Path is the file or folder that was named, Files what was read, in the order in
	// which later ones replace sections of earlier ones.
	Path  string
	Files []string
	// ServerName is server_name.
	ServerName string
	// DSN reaches the one database, as keywords and values of libpq, its password
	// inside: never printed, never logged, never on a command line.
	DSN string
	// Database is how a person names it: name, host and port.
	Database string
	// UnsafeLocale: Synapse was told to bear another collation than C.
	UnsafeLocale bool
	// MediaStore is media_store_path, SigningKey signing_key_path ("" when the key
	// stands in the configuration itself).
	MediaStore, SigningKey string
	// OldKeys are the public keys of old_signing_keys, by key id.
	OldKeys map[string]OldKey
	// Peppered: password_config has a pepper, without which no password hash is of use.
	Peppered bool
	// DynamicThumbnails: lost thumbnails are made again.
	DynamicThumbnails bool
	// Providers are the modules of media_storage_providers: media may lie there only.
	Providers []string
	// AppServices are the registration files of bridges.
	AppServices []string
	// Secrets are the other files that hold a secret (the …_path options), by option.
	Secrets map[string]string
	// Modules are the Python modules that Synapse loads.
	Modules []string
	// MAS is the endpoint of the Matrix Authentication Service, "" without one.
	MAS string
	// Workers: more than one process writes.
	Workers bool
	// Relative are the options whose value is a relative path; it was taken from
	// Base. Synapse takes it from the folder that it is started in, which no file says.
	Relative []string
	Base     string

	signingKey string // when it stands in the configuration itself
}

// OldKey is a public key that the server signed with once, in base64, and when it ceased
// to, in milliseconds since 1970.
type OldKey struct {
	Key       string
	ExpiredTS int64
}

// SigningKeys reads the lines of the signing key, the one that is used first; they are
// secret.
func (h *Homeserver) SigningKeys() ([]string, error) {
	if h.SigningKey == "" {
		return keyLines(h.signingKey), nil
	}
	return ReadSigningKeys(h.SigningKey)
}

// ReadSigningKeys reads a file of signing keys as Synapse and signedjson have it: a line
// "ed25519 <version> <base64>" each.
func ReadSigningKeys(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, bad("read the signing key: %v", err)
	}
	if lines := keyLines(string(b)); len(lines) > 0 {
		return lines, nil
	}
	return nil, bad("%s holds no signing key", path)
}

func keyLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// String hides everything but the name.
func (h *Homeserver) String() string { return "homeserver " + h.ServerName }

// GoString is String, so that %#v prints no secret either.
func (h *Homeserver) GoString() string { return h.String() }

// LogValue is String for a log.
func (h *Homeserver) LogValue() slog.Value { return slog.StringValue(h.String()) }

// Format is String for every verb, so that %+v prints no secret either.
func (h *Homeserver) Format(s fmt.State, _ rune) { fmt.Fprint(s, h.String()) }

// debianHome is where the units of Debian's packages start Synapse.
const debianHome = "/var/lib/matrix-synapse"

// ReadHomeserver reads homeserver.yaml as data; nothing in it is executed, and it
// may be a folder of *.yaml files. A folder conf.d beside the file is read after
// it, as the packages of Debian start Synapse. Files are merged as Synapse merges
// them: a section of a later file replaces the whole section of an earlier one
// (synapse/config/_base.py, read_config_files). Errors are [ErrHomeserver].
func ReadHomeserver(path string) (*Homeserver, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, bad("%s: %v", path, err)
	}
	files, err := configFiles(abs)
	if err != nil {
		return nil, err
	}
	c, err := readSections(files)
	if err != nil {
		return nil, err
	}
	h := &Homeserver{Path: abs, Files: files, Base: filepath.Dir(files[0])}
	if h.ServerName = c.text("server_name"); h.ServerName == "" {
		return nil, bad("%s: server_name is missing: name the file that Synapse is started with (-c), or the folder when it is started with several", abs)
	}
	if err := h.database(c); err != nil {
		return nil, err
	}
	h.media(c)
	h.identity(c)
	for _, m := range c.list("modules") {
		h.Modules = append(h.Modules, section{m}.text("module"))
	}
	h.Workers = len(c.keys("instance_map")) > 0 || len(c.keys("stream_writers")) > 0
	h.MAS = mas(c)
	return h, nil
}

// mas finds the authentication service: the stable section, or the experimental
// one of older versions (synapse/config/mas.py, experimental.py).
func mas(c section) string {
	if m := c.section("matrix_authentication_service"); m.truth("enabled") {
		return orDefault(m.text("endpoint"), "on")
	}
	if m := c.section("experimental_features").section("msc3861"); m.truth("enabled") {
		return orDefault(m.text("issuer"), "on")
	}
	return ""
}

func (h *Homeserver) media(c section) {
	h.MediaStore = h.file("media_store_path", orDefault(c.text("media_store_path"), "media_store"))
	h.DynamicThumbnails = c.truth("dynamic_thumbnails")
	for _, p := range c.list("media_storage_providers") {
		h.Providers = append(h.Providers, section{p}.text("module"))
	}
	if p := c.text("backup_media_store_path"); p != "" {
		h.Providers = append(h.Providers, "file_system at "+h.file("backup_media_store_path", p))
	}
}

// identity finds the files that make the server itself: keys, bridges, secrets.
func (h *Homeserver) identity(c section) {
	old := c.section("old_signing_keys")
	for _, id := range c.keys("old_signing_keys") {
		k := old.section(id)
		ts, _ := strconv.ParseInt(k.text("expired_ts"), 10, 64)
		if h.OldKeys == nil {
			h.OldKeys = map[string]OldKey{}
		}
		h.OldKeys[id] = OldKey{Key: k.text("key"), ExpiredTS: ts}
	}
	h.Peppered = c.section("password_config").text("pepper") != ""
	if h.signingKey = c.text("signing_key"); h.signingKey == "" {
		// synapse/config/key.py: beside the last configuration file.
		p := c.text("signing_key_path")
		if p == "" {
			p = filepath.Join(filepath.Dir(h.Files[len(h.Files)-1]), h.ServerName+".signing.key")
		}
		h.SigningKey = h.file("signing_key_path", p)
	}
	for _, f := range c.list("app_service_config_files") {
		h.AppServices = append(h.AppServices, h.file("app_service_config_files", f.Value))
	}
	h.Secrets = map[string]string{}
	add := func(in section, prefix string, options ...string) {
		for _, o := range options {
			if p := in.text(o); p != "" {
				h.Secrets[prefix+o] = h.file(prefix+o, p)
			}
		}
	}
	add(c, "", "macaroon_secret_key_path", "form_secret_path", "registration_shared_secret_path", "turn_shared_secret_path",
		"worker_replication_secret_path", "recaptcha_private_key_path", "key_server_signing_keys_path", "tls_private_key_path", "log_config")
	add(c.section("redis"), "redis.", "password_path")
	add(c.section("matrix_authentication_service"), "matrix_authentication_service.", "secret_path")
	add(c.section("experimental_features").section("msc3861"), "experimental_features.msc3861.", "client_secret_path", "admin_token_path")
	add(c.section("saml2_config"), "saml2_config.", "config_path")
	add(c.section("email"), "email.", "smtp_pass_path")
	for i, p := range c.list("oidc_providers") {
		add(section{p}, fmt.Sprintf("oidc_providers[%d].", i), "client_secret_path")
	}
}

// file makes a path absolute: relative ones are taken from the folder of the
// configuration, or from Debian's home of Synapse when the file is only there.
func (h *Homeserver) file(option, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	if !slices.Contains(h.Relative, option) {
		h.Relative = append(h.Relative, option)
	}
	near, debian := filepath.Join(h.Base, path), filepath.Join(debianHome, path)
	if _, err := os.Stat(near); err != nil {
		if _, err := os.Stat(debian); err == nil {
			return debian
		}
	}
	return near
}

func orDefault(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrHomeserver}, args...)...)
}
