package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/restore"
)

func markCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "mark NAME", Short: "Name the present moment as a restore point",
		Long: "Name the present moment, for instance before an upgrade. When the command\n" +
			"returns, everything that was committed before it is in the repository and\n" +
			"`restore --at mark:NAME` goes back to it.",
		Example: "  lifeboat mark before-upgrade", Args: args(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.mark(cmd.Context(), args[0]) },
	}
}

func (a *app) mark(ctx context.Context, name string) error {
	repo, s, o, err := a.openForAgent(ctx)
	if err != nil {
		return err
	}
	at, err := agent.Mark(ctx, repo, s, o, name)
	if err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	if done, err := a.printJSON(map[string]string{"name": name, "lsn": at.String()}); done {
		return err
	}
	a.fact("Marked lsn:%s as %s. Go back to it with: %s", at, name, a.restoreLine("mark:"+name, "", &restore.Branches{}))
	return nil
}
