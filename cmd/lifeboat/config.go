package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/synapse"
)

// config is lifeboat.yaml, merged with the environment and the flags. Paths are
// absolute or relative to the working directory.
type config struct {
	Path       string // of the file; "" when there is none
	Homeserver string // homeserver.yaml
	Source     string // connection string, with its password when one was found
	Repository string
	State      string
	Profile    string // "" until asked: see profile
	Recipients []string
	LogLevel   string
	PgBin      string
	Agent      agent.SourceOptions // without the DSN
	Tuning     agent.Tuning
	Keep       history.Keep // zero: nothing is ever removed
	S3         s3Config

	sourceFile, passwordFile string

	// homeserver is what Homeserver says; nil without one, or when homeserverErr says
	// why it cannot be read. A restore on another host goes on without it.
	homeserver    *synapse.Homeserver
	homeserverErr error
}

// option is one key of the file: what it means, how it is read and shown.
type option struct {
	name, help string
	set        func(c *config, n *yaml.Node) error
	show       func(c *config) string
}

// options lists every key, in the order in which `config show` prints them.
func options() []option {
	return []option{
		path("homeserver", "homeserver.yaml of Synapse, or the folder of its *.yaml files: the database is read from it", func(c *config) *string { return &c.Homeserver }),
		text("source", "connection string or URL of the database; or source_file, LIFEBOAT_SOURCE, the credential \"source\"",
			func(c *config) *string { return &c.Source }, redactDSN),
		path("source_file", "file that holds the connection string", func(c *config) *string { return &c.sourceFile }),
		path("password_file", "file that holds the password of source; or PGPASSWORD, the credential \"source_password\"",
			func(c *config) *string { return &c.passwordFile }),
		text("repository", "what holds the backup: a folder, or s3://host[:port]/bucket[/prefix]", func(c *config) *string { return &c.Repository }, redactDSN),
		{
			"s3", "access_key_file, secret_key_file, session_token_file, region, ca_file, path_style, upload_limit",
			func(c *config, n *yaml.Node) error { return c.S3.set(n) },
			func(c *config) string { return c.S3.text() },
		},
		path("state", "folder of the agent's keys", func(c *config) *string { return &c.State }),
		{
			"profile", "what the database is: synapse or generic; default synapse with homeserver, else generic",
			func(c *config, n *yaml.Node) error {
				c.Profile = n.Value
				return checkProfile(n.Value)
			},
			func(c *config) string { return c.profile() },
		},
		{
			"recipients", "public halves of the operators' identities",
			func(c *config, n *yaml.Node) error { return n.Decode(&c.Recipients) },
			func(c *config) string { return "[" + strings.Join(c.Recipients, ", ") + "]" },
		},
		duration("rpo", "a commit is durable at the latest this long after it was received", func(c *config) *time.Duration { return &c.Tuning.RPO }),
		size("wal_budget", "WAL that the slot may retain before the agent lets go of it, or unlimited", func(c *config) *int64 { return &c.Tuning.WALBudget }),
		text("slot", "name of the replication slot", func(c *config) *string { return &c.Agent.Slot }, nil),
		text("publication", "name of the publication", func(c *config) *string { return &c.Agent.Publication }, nil),
		path("pg_bin", "folder of pg_dump and pg_restore; empty: found by PATH", func(c *config) *string { return &c.Agent.PgBin }),
		duration("schema_quiet", "how long the catalog must rest before the schema is dumped", func(c *config) *time.Duration { return &c.Agent.SchemaQuiet }),
		duration("merge_every", "age at which an epoch ends and its key is forgotten", func(c *config) *time.Duration { return &c.Tuning.MergeEvery }),
		number("merge_segments", "segments at which an epoch ends", func(c *config) *int { return &c.Tuning.MergeSegments }),
		duration("refresh_every", "each table is copied anew at least this often", func(c *config) *time.Duration { return &c.Tuning.RefreshEvery }),
		refreshOption(),
		keepOption(),
		alarmOption(),
		number("copy_workers", "tables or parts of tables copied in parallel", func(c *config) *int { return &c.Tuning.Workers }),
		text("log_level", "debug, info, warn or error", func(c *config) *string { return &c.LogLevel }, nil),
	}
}

// defaults are the values of a file that says nothing.
func defaults() config {
	return config{
		LogLevel: "info",
		Agent:    agent.SourceOptions{Slot: "lifeboat", Publication: "lifeboat", SchemaQuiet: 10 * time.Second},
		Tuning: agent.Tuning{
			RPO: 5 * time.Second, WALBudget: 2 << 30, MergeEvery: time.Hour, MergeSegments: 1000,
			RefreshEvery: 14 * 24 * time.Hour, RefreshMin: 4 << 20, RefreshRate: 32 << 20, CopyMax: time.Hour, Workers: 2,
			Alarm: agent.Alarm{Share: 0.3, Rows: 1000},
		},
	}
}

// parseConfig reads the bytes of a configuration file; name stands in errors.
func parseConfig(name string, data []byte) (config, error) {
	c := defaults()
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if err != nil && err.Error() != "EOF" {
		return c, usagef("%s: %v", name, err)
	}
	if err == nil {
		if err := c.fill(name, &doc); err != nil {
			return c, err
		}
		if dec.Decode(new(yaml.Node)) == nil {
			return c, usagef("%s: a second YAML document after ---: there must be one", name)
		}
	}
	c.applyKeep()
	if c.Source != "" && c.sourceFile != "" {
		return c, usagef("%s: both source and source_file are set: keep one", name)
	}
	if name != "" {
		c.resolve(filepath.Dir(name))
		c.Path = name
	}
	return c, nil
}

func (c *config) fill(name string, doc *yaml.Node) error {
	root := doc
	if doc.Kind == yaml.DocumentNode {
		root = doc.Content[0]
	}
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return usagef("%s:%d: want lines of the form key: value", name, root.Line)
	}
	known := options()
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if line, ok := seen[key.Value]; ok {
			return usagef("%s:%d: %s is already set in line %d", name, key.Line, key.Value, line)
		}
		seen[key.Value] = key.Line
		o, err := lookup(known, key.Value)
		if err != nil {
			return usagef("%s:%d: %v", name, key.Line, err)
		}
		if err := o.set(c, value); err != nil {
			return usagef("%s:%d: %s: %v", name, value.Line, key.Value, clearYAML(err))
		}
	}
	return nil
}

func lookup(known []option, key string) (option, error) {
	best, dist := "", 1<<30
	for _, o := range known {
		if o.name == key {
			return o, nil
		}
		if d := distance(o.name, key); d < dist {
			best, dist = o.name, d
		}
	}
	if dist > max(len(best), len(key))/2 {
		return option{}, fmt.Errorf("unknown key %q: `lifeboat config show` lists the known ones", key)
	}
	return option{}, fmt.Errorf("unknown key %q: did you mean %q?", key, best)
}

// resolve makes relative paths relative to the file that names them.
func (c *config) resolve(dir string) {
	for _, p := range []*string{&c.Homeserver, &c.sourceFile, &c.passwordFile, &c.State, &c.Agent.PgBin} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, o := range s3Options() {
		if o.file == nil {
			continue
		}
		if p := o.file(&c.S3); *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	if c.Repository != "" && !filepath.IsAbs(c.Repository) && !isURL(c.Repository) {
		c.Repository = filepath.Join(dir, c.Repository)
	}
}

// configPath gives the file to read and whether it must exist.
func (a *app) configPath() (file string, must bool) {
	if a.flags.config != "" {
		return a.flags.config, true
	}
	const system = "/etc/lifeboat/lifeboat.yaml"
	if _, err := os.Stat(system); err == nil {
		return system, true
	}
	return "lifeboat.yaml", false
}

// loadConfig reads the file, then lets flags and the environment speak. Without a
// file it needs --repo.
func (a *app) loadConfig() (*config, error) {
	c := defaults()
	file, must := a.configPath()
	data, err := os.ReadFile(file)
	switch {
	case err == nil:
		if c, err = parseConfig(file, data); err != nil {
			return nil, err
		}
	case errors.Is(err, os.ErrNotExist) && !must && a.flags.repo != "":
	case errors.Is(err, os.ErrNotExist):
		return nil, usagef("no configuration at %s: run `lifeboat init`, or name the file with --config or a repository with --repo", file)
	default:
		return nil, usagef("read configuration: %v", err)
	}
	if a.flags.repo != "" {
		c.Repository = a.flags.repo
	}
	if a.flags.logLevel != "" {
		c.LogLevel = a.flags.logLevel
	}
	if c.State == "" {
		c.State = a.defaultState(file)
	}
	if err := a.findSource(&c); err != nil {
		return nil, err
	}
	c.Agent.DSN = c.Source
	if c.profile() == profileSynapse {
		c.Agent.Profile, c.Tuning.Alarm.Empties = synapse.Profile, synapse.Empties
	}
	return &c, nil
}

func (a *app) defaultState(file string) string {
	if d := a.env("STATE_DIRECTORY"); d != "" {
		return d
	}
	return filepath.Join(filepath.Dir(file), "lifeboat-state")
}

// findSource completes the connection string: file, then systemd credential, then
// environment, then homeserver.yaml; and its password the same way. What libpq takes from its own
// environment (PGPASSWORD, PGPASSFILE, PGSERVICEFILE) it goes on taking.
func (a *app) findSource(c *config) error {
	if c.Source == "" {
		s, err := a.secret(c.sourceFile, "source", "LIFEBOAT_SOURCE")
		if err != nil {
			return err
		}
		c.Source = s
	}
	if c.Homeserver != "" {
		c.readHomeserver()
	}
	if c.Source == "" {
		return nil
	}
	p, err := a.secret(c.passwordFile, "source_password", "")
	if err != nil || p == "" {
		return err
	}
	c.Source, err = withPassword(c.Source, p)
	return err
}

// secret reads the first of a file, a systemd credential and a variable; "" when
// there is none. It is never printed.
func (a *app) secret(file, credential, variable string) (string, error) {
	b, err := a.secretBytes(file, credential)
	switch {
	case err != nil:
		return "", err
	case b != nil:
		return strings.TrimRight(string(b), "\r\n"), nil
	case variable == "":
		return "", nil
	}
	return a.env(variable), nil
}

// secretBytes reads the first of a file and a systemd credential, as it is; nil when
// there is none.
func (a *app) secretBytes(file, credential string) ([]byte, error) {
	if file != "" {
		if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
			return nil, usagef("%s holds a secret and everybody can read it: chmod 600 %s", file, file)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("read secret: %v", err)
		}
		return b, nil
	}
	dir := a.env("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, credential))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, usagef("read credential: %v", err)
	}
	return b, nil
}
