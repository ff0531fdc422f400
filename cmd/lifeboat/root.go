package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is one run of the program: where it reads and writes, and its global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	now      func() time.Time
	flags    struct {
		config, repo, key, logLevel string
		json, quiet, yes            bool
	}
}

const rootHelp = `Lifeboat backs up a PostgreSQL database continuously and restores any past commit.

It follows the database over logical replication, keeps every committed row change
in a repository that is encrypted and never overwritten, and makes a new database
from it as of any commit.

  lifeboat init     writes lifeboat.yaml, the repository and the key
  lifeboat attach   prepares the database
  lifeboat run      backs up until it is stopped
  lifeboat find     finds the commit that did the damage
  lifeboat restore  makes a database as of just before it`

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "lifeboat", Short: "Continuous backup and point-in-time restore for PostgreSQL",
		Long: rootHelp, SilenceErrors: true, SilenceUsage: true,
		Example: "  lifeboat init --repo /srv/backup --source postgres://lifeboat@db.example.net/app\n  lifeboat attach && lifeboat run",
	}
	f := root.PersistentFlags()
	f.StringVar(&a.flags.config, "config", "", "configuration file (default /etc/lifeboat/lifeboat.yaml if there, else ./lifeboat.yaml)")
	f.StringVar(&a.flags.repo, "repo", "", "folder of the repository, instead of repository: in the configuration")
	f.StringVar(&a.flags.key, "key", "", "file with the operator's identity (or LIFEBOAT_KEY_FILE)")
	f.BoolVar(&a.flags.json, "json", false, "print facts as JSON")
	f.BoolVar(&a.flags.quiet, "quiet", false, "print facts and errors only")
	f.BoolVar(&a.flags.yes, "yes", false, "answer yes where the command would ask")
	f.StringVar(&a.flags.logLevel, "log-level", "", "debug, info, warn or error")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; `%s --help` shows the flags", err, cmd.CommandPath())
	})
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unknown command %q%s", args[0], suggestion(cmd, args[0]))
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	root.AddCommand(commands(a)...)
	return root
}

func suggestion(cmd *cobra.Command, arg string) string {
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(arg); len(s) > 0 {
		return fmt.Sprintf(": did you mean %q?", s[0])
	}
	return ": `lifeboat --help` lists the commands"
}

// isGroup annotates a command that does nothing itself.
const isGroup = "group"

// group makes a command that only holds others.
func group(use, short, example string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Annotations: map[string]string{isGroup: ""},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q%s", args[0], suggestion(cmd, args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(sub...)
	return cmd
}

// args makes an argument check that says what is wanted.
func args(least, most int, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%s: want %s, have %d arguments; `%s --help` has an example", cmd.CommandPath(), want, len(args), cmd.CommandPath())
		}
		return nil
	}
}

func noArgs() cobra.PositionalArgs { return args(0, 0, "no argument") }

// logger writes what happens to standard error.
func (a *app) logger(c *config) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, usagef("log level %q: use debug, info, warn or error", c.LogLevel)
	}
	if a.flags.quiet && a.flags.logLevel == "" {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})), nil
}

// confirm asks before something that cannot be undone. Without a terminal it
// needs --yes.
func (a *app) confirm(ctx context.Context, question string) error {
	if a.flags.yes {
		return nil
	}
	file, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return fmt.Errorf("%w: %s Say --yes to go on", errRefused, question)
	}
	fmt.Fprintf(a.err, "%s Go on? [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		var s string
		_, _ = fmt.Fscanln(a.in, &s)
		answer <- s
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s := <-answer:
		if s = strings.ToLower(s); s == "y" || s == "yes" {
			return nil
		}
	}
	return fmt.Errorf("%w: nothing was changed", errRefused)
}
