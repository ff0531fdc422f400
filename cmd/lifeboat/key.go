package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/durable"
)

const keyHelp = `The repository's secrets lie in it, sealed to the operators' recipients. Adding or
removing an operator rewrites that one object and nothing else: whoever could open
the backup once and kept a copy of the secrets can still open what they copied.`

func keyCommand(a *app) *cobra.Command {
	run := func(f func(context.Context, []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error { return f(cmd.Context(), args) }
	}
	add := &cobra.Command{
		Use: "add RECIPIENT", Short: "Let another operator open the backup", Long: "Let another operator open the backup.\n\n" + keyHelp,
		Example: "  lifeboat key add age1… --key lifeboat.key", Args: args(1, 1, "one recipient (age1… or ssh-…)"), RunE: run(a.keyAdd),
	}
	list := &cobra.Command{
		Use: "list", Short: "Print who can open the backup",
		Example: "  lifeboat key list", Args: noArgs(), RunE: run(a.keyList),
	}
	remove := &cobra.Command{
		Use: "remove RECIPIENT", Short: "Take an operator's access away", Long: "Take an operator's access away.\n\n" + keyHelp,
		Example: "  lifeboat key remove age1… --key lifeboat.key", Args: args(1, 1, "one recipient, as `lifeboat key list` prints it"), RunE: run(a.keyRemove),
	}
	test := &cobra.Command{
		Use: "test", Short: "Prove that an identity opens the backup",
		Long:    "Open the repository's secrets with the identity, and with them the newest epoch\nof every log. Run it on the copy that you keep, on another host than the database's.",
		Example: "  lifeboat key test --key /media/usb/lifeboat.key --repo /srv/backup", Args: noArgs(), RunE: run(a.keyTest),
	}
	paper := &cobra.Command{
		Use: "paper", Short: "Print the identity and how to use it, for a sheet of paper",
		Example: "  lifeboat key paper --key lifeboat.key | lpr", Args: noArgs(), RunE: run(a.keyPaper),
	}
	return group("key", "Who can open the backup", "  lifeboat key list\n  lifeboat key test --key lifeboat.key",
		add, list, remove, test, paper, keyExportCommand(a))
}

func keyExportCommand(a *app) *cobra.Command {
	var forAgent, forMaintenance bool
	var out string
	cmd := &cobra.Command{
		Use: "export --agent|--maintenance", Short: "Write the part of the secrets that a host needs",
		Long: "--agent writes what backing up needs: it names and seals, and opens nothing older.\n" +
			"Without --out it goes to the state directory, for a host that lost it.\n" +
			"--maintenance writes what retention needs: it opens positions and sizes, no rows.",
		Example: "  lifeboat key export --agent --key lifeboat.key\n  lifeboat key export --maintenance --out maintenance.secrets --key lifeboat.key",
		Args:    noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if forAgent == forMaintenance {
				return usagef("give one of --agent and --maintenance")
			}
			if forMaintenance && out == "" {
				return usagef("--maintenance needs --out FILE")
			}
			return a.keyExport(cmd.Context(), forAgent, out)
		},
	}
	cmd.Flags().BoolVar(&forAgent, "agent", false, "for the host that backs up")
	cmd.Flags().BoolVar(&forMaintenance, "maintenance", false, "for the host that removes what is too old")
	cmd.Flags().StringVar(&out, "out", "", "file to write; never overwritten")
	return cmd
}

func (a *app) keyAdd(ctx context.Context, args []string) error {
	if err := checkRecipient(args[0]); err != nil {
		return err
	}
	_, repo, s, err := a.openAsOperator(ctx, "key add")
	if err != nil {
		return err
	}
	if slices.Contains(s.Recipients, args[0]) {
		a.say("%s can open the backup already.", args[0])
		return a.printRecipients(s.Recipients)
	}
	after := append(slices.Clone(s.Recipients), args[0])
	if err := repo.SetRecipients(ctx, s, after); err != nil {
		return fmt.Errorf("add recipient: %w", err)
	}
	a.say("Now these can open the backup. Let the new one prove it: `lifeboat key test`.")
	return a.printRecipients(after)
}

func (a *app) keyRemove(ctx context.Context, args []string) error {
	_, repo, s, err := a.openAsOperator(ctx, "key remove")
	if err != nil {
		return err
	}
	i := slices.Index(s.Recipients, args[0])
	if i < 0 {
		return usagef("%s is not among the recipients: `lifeboat key list` prints them", args[0])
	}
	after := slices.Delete(slices.Clone(s.Recipients), i, i+1)
	if len(after) == 0 {
		return fmt.Errorf("%w: it is the only recipient, and without one nobody can ever restore; `lifeboat key add` another one first", errRefused)
	}
	if err := a.confirm(ctx, fmt.Sprintf("%s will not open the backup any more.", args[0])); err != nil {
		return err
	}
	if err := repo.SetRecipients(ctx, s, after); err != nil {
		return fmt.Errorf("remove recipient: %w", err)
	}
	a.say("From now on only these can open the backup:")
	return a.printRecipients(after)
}

func (a *app) keyList(ctx context.Context, _ []string) error {
	_, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	if repo.Config().Plaintext {
		a.fact("The repository is not encrypted: everybody who reads the folder reads the data.")
	}
	return a.printRecipients(s.Recipients)
}

func (a *app) printRecipients(r []string) error {
	if done, err := a.printJSON(map[string][]string{"recipients": r}); done {
		return err
	}
	for _, s := range r {
		a.fact("%s", s)
	}
	return nil
}

// keyTestResult is what key test proved.
type keyTestResult struct {
	Repository string   `json:"repository"`
	Opened     []string `json:"opened"`
}

func (a *app) keyTest(ctx context.Context, _ []string) error {
	c, repo, s, err := a.openAsOperator(ctx, "key test")
	if err != nil {
		return err
	}
	res := keyTestResult{Repository: c.Repository, Opened: []string{"the repository's secrets"}}
	ids, err := repo.Lineages(ctx)
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	for _, id := range ids {
		v, err := repo.Log(s, id, nil).Load(ctx)
		if errors.Is(err, history.ErrNoLineage) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", id, err)
		}
		newest := v.Epochs[len(v.Epochs)-1]
		if _, err := v.Tables(ctx, newest); err != nil {
			return fmt.Errorf("open epoch %d of log %s: %w", newest.Epoch, id, err)
		}
		res.Opened = append(res.Opened, fmt.Sprintf("epoch %d of %s", newest.Epoch, id))
	}
	if done, err := a.printJSON(res); done {
		return err
	}
	a.fact("%s opens the backup in %s: %s.", a.keyFile(), c.Repository, strings.Join(res.Opened, ", "))
	return nil
}

const paperText = `LIFEBOAT: THE KEY OF A BACKUP                              printed %s

Whoever has this sheet can read the whole backup. Without it, or another recipient's
identity, nobody can. Keep it where you keep what must never be lost or shown.

Repository   %s
Made by      lifeboat init

%s
To restore:
 1. Install lifeboat and the PostgreSQL client programs on any host.
 2. Type the line that begins with AGE-SECRET-KEY- into a file, say key.txt; nothing
    else need be in it. It has no lower-case letters and none of 1, B, I and O after
    the first 1; a wrong letter is noticed.
 3. lifeboat key test --repo REPOSITORY --key key.txt
 4. lifeboat points   --repo REPOSITORY --key key.txt
 5. createdb -T template0 -E UTF8 --locale=C restored
    lifeboat restore  --repo REPOSITORY --key key.txt --at latest --to "dbname=restored"

The identity is of the age format (age-encryption.org/v1).
`

func (a *app) keyPaper(_ context.Context, _ []string) error {
	file := a.keyFile()
	if file == "" {
		return usagef("key paper needs the identity to print: give --key FILE")
	}
	b, err := readKeyFile(file)
	if err != nil {
		return err
	}
	lines := secretLines(b)
	if len(lines) == 0 {
		return usagef("%s has no line that begins with AGE-SECRET-KEY-: only such identities fit on paper", file)
	}
	repo := "(write it here)"
	if c, err := a.loadConfig(); err == nil && c.Repository != "" {
		repo = c.Repository
	}
	var keys strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&keys, "%s\n\n", l)
	}
	fmt.Fprintf(a.out, paperText, a.now().Local().Format("2006-01-02"), repo, keys.String())
	return nil
}

func (a *app) keyExport(ctx context.Context, forAgent bool, out string) error {
	c, _, s, err := a.openAsOperator(ctx, "key export")
	if err != nil {
		return err
	}
	part := s.Maintenance()
	if forAgent {
		part = s.Agent()
	}
	if out == "" {
		if err := agent.SaveSecrets(c.State, s); err != nil {
			return fmt.Errorf("save the agent's secrets: %w", err)
		}
		a.say("Wrote the agent's secrets to the state directory %s.", c.State)
		return nil
	}
	b, err := part.Marshal()
	if err != nil {
		return err
	}
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%w: %s exists and is not overwritten", errRefused, out)
	}
	if err := durable.MkdirAll(filepath.Dir(out), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := durable.WriteFile(out, b, 0o600); err != nil {
		return fmt.Errorf("write secrets: %w", err)
	}
	a.say("Wrote %s.", out)
	return nil
}
