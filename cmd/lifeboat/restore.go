package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

const restoreHelp = `Make a database as of a commit: into an empty database, and into no other. The
schema without indexes, the rows, sequences, indexes and constraints, then every
table is read back and must have the digest of that commit. Until then the database
says that it is unfinished (its comment, and the table lifeboat.restore_state).

--at takes
  latest                          the newest commit in the repository
  2026-01-02T15:04:05+01:00       the commits up to a time, with its zone
  "10 minutes ago"                the same, relative
  lsn:0/16B3748  xid:7421         a position, a transaction
  mark:NAME                       what ` + "`lifeboat mark`" + ` named
and before: in front of any of them: the last commit strictly before it.

--mode says what is done to the rows after they were proven:
  rollback   for a Synapse that goes on from an earlier time (the default when the
             tables are a Synapse's): sequences are set above every value handed out
             since, one-time keys and ephemeral tables emptied, fallback keys marked
             as used, scheduled purges and overdue delayed events defused. A report
             tells what was undone, and what other servers will give back.
  move       the old server is stopped and nothing was lost: every row and sequence
             goes on as it was. Only to the newest commit.
  raw        nothing (the default for any other database): the rows as they were.`

type restoreFlags struct {
	at, to, mode, lineage       string
	report                      string
	only                        []string
	dry, acceptIncomplete, anew bool
	anyLocale                   bool
}

func restoreCommand(a *app) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use: "restore --at POINT --to DSN", Short: "Make a database as of any past commit", Long: restoreHelp,
		Example: "  createdb -T template0 -E UTF8 --locale=C restored    # a Synapse starts on no other locale\n" +
			"  lifeboat restore --at before:xid:7421 --to \"dbname=restored\" --key lifeboat.key\n" +
			"  lifeboat restore --at \"10 minutes ago\" --only table=public.accounts --to \"dbname=rows\" --key lifeboat.key\n" +
			"  lifeboat restore --at \"10 minutes ago\" --dry-run --key lifeboat.key",
		Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.restore(cmd.Context(), f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.at, "at", "", "the commit to go back to; there is no default")
	fl.StringVar(&f.to, "to", "", "connection string of an empty database, without a password (PGPASSWORD or ~/.pgpass)")
	fl.StringVar(&f.mode, "mode", "", "what is done to the rows: rollback, move or raw (default: rollback for a Synapse, raw for any other database)")
	fl.StringArrayVar(&f.only, "only", nil, "restore the rows of this table alone (`table=schema.name`; may be repeated): reads little else; the schema is whole")
	fl.StringVar(&f.report, "report", "", "write the whole report as JSON to this `file` too")
	fl.BoolVar(&f.dry, "dry-run", false, "print the plan and touch nothing")
	fl.BoolVar(&f.acceptIncomplete, "accept-incomplete", false, "restore tables that are not exact at the point as best known")
	fl.BoolVar(&f.anew, "start-over", false, "drop what an unfinished restore left in the target and begin again")
	fl.BoolVar(&f.anyLocale, "any-locale", false, "restore a Synapse into a database whose locale is not C too (it needs allow_unsafe_locale then)")
	lineageFlag(cmd, &f.lineage)
	return cmd
}

func (f *restoreFlags) check() error {
	switch {
	case f.at == "":
		return usagef("restore needs --at: which commit to go back to, for instance --at latest; `lifeboat restore --help` lists the forms")
	case f.to == "" && !f.dry:
		return usagef("restore needs --to DSN: an empty database; or --dry-run to see the plan")
	case hasPassword(f.to):
		return usagef(passwordSeen)
	}
	return nil
}

// tables gives the names that --only holds, in full.
func (f *restoreFlags) tables() ([]string, error) {
	var out []string
	for _, o := range f.only {
		name, ok := strings.CutPrefix(o, "table=")
		if !ok || name == "" {
			return nil, usagef("--only %s: want table=schema.name, for instance --only table=public.accounts", o)
		}
		if !strings.Contains(name, ".") {
			name = "public." + name
		}
		out = append(out, name)
	}
	if f.mode != "" && f.mode != string(synapse.Raw) && len(out) > 0 {
		return nil, usagef("--only restores the rows of some tables as they were; --mode %s needs all of them", f.mode)
	}
	return out, nil
}

// passwordSeen says why an address has no password in it.
const passwordSeen = "a password on the command line is seen by every user of this host: put it into PGPASSWORD or ~/.pgpass"

// parseMode reads --mode; "" when the plan chooses.
func parseMode(text string) (synapse.Mode, error) {
	if text == "" {
		return "", nil
	}
	m, err := synapse.ParseMode(text)
	if err != nil {
		return "", usagef("--mode: %v", err)
	}
	return m, nil
}

func (a *app) restore(ctx context.Context, f restoreFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	mode, err := parseMode(f.mode)
	if err != nil {
		return err
	}
	only, err := f.tables()
	if err != nil {
		return err
	}
	target, err := restore.ParseTarget(f.at, a.now())
	if err != nil {
		return err
	}
	c, repo, s, err := a.openAsOperator(ctx, "restore")
	if err != nil {
		return err
	}
	b, err := a.branches(ctx, c, repo, s, f.lineage)
	if err != nil {
		return err
	}
	v, point, err := b.Resolve(ctx, target)
	if err != nil {
		return err
	}
	family := b
	if f.lineage != "" { // the point is looked for in one branch; the others of its family count all the same
		if family, err = restore.ReadBranches(ctx, repo, s, v.ID); err != nil {
			return err
		}
	}
	plan, err := restore.NewPlan(ctx, v, point, restore.Options{
		Only: only, AcceptIncomplete: f.acceptIncomplete, StartOver: f.anew, AnyLocale: f.anyLocale, PgRestore: c.Agent.PgBin, Mode: mode, Family: family.Family(v), Damaged: family.Damaged,
	})
	if err != nil {
		return err
	}
	if f.dry {
		return a.printPlan(ctx, plan, f.report)
	}
	a.say("%s", strings.TrimRight(plan.String(), "\n"))
	p := a.newProgress()
	report, err := plan.Materialise(ctx, f.to, s, p)
	p.end()
	if report != nil && (err == nil || errors.Is(err, restore.ErrLosses)) {
		if e := errors.Join(writeReport(f.report, report), a.printRestore(report, plan.Notes)); e != nil {
			return errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// printRestore prints what became of the plan; the notes that it printed already
// are left out.
func (a *app) printRestore(r *restore.Report, printed []string) error {
	if done, err := a.printJSON(r); done {
		return err
	}
	for _, n := range r.Notes {
		if a.flags.quiet || !slices.Contains(printed, n) {
			a.fact("note: %s", n)
		}
	}
	for _, t := range r.Tables {
		if t.Incomplete != "" {
			a.fact("INCOMPLETE %s: %s", t.Table, t.Incomplete)
		}
	}
	for _, f := range r.Failed {
		a.fact("failed: %s\n  %s", f.Error, strings.ReplaceAll(strings.TrimSpace(f.Statement), "\n", "\n  "))
	}
	if !r.Verified {
		a.fact("Not verified: the database is marked as unfinished.")
		return nil
	}
	what, of := "Restored "+r.Point.String(), "that commit"
	if r.Archive != "" {
		what, of = "Imported "+r.Archive, "the archive"
	}
	a.fact("%s: %s in %s, %s; every table read back has the digest of %s.", what,
		count(r.Rows, "row", "rows"), count(int64(len(r.Tables)), "table", "tables"), mib(r.Bytes), of)
	a.printAftercare(r.Aftercare)
	a.printLoss(r.Loss, true)
	return nil
}
