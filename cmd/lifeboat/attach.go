package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
)

const attachHelp = `Prepare the database: the publication with its tables, their replica identities and
the replication slot. What is changed is written to the repository first, so that
detach undoes exactly that. No statement of the application waits for it longer
than its deadlock_timeout: a table that is in use is tried again.

The database's role needs REPLICATION, CREATE on the database and the ownership of
the tables; the server needs wal_level=logical (docs/operations.md has the SQL).`

func attachCommand(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "attach", Short: "Prepare the database for backup", Long: attachHelp,
		Example: "  lifeboat attach --dry-run\n  lifeboat attach", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.change(cmd.Context(), dry, agent.Attach, "Attached. `lifeboat run` backs up from here on.")
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the SQL and change nothing")
	return cmd
}

const detachHelp = `Undo what attach did: the slot and the publication go, and the replica identities
are put back as they were. What is in the repository stays and can be restored;
what happens in the database from now on is not backed up. lifeboat run --new-base
goes on one day: it prepares the database again and names the gap.`

func detachCommand(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "detach", Short: "Undo what attach did to the database", Long: detachHelp,
		Example: "  lifeboat detach --dry-run\n  lifeboat detach --yes", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dry {
				if err := a.confirm(cmd.Context(), "The database will not be backed up any more."); err != nil {
					return err
				}
			}
			return a.change(cmd.Context(), dry, agent.Detach, "Detached. The repository keeps what it has. To go on one day: `lifeboat run --new-base`.")
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the SQL and change nothing")
	return cmd
}

// changeFunc is agent.Attach or agent.Detach.
type changeFunc = func(context.Context, *repository, *secrets, agent.Options, bool) ([]agent.Step, error)

func (a *app) change(ctx context.Context, dry bool, f changeFunc, done string) error {
	c, repo, s, err := a.openAsAgent(ctx)
	if err != nil {
		return err
	}
	if err := needSource(c); err != nil {
		return err
	}
	o, err := a.agentOptions(c)
	if err != nil {
		return err
	}
	steps, err := f(ctx, repo, s, o, dry)
	if printed, jsonErr := a.printJSON(struct {
		DryRun bool         `json:"dry_run"`
		Steps  []agent.Step `json:"steps"`
	}{dry, steps}); printed {
		if err != nil {
			return err
		}
		return jsonErr
	}
	show := a.say
	if dry {
		show = a.fact
	}
	for _, step := range steps {
		show("-- %s", step.Why)
		if step.SQL != "" {
			show("%s", strings.TrimSpace(step.SQL))
		}
	}
	switch {
	case err != nil:
		return err
	case dry:
		a.say("Nothing was changed.")
	default:
		a.say("%s", done)
	}
	return nil
}
