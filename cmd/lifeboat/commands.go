package main

import "github.com/spf13/cobra"

// commands lists the subcommands in the order in which they are first needed.
func commands(a *app) []*cobra.Command {
	cobra.EnableCommandSorting = false
	return []*cobra.Command{
		initCommand(a), attachCommand(a), detachCommand(a), runCommand(a),
		statusCommand(a), pointsCommand(a), markCommand(a), alarmCommand(a), findCommand(a), restoreCommand(a),
		exportCommand(a), importCommand(a), inspectCommand(a), verifyCommand(a), pruneCommand(a), doctorCommand(a),
		keyCommand(a), configCommand(a), repoCommand(a), completionCommand(a), versionCommand(a),
	}
}
