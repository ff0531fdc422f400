package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/restore"
)

const pruneHelp = `Remove from the repository what keep: in the configuration does not ask for.

Without --apply it says what would happen and changes nothing. With it, it takes the
next of three steps, so run it by a timer: it condemns what may go, in every log; waits
7 days, in which ` + "`lifeboat prune undelete`" + ` calls it off; then looks at everything again
and deletes what is still not needed. Age is measured by the newest commit of each
branch, never by a clock.

It runs elsewhere than the agent, under an identity of the store that may delete, with
the file of ` + "`lifeboat key export --maintenance`" + ` (--secrets FILE, LIFEBOAT_MAINTENANCE_FILE or
the credential "maintenance") or with the operator's identity.

It refuses while an alarm of a mass change is open. Marks, pins and legal holds keep
what their points need; a branch that nobody follows keeps its last window until
--lineage names it.

--forget user=@id:server removes nothing: it says by when everything of a user who was
erased from the homeserver today will be out of the repository, and what keeps it.`

type pruneFlags struct {
	apply    bool
	secrets  string
	lineages []string
	forget   string
}

func pruneCommand(a *app) *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what is too old, in steps that can be called off", Long: pruneHelp,
		Example: "  lifeboat prune --secrets maintenance.secrets\n  lifeboat prune --apply --secrets maintenance.secrets\n  lifeboat prune --forget user=@alice:example.org --key lifeboat.key",
		Args:    noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.forget != "" {
				return a.forget(cmd.Context(), f)
			}
			return a.prune(cmd.Context(), f)
		},
	}
	cmd.PersistentFlags().StringVar(&f.secrets, "secrets", "", "file of `lifeboat key export --maintenance`")
	cmd.Flags().BoolVar(&f.apply, "apply", false, "do the next step")
	cmd.Flags().StringArrayVar(&f.lineages, "lineage", nil, "`branch` of which nothing is to stay")
	cmd.Flags().StringVar(&f.forget, "forget", "", "`user=@id:server`: say when everything of the user is out")
	cmd.AddCommand(&cobra.Command{
		Use: "undelete", Short: "Call off the prune that is under way, until it deletes",
		Example: "  lifeboat prune undelete --secrets maintenance.secrets", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.undelete(cmd.Context(), f) },
	})
	cmd.AddCommand(pinCommand(a), a.keepNote(&f, "unpin NAME", "Take a pin or a mark away: its point may go", history.NoteUnpin),
		a.keepNote(&f, "hold NAME", "Legal hold: nothing of any branch is removed", history.NoteHold),
		a.keepNote(&f, "release NAME", "End a legal hold", history.NoteRelease))
	return cmd
}

// maintenance opens the repository with what holds K_prune.
func (a *app) maintenance(ctx context.Context, file string) (*config, *history.Repository, *history.Secrets, error) {
	c, repo, err := a.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if file == "" {
		file = a.env("LIFEBOAT_MAINTENANCE_FILE")
	}
	if file == "" && (a.keyFile() != "" || repo.Config().Plaintext) {
		s, err := a.unlock(ctx, repo, "prune")
		return c, repo, s, err
	}
	b, err := a.secretBytes(file, "maintenance")
	if err != nil {
		return nil, nil, nil, err
	}
	if len(b) == 0 {
		return nil, nil, nil, usagef("prune needs the maintenance secrets: give --secrets FILE (`lifeboat key export --maintenance --out FILE` writes it), or the operator's identity with --key FILE")
	}
	s, err := history.ParseSecrets(b)
	if err != nil {
		return nil, nil, nil, usagef("%s holds no secrets of a repository: %v", orDefault(file, "the credential maintenance"), err)
	}
	if hex.EncodeToString(s.Repository[:]) != repo.Config().Repository {
		return nil, nil, nil, fmt.Errorf("the maintenance secrets are of another repository than %s: %w", c.Repository, history.ErrWrongKey)
	}
	return c, repo, s, nil
}

// pruneOptions reads what is to be kept.
func pruneOptions(c *config, f pruneFlags) (history.PruneOptions, error) {
	o := history.PruneOptions{Keep: c.Keep}
	if c.Keep == (history.Keep{}) {
		return o, usagef("nothing says what to keep: set for instance keep: {every_commit: 14d, weekly: 8, monthly: 12} in %s", orDefault(c.Path, "lifeboat.yaml"))
	}
	for _, l := range f.lineages {
		id, err := history.ParseLineageID(l)
		if err != nil {
			return o, usagef("--lineage: %v; `lifeboat points` prints them", err)
		}
		o.Forget = append(o.Forget, id)
	}
	return o, nil
}

func (a *app) prune(ctx context.Context, f pruneFlags) error {
	c, repo, s, err := a.maintenance(ctx, f.secrets)
	if err != nil {
		return err
	}
	o, err := pruneOptions(c, f)
	if err != nil {
		return err
	}
	if f.apply && len(o.Forget) > 0 {
		if err := a.confirm(ctx, "After 7 days nothing can be restored from "+strings.Join(f.lineages, ", ")+"."); err != nil {
			return err
		}
	}
	do := history.PlanPrune
	if f.apply {
		do = history.Prune
	}
	r, err := do(ctx, repo, s, o)
	if err != nil && len(r.Left) == 0 && len(r.Refused) == 0 {
		return fmt.Errorf("prune: %w", err)
	}
	if done, jerr := a.printJSON(pruneJSON(r, f.apply)); done || jerr != nil {
		return errors.Join(err, jerr)
	}
	a.printPrune(r, f.apply)
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

// prunedBranch and prunedPoint are what prune --json prints of a branch.
type prunedBranch struct {
	Lineage string        `json:"lineage"`
	From    string        `json:"from_lsn"`
	Since   time.Time     `json:"since,omitzero"`
	Before  string        `json:"from_lsn_before"`
	All     string        `json:"nothing_goes,omitempty"`
	Points  []prunedPoint `json:"points"`
	Gone    []prunedPoint `json:"points_gone"`
	Entries int           `json:"entries"`
	Bytes   int64         `json:"bytes"`
}

type prunedPoint struct {
	Target string    `json:"target"`
	Why    string    `json:"why"`
	Time   time.Time `json:"time"`
}

func pruneJSON(r *history.PruneReport, applied bool) any {
	branches := []prunedBranch{}
	for _, l := range r.Lineages {
		branches = append(branches, prunedBranch{
			l.ID.String(), l.From.String(), commitTime(l.Since), l.Before.String(), l.All, prunedPoints(l.Points), prunedPoints(l.Gone), l.Entries, l.Bytes,
		})
	}
	return struct {
		*history.PruneReport
		Applied  bool           `json:"applied"`
		Lineages []prunedBranch `json:"lineages"`
	}{r, applied, branches}
}

func prunedPoints(list []history.KeptPoint) []prunedPoint {
	out := []prunedPoint{}
	for _, p := range list {
		out = append(out, prunedPoint{p.Target(), p.Why, p.Time.Time()})
	}
	return out
}

func (a *app) printPrune(r *history.PruneReport, applied bool) {
	for _, w := range r.Warnings {
		a.fact("WARNING  %s", oneLine(w))
	}
	for _, l := range r.Lineages {
		a.fact("%s", l.ID)
		switch {
		case l.All != "":
			a.fact("  stays       all of it: %s", l.All)
		case l.From <= l.Before:
			a.fact("  stays       every commit from lsn:%s on, as now", l.From)
		default:
			a.fact("  stays       every commit from lsn:%s on, committed %s or later", l.From, moment(l.Since.Time()))
			a.fact("  vanishes    what can be restored now from lsn:%s to there, but for the points below", l.Before)
		}
		for _, p := range l.Points {
			a.fact("  stays       %s  %s  %s", p.Target(), p.Why, moment(p.Time.Time()))
		}
		for _, p := range l.Gone {
			a.fact("  vanishes    %s  %s  %s", p.Target(), p.Why, moment(p.Time.Time()))
		}
	}
	what := fmt.Sprintf("%s and %s, %s of %s", count(int64(r.Chunks), "chunk", "chunks"), count(int64(r.Entries), "entry", "entries"), mib(r.Bytes), mib(r.Total))
	for _, why := range r.Refused {
		a.fact("Refused      %s", oneLine(why))
	}
	switch {
	case len(r.Left) > 0:
		a.fact("Left         %s that were to go are still there", count(int64(len(r.Left)), "object", "objects"))
	case len(r.Refused) > 0:
	case r.Phase == history.PruneNothing:
		a.fact("Nothing may go: %s are needed.", mib(r.Total))
	case r.Phase == history.PruneWaiting:
		a.fact("Condemned    %s; deleted by the first `lifeboat prune --apply` after %s. Until then: lifeboat prune undelete", what, moment(r.Until))
	case r.Phase == history.PruneCondemned && applied:
		a.fact("Condemned    %s; deleted by the first `lifeboat prune --apply` after %s. Until then: lifeboat prune undelete", what, moment(r.Until))
	case r.Phase == history.PruneCondemned:
		a.fact("Would condemn  %s. Nothing was changed: --apply does it, and deletes 7 days later.", what)
	case applied:
		a.fact("Deleted      %s.", what)
	default:
		a.fact("Would delete  %s: their 7 days are over. Nothing was changed: --apply does it.", what)
	}
	if r.Spared > 0 {
		a.fact("Spared       %s that are needed all the same", count(int64(r.Spared), "condemned chunk", "condemned chunks"))
	}
}

func (a *app) undelete(ctx context.Context, f pruneFlags) error {
	_, repo, s, err := a.maintenance(ctx, f.secrets)
	if err != nil {
		return err
	}
	gen, err := history.Undelete(ctx, repo, s)
	if err != nil {
		return fmt.Errorf("undelete: %w", err)
	}
	none := gen.IsZero()
	if done, err := a.printJSON(map[string]bool{"undeleted": !none}); done {
		return err
	}
	if none {
		a.fact("No prune is under way.")
		return nil
	}
	a.fact("Called off: nothing was deleted. Change keep:, or the next `lifeboat prune --apply` condemns the same again.")
	return nil
}

func pinCommand(a *app) *cobra.Command {
	var at, lineage string
	cmd := &cobra.Command{
		Use: "pin NAME", Short: "Keep a restore point whatever keep: says",
		Example: "  lifeboat prune pin before-the-audit --at lsn:0/16B3748 --key lifeboat.key", Args: args(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.pin(cmd.Context(), args[0], at, lineage) },
	}
	cmd.Flags().StringVar(&at, "at", "", "`point`: latest, a time, lsn:, xid: or mark:, as restore takes it")
	lineageFlag(cmd, &lineage)
	return cmd
}

func (a *app) pin(ctx context.Context, name, at, lineage string) error {
	if at == "" {
		return usagef("pin needs a point: --at P, as `lifeboat restore --at` takes it")
	}
	target, err := restore.ParseTarget(at, a.now())
	if err != nil {
		return usageError{err.Error()}
	}
	c, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	b, err := a.branches(ctx, c, repo, s, lineage)
	if err != nil {
		return err
	}
	v, p, err := b.Resolve(ctx, target)
	if err != nil {
		return err
	}
	n := history.Note{Kind: history.NotePin, Name: name, From: p.LSN, Time: record.FromTime(a.now())}
	if err := repo.Log(s, v.ID, nil).AppendNote(ctx, n); err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	a.say("Pinned lsn:%s of %s as %s: it stays until `lifeboat prune unpin %s`.", p.LSN, v.ID, name, name)
	return nil
}

// keepNote makes a command that adds a note to every log: taking away needs K_prune.
func (a *app) keepNote(f *pruneFlags, use, short string, kind history.NoteKind) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: "  lifeboat prune " + strings.Replace(use, "NAME", "court-2026", 1) + " --secrets maintenance.secrets", Args: args(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, repo, s, err := a.maintenance(cmd.Context(), f.secrets)
			if err != nil {
				return err
			}
			done, err := history.NoteEverywhere(cmd.Context(), repo, s, history.Note{Kind: kind, Name: args[0], Time: record.FromTime(a.now())})
			if err != nil {
				return fmt.Errorf("%s %s: %w", kind, args[0], err)
			}
			if done == 0 {
				return usagef("nothing is named %s: `lifeboat points` prints what there is", args[0])
			}
			a.say("Noted in %s.", count(int64(done), "branch", "branches"))
			return nil
		},
	}
}

// forget says when what is erased today is out of the repository.
func (a *app) forget(ctx context.Context, f pruneFlags) error {
	user, ok := strings.CutPrefix(f.forget, "user=")
	if !ok || !strings.HasPrefix(user, "@") || !strings.Contains(user, ":") {
		return usagef("--forget %q: want user=@name:server", f.forget)
	}
	if f.apply {
		return usagef("--forget only says what happens: it does not go with --apply")
	}
	c, repo, s, err := a.maintenance(ctx, f.secrets)
	if err != nil {
		return err
	}
	if _, err := pruneOptions(c, f); err != nil {
		return err
	}
	all, damaged, err := restore.AllBranches(ctx, repo, s)
	if err != nil {
		return err
	}
	var holders []string
	for _, d := range damaged {
		holders = append(holders, "branch "+d.ID.String()+", which cannot be read: "+oneLine(d.Err.Error()))
	}
	leaves := restore.Leaves(all)
	for _, v := range all {
		for _, m := range v.Marks {
			holders = append(holders, fmt.Sprintf("mark %s in %s, until `lifeboat prune unpin %s`", m.Name, v.ID, m.Name))
		}
		for _, m := range v.Pins {
			holders = append(holders, fmt.Sprintf("pin %s in %s, until `lifeboat prune unpin %s`", m.Name, v.ID, m.Name))
		}
		for _, m := range v.Holds {
			holders = append(holders, fmt.Sprintf("legal hold %s, until `lifeboat prune release %s`", m.Name, m.Name))
		}
		if !slices.Contains(leaves, v) {
			holders = append(holders, fmt.Sprintf("the ended branch %s, until `lifeboat prune --apply --lineage %s`, and what its last epoch holds for good", v.ID, v.ID))
		}
	}
	by := a.now().Add(outAfter(c))
	if done, err := a.printJSON(map[string]any{"user": user, "out_by": by, "kept_by": append([]string{}, holders...), "removes": false}); done {
		return err
	}
	a.fact("%s: this command removes nothing. Rows of many users share a chunk, and each point that is kept is kept whole, so one user cannot be cut out of the past.", user)
	a.fact("Erase the user in the homeserver first (deactivate with erasure): from then on new copies do not hold what it removed, and what it leaves, such as events that others were sent, is backed up as before.")
	a.fact("If that was done just now, all that it removed is out of the repository by %s: a window of %s, %d weekly and %d monthly points, a copy of each table every %s, 7 days of grace and a timer that runs prune at least weekly.",
		minute(by, ""), formatDuration(c.Keep.EveryCommit), c.Keep.Weekly, c.Keep.Monthly, formatDuration(c.Tuning.RefreshEvery))
	for _, h := range holders {
		a.fact("  kept longer  %s", h)
	}
	a.fact("Archives, restored databases and copies of the bucket are yours to find. A restore of a point before the erasure brings the user back: erase again.")
	return nil
}

// outAfter is how long after its erasure from the source the last of something leaves
// the repository: it is in the newest base before the window for as long as that is
// needed, in the oldest sparse point, then condemned for the grace; a timer that runs
// every 7 days may find each step 7 days late.
func outAfter(c *config) time.Duration {
	const day = 24 * time.Hour
	longest := c.Keep.EveryCommit
	// A point that was made just before the erasure holds records from before its copies.
	longest = max(longest, time.Duration(c.Keep.Weekly)*7*day, time.Duration(c.Keep.Monthly)*31*day)
	return longest + c.Tuning.RefreshEvery + 7*day + 2*7*day
}
