package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
)

// s3Config is the s3 part of the configuration: how object storage is reached. Every
// field may be missing.
type s3Config struct {
	accessKeyFile, secretKeyFile, sessionTokenFile string
	region, caFile                                 string
	pathStyle                                      s3.Style
	uploadLimit                                    int64 // bytes a second
}

// s3Option is one key below s3.
type s3Option struct {
	name string
	file func(*s3Config) *string // a path: relative to the configuration
	set  func(*s3Config, *yaml.Node) error
	show func(*s3Config) string
}

func s3Options() []s3Option {
	file := func(name string, at func(*s3Config) *string) s3Option {
		return s3Option{name, at, func(c *s3Config, n *yaml.Node) error { return scalar(n, at(c)) }, func(c *s3Config) string { return *at(c) }}
	}
	return []s3Option{
		file("access_key_file", func(c *s3Config) *string { return &c.accessKeyFile }),
		file("secret_key_file", func(c *s3Config) *string { return &c.secretKeyFile }),
		file("session_token_file", func(c *s3Config) *string { return &c.sessionTokenFile }),
		{"region", nil, func(c *s3Config, n *yaml.Node) error { return scalar(n, &c.region) }, func(c *s3Config) string { return c.region }},
		file("ca_file", func(c *s3Config) *string { return &c.caFile }),
		{"path_style", nil, setStyle, func(c *s3Config) string {
			return map[s3.Style]string{s3.StylePath: "true", s3.StyleHost: "false"}[c.pathStyle]
		}},
		{"upload_limit", nil, setUploadLimit, func(c *s3Config) string {
			if c.uploadLimit == 0 {
				return ""
			}
			return formatSize(c.uploadLimit)
		}},
	}
}

func scalar(n *yaml.Node, at *string) error {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		return errors.New("want text")
	}
	*at = n.Value
	return nil
}

func setStyle(c *s3Config, n *yaml.Node) error {
	switch n.Value {
	case "true":
		c.pathStyle = s3.StylePath
	case "false":
		c.pathStyle = s3.StyleHost
	default:
		return fmt.Errorf("want true (https://host/bucket/key) or false (https://bucket.host/key), have %q", n.Value)
	}
	return nil
}

func setUploadLimit(c *s3Config, n *yaml.Node) (err error) {
	c.uploadLimit, err = parseSize(strings.TrimSuffix(n.Value, "/s"))
	return err
}

// set reads the mapping below s3.
func (c *s3Config) set(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return errors.New("want keys, for instance {access_key_file: …, secret_key_file: …}")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if seen[key] {
			return fmt.Errorf("%s is set twice", key)
		}
		seen[key] = true
		if err := c.setOne(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (c *s3Config) setOne(key string, value *yaml.Node) error {
	var names []string
	for _, o := range s3Options() {
		if o.name == key {
			if err := o.set(c, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			return nil
		}
		names = append(names, o.name)
	}
	if key == "access_key" || key == "secret_key" {
		return fmt.Errorf("%s: keys do not belong into the configuration: put it into a file (mode 0600) and set %s_file", key, key)
	}
	return fmt.Errorf("unknown key %q: known are %s", key, strings.Join(names, ", "))
}

// text is the mapping in YAML's one-line form; "" when nothing is set.
func (c *s3Config) text() string {
	var parts []string
	for _, o := range s3Options() {
		if v := o.show(c); v != "" {
			parts = append(parts, o.name+": "+v)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// absolute makes the paths of the flags independent of the folder that init ran in.
func (c *s3Config) absolute() (err error) {
	for _, o := range s3Options() {
		if o.file == nil {
			continue
		}
		if p := o.file(c); *p != "" && err == nil {
			*p, err = filepath.Abs(*p)
		}
	}
	return err
}

// parseS3Flags reads --s3 KEY=VALUE….
func parseS3Flags(flags []string) (s3Config, error) {
	var c s3Config
	for _, f := range flags {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			return c, usagef("--s3 %s: want KEY=VALUE, for instance --s3 access_key_file=/etc/lifeboat/s3.id", key)
		}
		if err := c.setOne(key, &yaml.Node{Kind: yaml.ScalarNode, Value: value}); err != nil {
			return c, usagef("--s3 %v", err)
		}
	}
	return c, nil
}

// openS3 makes the client; keys come from files, systemd credentials or the
// environment variables that other programs of this kind read.
func (a *app) openS3(c *config) (*s3.Store, error) {
	at, err := s3.ParseURL(c.Repository)
	if err != nil {
		return nil, usagef("repository: %v", err)
	}
	log, err := a.logger(c)
	if err != nil {
		return nil, err
	}
	o := s3.Options{Location: at, Region: c.S3.region, Style: c.S3.pathStyle, UploadLimit: c.S3.uploadLimit, Log: log}
	var secret, token string
	for _, s := range []struct {
		to                         *string
		file, credential, variable string
	}{
		{&o.AccessKey, c.S3.accessKeyFile, "s3_access_key", "AWS_ACCESS_KEY_ID"},
		{&secret, c.S3.secretKeyFile, "s3_secret_key", "AWS_SECRET_ACCESS_KEY"},
		{&token, c.S3.sessionTokenFile, "s3_session_token", "AWS_SESSION_TOKEN"},
	} {
		if *s.to, err = a.secret(s.file, s.credential, s.variable); err != nil {
			return nil, err
		}
	}
	o.SecretKey, o.SessionToken = s3.Secret(secret), s3.Secret(token)
	if o.Region == "" {
		o.Region = orDefault(a.env("AWS_REGION"), a.env("AWS_DEFAULT_REGION"))
	}
	if c.S3.caFile != "" {
		if o.CA, err = os.ReadFile(c.S3.caFile); err != nil {
			return nil, usagef("s3: ca_file: %v", err)
		}
	}
	store, err := s3.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return store, nil
}

// backend opens where the repository lies, which must exist.
func (a *app) backend(c *config) (chunkstore.Backend, error) {
	if s3.IsURL(c.Repository) {
		return a.openS3(c)
	}
	dir, err := repositoryDir(c)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open repository %s: no such folder: %w", dir, history.ErrNoRepository)
	}
	b, err := fs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository %s: %w", dir, err)
	}
	return b, nil
}

// alone is b for a repository whose owner promised that one agent only writes.
func alone(b chunkstore.Backend) chunkstore.Backend {
	if s, ok := b.(*s3.Store); ok {
		return s.SingleWriter()
	}
	return b
}

// newBackend makes or opens where a new repository is to lie, and tries whether the
// store keeps what the log is built on.
func (a *app) newBackend(ctx context.Context, c *config, single bool) (b chunkstore.Backend, err error) {
	if s3.IsURL(c.Repository) {
		b, err = a.openS3(c)
	} else if b, err = fs.Create(c.Repository); err != nil {
		err = fmt.Errorf("create repository folder: %w", err)
	}
	if err != nil {
		return nil, err
	}
	_, err = history.Open(ctx, b)
	switch {
	case err == nil:
		return nil, fmt.Errorf("create repository %s: %w", c.Repository, history.ErrRepositoryExists)
	case !errors.Is(err, history.ErrNoRepository):
		return nil, fmt.Errorf("look at %s: %w", c.Repository, err)
	}
	checks, err := chunkstore.Probe(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("try %s: %w", c.Repository, err)
	}
	err = chunkstore.Unsafe(checks)
	switch {
	case err != nil && !single:
		return nil, fmt.Errorf("%w. Two agents, or one that was interrupted, could overwrite each other there. "+
			"Take another server, or promise with --single-writer that one agent only will ever write to it", err)
	case err != nil:
		a.say("Going on, because of --single-writer: %v.", err)
	}
	if single {
		b = alone(b)
	}
	return b, nil
}
