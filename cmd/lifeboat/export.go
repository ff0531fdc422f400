package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
	"lifeboat.im/lifeboat/synapse/archive"
)

const exportHelp = `Write a homeserver as of a commit into one archive (MSC2783): rooms, events, users,
keys and messages that wait for devices, as any homeserver could read them, and the
database itself, for a return to Synapse without loss. It comes straight from the
repository: no database is needed, and none is touched.

FILE says the form by its name: a folder, .tar, .tar.gz or .tar.zst, and .age behind
the last three for an encrypted one. An archive is as good as the server: it holds its
signing key and the password hashes. So it is encrypted, to those who can restore
from the repository or to --recipient, unless --plaintext is given. Until it is whole
it is named FILE.partial; whatever happens, nothing else is left behind.

--at takes what ` + "`lifeboat restore --help`" + ` lists. Two exports of one commit hold the
same bytes. Nothing is in it that must not be copied: one-time keys, and the pepper
of the passwords. Media are not in it yet.

The rows are sorted in temporary files that nobody else can read, in the folder of
FILE or in --temp: about twice as many bytes as the database has rows.`

type exportFlags struct {
	at, lineage      string
	recipients       []string
	plaintext        bool
	signingKey, yaml string
	noKey            bool
	server           string
	redact           string
	acceptIncomplete bool
	temp, reportFile string
}

// exportMerge and exportSort are the budgets in bytes of the two steps before the
// archive is written; with what reads ahead and the files being written all stays below
// 256 MiB.
const (
	exportMerge = 64 << 20
	exportSort  = 48 << 20
)

func exportCommand(a *app) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use: "export --at POINT FILE", Short: "Write the homeserver of any past commit into an archive", Long: exportHelp,
		Example: "  lifeboat export --at latest server.tar.zst.age --key lifeboat.key\n" +
			"  lifeboat export --at before:xid:7421 server.tar.zst.age --recipient age1… --no-signing-key --key lifeboat.key",
		Args: args(1, 1, "the file or the folder to write"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.export(cmd.Context(), args[0], f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.at, "at", "", "the commit to export; there is no default")
	fl.StringArrayVar(&f.recipients, "recipient", nil, "who can open it: age1… or an SSH public key (default: those of the repository; may be repeated)")
	fl.BoolVar(&f.plaintext, "plaintext", false, "do not encrypt: whoever reads the archive can be the server")
	fl.StringVar(&f.signingKey, "signing-key", "", "the server's signing key `file` (default: the one that homeserver.yaml names)")
	fl.StringVar(&f.yaml, "homeserver", "", "homeserver.yaml to read name and keys from (default: homeserver: in the configuration)")
	fl.BoolVar(&f.noKey, "no-signing-key", false, "leave the signing key out: the archive then cannot make the server speak again by itself")
	fl.StringVar(&f.server, "server-name", "", "name of the server, where neither homeserver.yaml nor an account says it")
	fl.StringVar(&f.redact, "redact", "pending", "pending: what was redacted is gone, also where Synapse still keeps it for a while; none: events as they are stored")
	fl.BoolVar(&f.acceptIncomplete, "accept-incomplete", false, "export tables that are not exact at the point as best known")
	fl.StringVar(&f.temp, "temp", "", "`folder` for temporary files (default: that of FILE)")
	fl.StringVar(&f.reportFile, "report", "", "write what is printed as JSON to this `file` too")
	lineageFlag(cmd, &f.lineage)
	return cmd
}

func (f *exportFlags) check() error {
	switch {
	case f.at == "":
		return usagef("export needs --at: which commit, for instance --at latest; `lifeboat restore --help` lists the forms")
	case f.plaintext && len(f.recipients) > 0:
		return usagef("--plaintext and --recipient exclude each other")
	case f.signingKey != "" && f.noKey:
		return usagef("--signing-key and --no-signing-key exclude each other")
	case f.redact != "pending" && f.redact != "none":
		return usagef("--redact %s: use pending or none", f.redact)
	}
	return nil
}

func (a *app) export(ctx context.Context, file string, f exportFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	target, err := restore.ParseTarget(f.at, a.now())
	if err != nil {
		return err
	}
	c, repo, s, err := a.openAsOperator(ctx, "export")
	if err != nil {
		return err
	}
	to, err := f.writeOptions(file, s)
	if err != nil {
		return err
	}
	v, point, err := a.resolve(ctx, c, repo, s, f.lineage, target)
	if err != nil {
		return err
	}
	plan, err := restore.NewPlan(ctx, v, point, restore.Options{
		AcceptIncomplete: f.acceptIncomplete, Memory: exportMerge, PgRestore: c.Agent.PgBin, Mode: synapse.Raw,
	})
	if err != nil {
		return err
	}
	if !plan.IsSynapse() {
		return usagef("export makes a homeserver's archive, and the tables of this point are not a Synapse's; `lifeboat restore` makes a database of them")
	}
	o, err := f.identity(c)
	if err != nil {
		return err
	}
	if f.temp == "" {
		f.temp = filepath.Dir(filepath.Clean(file))
	}
	d, err := spill.Open(f.temp)
	if err != nil {
		return err
	}
	p := a.newProgress()
	facts, exact, err := writeArchive(ctx, file, plan, s, d, o, to, p)
	p.end()
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := errors.Join(writeReport(f.reportFile, facts), a.printArchive(facts)); err != nil {
		return err
	}
	if !exact {
		return verdict{exitLosses, "the archive is written, and not every table of it is exact: the report above names them"}
	}
	return nil
}

// writeArchive takes the plan through its steps: rows, items, archive.
func writeArchive(ctx context.Context, file string, plan *restore.Plan, s *history.Secrets, d *spill.Dir, o archive.Options, to mspf.WriteOptions, p *progress) (archiveFacts, bool, error) {
	none := archiveFacts{}
	spool, err := plan.Spool(ctx, s, d, p)
	if err != nil {
		return none, false, err
	}
	from := spool.Archive()
	if from.Source, from.ServerName, err = archive.Origin(ctx, spool.Public()); err != nil {
		return none, false, err
	}
	if o.Archive, err = named(from, o.Archive); err != nil {
		return none, false, err
	}
	o.Floors, o.Memory = spool.Floors(), exportSort
	p.Start(restore.PhaseSort, 0)
	c, err := archive.Contents(ctx, spool.Public(), d, o)
	if err != nil {
		return none, false, err
	}
	if err := spool.AddDatabase(c); err != nil {
		return none, false, err
	}
	p.Start(restore.PhaseArchive, 0)
	out, err := mspf.Write(ctx, file, *c, to)
	if err != nil {
		return none, false, err
	}
	return facts(file, &mspf.Outcome{
		Core: c.Core, Archive: &c.Archive, Items: out.Integrity.Items, Complete: true, SHA256: out.SHA256, Report: &out.Report,
	}), spool.Exact(), nil
}

// named puts together what the database and the options say of an archive's origin.
func named(from, by mspf.Archive) (mspf.Archive, error) {
	from.ToolVersion, from.Filters = by.ToolVersion, append(from.Filters, by.Filters...)
	switch {
	case by.ServerName == "":
	case from.ServerName != "" && from.ServerName != by.ServerName:
		return from, usagef("the accounts of this point are of %s, and not of %s", from.ServerName, by.ServerName)
	default:
		from.ServerName = by.ServerName
	}
	if from.ServerName == "" {
		return from, usagef("nothing says what the server's name is: give --server-name, or --homeserver FILE")
	}
	return from, nil
}

// writeOptions says who can open the archive, and refuses a name that cannot be written
// before anything is read.
func (f *exportFlags) writeOptions(file string, s *history.Secrets) (mspf.WriteOptions, error) {
	o := mspf.WriteOptions{Plaintext: f.plaintext}
	if strings.HasSuffix(file, ".age") {
		if f.plaintext {
			return o, usagef("%s is the name of an encrypted archive: leave out --plaintext, or .age", file)
		}
		list := f.recipients
		if len(list) == 0 {
			list = s.Recipients
		}
		if len(list) == 0 {
			return o, usagef("the repository is not encrypted, so nobody is known who could open the archive: give --recipient age1…, or --plaintext and a name without .age")
		}
		for _, text := range list {
			r, err := parseRecipient(text)
			if err != nil {
				return o, err
			}
			o.Recipients = append(o.Recipients, r)
		}
	} else if len(f.recipients) > 0 {
		return o, usagef("%s is the name of an archive that is not encrypted: name it .tar.zst.age", file)
	}
	return o, mspf.Check(file, o)
}

// identity reads what makes the server itself: its name and its keys.
func (f *exportFlags) identity(c *config) (archive.Options, error) {
	o := archive.Options{AsStored: f.redact == "none"}
	o.Archive.ToolVersion, o.Archive.ServerName = buildVersion(), f.server
	h, err := c.homeserver, c.homeserverErr
	if f.yaml != "" {
		h, err = synapse.ReadHomeserver(f.yaml)
	}
	if err != nil && (f.yaml != "" || !f.noKey && f.signingKey == "") {
		return o, err
	}
	if err == nil && h != nil {
		if o.Archive.ServerName == "" {
			o.Archive.ServerName = h.ServerName
		}
		for id, k := range h.OldKeys {
			if o.OldKeys == nil {
				o.OldKeys = map[string]mspf.OldKey{}
			}
			o.OldKeys[id] = mspf.OldKey(k)
		}
		o.AuthService = h.MAS != ""
		// synapse/handlers/auth.py: validate_hash.
		o.Password = &mspf.Password{Scheme: "bcrypt", Peppered: h.Peppered, Normalization: "NFKC", MaxBytes: 72}
	}
	switch {
	case f.noKey:
		o.Archive.Filters = append(o.Archive.Filters, "no-signing-key")
	case f.signingKey != "":
		o.SigningKeys, err = synapse.ReadSigningKeys(f.signingKey)
	case err == nil && h != nil:
		o.SigningKeys, err = h.SigningKeys()
	default:
		return o, usagef("the signing key is part of the archive, and nothing says where it is: give --signing-key FILE or --homeserver FILE, or --no-signing-key to leave it out")
	}
	if err != nil {
		return o, usagef("%v; give --signing-key FILE, or --no-signing-key to leave it out", err)
	}
	return o, nil
}
