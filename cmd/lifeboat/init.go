package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/s3"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/durable"
	"lifeboat.im/lifeboat/synapse"
)

const initHelp = `Create the repository, the operator's identity and lifeboat.yaml.

The database is not touched. What exists is never overwritten: an identity file
that is there already is used, a configuration or a repository is an error.

The operator's identity opens the backup, and only it does. It goes to --key FILE
(default lifeboat.key beside the configuration) and should leave this host: the
backup goes on without it. With --recipient no identity is made; the backup is
for the owners of these recipients (age1… or ssh-…).`

type initFlags struct {
	homeserver, source, sourceFile, profile string
	recipients, s3                          []string
	plaintext, singleWriter                 bool
}

func initCommand(a *app) *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init --repo DIR|URL (--homeserver FILE | --source DSN)", Short: "Create the repository, the key and lifeboat.yaml", Long: initHelp,
		Example: "  lifeboat init --repo /srv/backup --homeserver /etc/matrix-synapse/homeserver.yaml\n" +
			"  lifeboat init --repo /srv/backup --source postgres://lifeboat@db.example.net/app\n" +
			"  lifeboat init --repo s3://s3.example.net/backups/matrix --s3 access_key_file=/etc/lifeboat/s3.id --s3 secret_key_file=/etc/lifeboat/s3.secret --source dbname=app\n" +
			"  lifeboat init --repo /srv/backup --source-file /etc/lifeboat/dsn --recipient age1…",
		Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.init(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.homeserver, "homeserver", "", "homeserver.yaml of Synapse: the database is read from it, now and at each start")
	cmd.Flags().StringVar(&f.source, "source", "", "connection string of the database, without a password")
	cmd.Flags().StringVar(&f.sourceFile, "source-file", "", "file that holds the connection string")
	cmd.Flags().StringVar(&f.profile, "profile", "", "what the database is, synapse or generic (default: synapse with --homeserver, else the database is asked)")
	cmd.Flags().StringArrayVar(&f.recipients, "recipient", nil, "who can restore (age1… or ssh-…); may be given several times")
	cmd.Flags().BoolVar(&f.plaintext, "plaintext", false, "do not encrypt: whoever reads the repository reads the data")
	cmd.Flags().StringArrayVar(&f.s3, "s3", nil, "a `KEY=VALUE` of the s3 part of the configuration (access_key_file, region, …); may be given several times")
	cmd.Flags().BoolVar(&f.singleWriter, "single-writer", false, "the store cannot create-if-absent, and one agent only will ever write to it: a promise, nothing checks it")
	return cmd
}

// initPlan is where everything goes; nothing of it exists yet, but perhaps the key.
type initPlan struct {
	config, key, repo, state string
	yaml                     []byte
	profile, why             string // why: what init found out about it
	s3                       s3Config
}

func (a *app) init(ctx context.Context, f initFlags) error {
	p, err := a.planInit(ctx, f)
	if err != nil {
		return err
	}
	recipients := f.recipients
	var made string
	var backend chunkstore.Backend
	at := &config{Repository: p.repo, S3: p.s3, LogLevel: orDefault(a.flags.logLevel, "info")}
	if s3.IsURL(p.repo) { // may fail in many ways: nothing is made before
		if backend, err = a.newBackend(ctx, at, f.singleWriter); err != nil {
			return err
		}
	}
	if len(recipients) == 0 && !f.plaintext {
		if made, err = a.makeIdentity(p.key); err != nil {
			return err
		}
		recipients = []string{made}
	}
	if backend == nil {
		if backend, err = a.newBackend(ctx, at, f.singleWriter); err != nil {
			return err
		}
	}
	// A crash from here on leaves a repository without a configuration: init says so
	// when it is run again, and `key export --agent` makes the rest from the key.
	_, secrets, err := history.Create(ctx, backend, history.CreateOptions{Recipients: recipients, Plaintext: f.plaintext, SingleWriter: f.singleWriter})
	if err != nil {
		return fmt.Errorf("create repository %s: %w", p.repo, err)
	}
	if err := agent.SaveSecrets(p.state, secrets); err != nil {
		return fmt.Errorf("save the agent's secrets: %w", err)
	}
	if err := p.addRecipients(recipients); err != nil {
		return err
	}
	if err := durable.WriteFile(p.config, p.yaml, 0o640); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return a.reportInit(p, f, hex.EncodeToString(secrets.Repository[:]), recipients, made != "")
}

func (a *app) planInit(ctx context.Context, f initFlags) (*initPlan, error) {
	p := &initPlan{config: orDefault(a.flags.config, "lifeboat.yaml")}
	c := &config{Repository: a.flags.repo}
	if c.Repository == "" {
		return nil, usagef("init needs --repo DIR: the folder that will hold the backup, best on another disk or host; or s3://host/bucket/prefix")
	}
	var err error
	if p.repo, err = repositoryDir(c); err != nil {
		return nil, err
	}
	if p.s3, err = parseS3Flags(f.s3); err != nil {
		return nil, err
	}
	switch {
	case !s3.IsURL(p.repo) && len(f.s3) > 0:
		return nil, usagef("--s3 is for a repository in object storage, and --repo names a folder")
	case !s3.IsURL(p.repo):
		if p.repo, err = filepath.Abs(p.repo); err != nil {
			return nil, err
		}
	}
	if err := p.s3.absolute(); err != nil {
		return nil, err
	}
	if f.profile != "" {
		if err := checkProfile(f.profile); err != nil {
			return nil, usagef("--profile: %v", err)
		}
	}
	if err := a.checkInitSource(f); err != nil {
		return nil, err
	}
	if f.plaintext && len(f.recipients) > 0 {
		return nil, usagef("--plaintext and --recipient exclude each other: a plaintext repository is for everybody")
	}
	for _, r := range f.recipients {
		if err := checkRecipient(r); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(p.config); err == nil {
		return nil, fmt.Errorf("%w: %s exists and is not overwritten; name another file with --config, or move it away", errRefused, p.config)
	}
	dir := filepath.Dir(p.config)
	p.key = orDefault(a.flags.key, filepath.Join(dir, "lifeboat.key"))
	p.state = a.defaultState(p.config)
	if _, err := agent.LoadSecrets(p.state); !errors.Is(err, agent.ErrState) {
		return nil, fmt.Errorf("%w: %s is the state of an agent already; put the configuration into another folder (--config)", errRefused, p.state)
	}
	if p.profile, p.why, err = a.initProfile(ctx, f); err != nil {
		return nil, err
	}
	return p, p.write(f)
}

// checkInitSource wants exactly one way to the database.
func (a *app) checkInitSource(f initFlags) error {
	switch {
	case f.homeserver != "" && (f.source != "" || f.sourceFile != ""):
		return usagef("give one of --homeserver and --source: homeserver.yaml names the database")
	case f.source != "" && f.sourceFile != "":
		return usagef("give one of --source and --source-file")
	case f.homeserver == "" && f.source == "" && f.sourceFile == "" && a.env("LIFEBOAT_SOURCE") == "":
		return usagef("init needs the database: --homeserver FILE, --source DSN, --source-file FILE or LIFEBOAT_SOURCE")
	case hasPassword(f.source):
		return usagef("a password on the command line is seen by every user of this host: put the connection string into a file and give --source-file FILE, or the password into ~/.pgpass or password_file:")
	}
	if f.homeserver == "" {
		return nil
	}
	if _, err := synapse.ReadHomeserver(f.homeserver); err != nil {
		return usageError{err.Error()}
	}
	return nil
}

// initProfile is the one that was asked for, or what the database says it is.
func (a *app) initProfile(ctx context.Context, f initFlags) (profile, why string, err error) {
	switch {
	case f.profile != "":
		return f.profile, "", nil
	case f.homeserver != "":
		return profileSynapse, "", nil
	}
	c := &config{Source: f.source, sourceFile: f.sourceFile}
	if err := a.findSource(c); err != nil {
		return "", "", err
	}
	profile, why = a.detect(ctx, c.Source)
	return profile, why, nil
}

// write makes the text of the configuration, up to the recipients.
func (p *initPlan) write(f initFlags) error {
	var b bytes.Buffer
	b.WriteString("# Lifeboat. `lifeboat config show` lists every key with its value and meaning.\n")
	put := func(key, value string) error {
		if value == "" {
			return nil
		}
		line, err := yaml.Marshal(map[string]string{key: value})
		b.Write(line)
		return err
	}
	for _, file := range []*string{&f.sourceFile, &f.homeserver} {
		if *file != "" {
			var err error
			if *file, err = filepath.Abs(*file); err != nil {
				return err
			}
		}
	}
	err := errors.Join(put("homeserver", f.homeserver), put("source", f.source), put("source_file", f.sourceFile),
		put("profile", p.profile), put("repository", p.repo))
	if text := p.s3.text(); text != "" {
		b.WriteString("s3: " + text + "\n")
	}
	b.WriteString("rpo: 5s            # a commit is in the repository at the latest after this time\n")
	b.WriteString("wal_budget: 2GiB   # then let go of the slot rather than fill the database's disk\n")
	p.yaml = b.Bytes()
	return err
}

func (p *initPlan) addRecipients(recipients []string) error {
	if len(recipients) == 0 {
		return nil
	}
	line, err := yaml.Marshal(map[string][]string{"recipients": recipients})
	p.yaml = append(p.yaml, line...)
	return err
}

// makeIdentity writes a new identity, or takes the one that an earlier try left,
// and gives its recipient. It is durable before anything is sealed to it.
func (a *app) makeIdentity(file string) (string, error) {
	if b, err := os.ReadFile(file); err == nil {
		ids, err := age.ParseIdentities(bytes.NewReader(b))
		if err != nil || len(ids) != 1 || recipientOf(ids[0]) == "" {
			return "", fmt.Errorf("%w: %s exists and is not an identity that init wrote; name another file with --key", errRefused, file)
		}
		a.say("Using the identity that is in %s already.", file)
		return recipientOf(ids[0]), nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("look for %s: %w", file, err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", fmt.Errorf("make identity: %w", err)
	}
	text := fmt.Sprintf("# created: %s by lifeboat init\n# public key: %s\n%s\n", a.now().Format(time.RFC3339), id.Recipient(), id)
	if err := durable.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write identity: %w", err)
	}
	return id.Recipient().String(), nil
}

func (a *app) reportInit(p *initPlan, f initFlags, id string, recipients []string, madeKey bool) error {
	facts := struct {
		Repository string   `json:"repository"`
		ID         string   `json:"id"`
		Config     string   `json:"config"`
		Key        string   `json:"key,omitempty"`
		State      string   `json:"state"`
		Profile    string   `json:"profile"`
		Recipients []string `json:"recipients"`
		Plaintext  bool     `json:"plaintext"`
	}{Repository: p.repo, ID: id, Config: p.config, State: p.state, Profile: p.profile, Recipients: recipients, Plaintext: f.plaintext}
	if madeKey {
		facts.Key = p.key
	}
	if done, err := a.printJSON(facts); done {
		return err
	}
	a.fact("Created the repository %s and wrote %s.", p.repo, p.config)
	switch {
	case f.plaintext:
		a.fact("It is not encrypted: whoever can read it can read your data.")
	case madeKey:
		a.fact("Wrote the operator's identity to %s (recipient %s).", p.key, recipients[0])
		a.fact("It opens the backup and nothing else does, and it must not live on this host.")
		a.say("Without it nothing can be restored; whoever has it can read everything.")
		a.say("  lifeboat key paper --key %s    prints it", p.key)
		a.say("  lifeboat key test --key COPY            proves that a copy of it works")
		a.say("Then delete it here: the backup goes on without it.")
	default:
		a.fact("It opens with the identities of:")
		for _, r := range recipients {
			a.fact("  %s", r)
		}
		a.fact("Prove that one of them works: lifeboat key test --key FILE")
	}
	a.say("")
	if p.why != "" {
		a.say("%s", p.why)
	}
	a.say("Next: `lifeboat attach --dry-run` shows what changes in the database, `lifeboat attach`")
	a.say("does it, `lifeboat run` backs up.")
	return nil
}
