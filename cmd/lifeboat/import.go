package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/restore"
)

const importHelp = `Make a Synapse's database of an archive: into an empty database, and into no other.
It takes the database itself that ` + "`lifeboat export`" + ` put beside the items for other
homeservers, and loses nothing. The whole archive is verified before the first write;
then it goes as a restore does: schema, rows, sequences, indexes, every table read back,
which must have the digest of the rows that were verified, and what --mode asks for.
Until then the database says that it is unfinished.

An archive brings SQL commands, which are run with the rights of --to: import only what
you trust, as a role that owns nothing but the new database.

--check verifies the archive, looks at the target and writes nothing.
--dry-run prints what would be done, too.

--mode is that of ` + "`lifeboat restore`" + `. An archive does not know what came after it, so
  rollback   (the default for a Synapse) sets sequences far above those of the archive
  move       is right only if the old server was stopped before the export
  raw        does nothing to the rows

homeserver.yaml, the signing key's file and media do not come with the database.`

type importFlags struct {
	archiveFlags
	to, mode, report            string
	check, dry, anew, anyLocale bool
}

func importCommand(a *app) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import FILE --to DSN", Short: "Make a Synapse's database of an archive", Long: importHelp,
		Example: "  lifeboat import server.tar.zst.age --dry-run --key lifeboat.key\n" +
			"  createdb -T template0 -E UTF8 --locale=C synapse\n" +
			"  lifeboat import server.tar.zst.age --to \"dbname=synapse\" --key lifeboat.key",
		Args: args(1, 1, "the file or the folder of an archive"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.importArchive(cmd.Context(), args[0], f) },
	}
	fl := cmd.Flags()
	f.unknownOn(cmd)
	fl.StringVar(&f.to, "to", "", "connection string of an empty database, without a password (PGPASSWORD or ~/.pgpass)")
	fl.StringVar(&f.mode, "mode", "", "what is done to the rows: rollback, move or raw (default: rollback for a Synapse)")
	fl.StringVar(&f.report, "report", "", "write the whole report as JSON to this `file` too")
	fl.BoolVar(&f.check, "check", false, "verify the archive, look at the target, write nothing")
	fl.BoolVar(&f.dry, "dry-run", false, "verify the archive, print the plan, write nothing")
	fl.BoolVar(&f.anew, "start-over", false, "drop what an unfinished import left in the target and begin again")
	fl.BoolVar(&f.anyLocale, "any-locale", false, "import into a database whose locale is not C too (Synapse needs allow_unsafe_locale then)")
	return cmd
}

func (f *importFlags) usage() error {
	switch {
	case f.check && f.dry:
		return usagef("--dry-run does what --check does, and prints the plan: give one of them")
	case f.to == "" && !f.dry:
		return usagef("import needs --to DSN: an empty database; or --dry-run to see the plan")
	case hasPassword(f.to):
		return usagef(passwordSeen)
	}
	return nil
}

func (a *app) importArchive(ctx context.Context, file string, f importFlags) error {
	if err := f.usage(); err != nil {
		return err
	}
	mode, err := parseMode(f.mode)
	if err != nil {
		return err
	}
	o := restore.ImportOptions{Mode: mode, StartOver: f.anew, AnyLocale: f.anyLocale}
	if o.Read, err = a.archiveOptions(ctx, "import", f.archiveFlags); err != nil {
		return err
	}
	p := a.newProgress()
	defer p.end()
	p.Start(restore.PhaseCheck, 0)
	plan, err := restore.PlanImport(ctx, file, o)
	if err == nil && f.to != "" {
		err = plan.Check(ctx, f.to)
	}
	p.end()
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if f.check || f.dry {
		return a.printImport(plan, f)
	}
	a.say("%s", strings.TrimRight(plan.String(), "\n"))
	report, err := plan.Into(ctx, f.to, p)
	p.end()
	if report != nil && (err == nil || errors.Is(err, restore.ErrLosses)) {
		if e := errors.Join(writeReport(f.report, report), a.printRestore(report, plan.Notes)); e != nil {
			return errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return nil
}

// printImport prints what an import would do.
func (a *app) printImport(plan *restore.Import, f importFlags) error {
	if err := writeReport(f.report, plan); err != nil {
		return err
	}
	if done, err := a.printJSON(plan); done {
		return err
	}
	if f.dry {
		a.fact("%s", strings.TrimRight(plan.String(), "\n"))
	} else {
		for _, n := range plan.Notes {
			a.fact("note: %s", oneLine(n))
		}
		a.fact("The archive is whole, and the database takes it: %s in %s.", count(plan.Rows, "row", "rows"), count(int64(len(plan.Tables)), "table", "tables"))
	}
	a.fact("Nothing was touched.")
	return nil
}
