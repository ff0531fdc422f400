package main

import "github.com/spf13/cobra"

// commands lists the subcommands in the order in which they are first needed.
func commands(a *app) []*cobra.Command {
	cobra.EnableCommandSorting = false
	return []*cobra.Command{
		configCommand(a), completionCommand(a), versionCommand(a),
	}
}
