package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

const findHelp = `Print the commits that touched a table, or in a homeserver's database a room, a user
or an event: newest first, each with the restore target just before it.

--deletes keeps those that deleted rows or truncated the table; of a room, a user or
an event those after which rows were missing that somebody misses: a message replaces
rows, and queues empty, all the time. What one accident deletes is often several
transactions, the first of which is the order to delete the room: the line above them
says how to restore before the first.`

type findFlags struct {
	table, room, user, event, since, lineage string
	deletes                                  bool
	limit                                    int
}

func findCommand(a *app) *cobra.Command {
	var f findFlags
	cmd := &cobra.Command{
		Use: "find (--table TABLE | --room ID | --user ID | --event ID)", Short: "Find the commits that touched a table, a room, a user or an event", Long: findHelp,
		Example: "  lifeboat find --room '!abc:example.org' --deletes --key lifeboat.key\n" +
			"  lifeboat find --user @alice:example.org --since \"3 hours ago\" --key lifeboat.key\n" +
			"  lifeboat find --table public.accounts --deletes --key lifeboat.key",
		Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.find(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.table, "table", "", "schema.name, or the name in any schema")
	cmd.Flags().StringVar(&f.room, "room", "", "id of a room: '!…'")
	cmd.Flags().StringVar(&f.user, "user", "", "full id of a user: @name:server")
	cmd.Flags().StringVar(&f.event, "event", "", "id of an event: '$…'")
	cmd.Flags().BoolVar(&f.deletes, "deletes", false, "only commits that deleted rows or truncated")
	cmd.Flags().StringVar(&f.since, "since", "", "only commits of this time and later (RFC 3339, or \"3 hours ago\")")
	cmd.Flags().IntVar(&f.limit, "limit", 20, "print at most so many; 0: all")
	lineageFlag(cmd, &f.lineage)
	return cmd
}

// options reads what is looked for.
func (f *findFlags) options() (restore.FindOptions, error) {
	o := restore.FindOptions{Table: f.table, Deletes: f.deletes, Limit: f.limit}
	given := 0
	for _, s := range []string{f.table, f.room, f.user, f.event} {
		if s != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return o, usagef("find needs one of --table TABLE, --room ID, --user ID and --event ID; `lifeboat status` prints the tables")
	case f.limit < 0:
		return o, usagef("--limit %d: want 0 (all) or more", f.limit)
	case f.room != "":
		if o.Element, o.ID = synapse.Room, f.room; !strings.HasPrefix(f.room, "!") {
			return o, usagef("--room %q: want the room's id, which begins with ! (in quotes, for the shell); an alias may have been deleted too: `lifeboat find --table %s` finds its commits", f.room, synapse.AliasTable)
		}
	case f.user != "":
		if o.Element, o.ID = synapse.User, f.user; !strings.HasPrefix(f.user, "@") || !strings.Contains(f.user, ":") {
			return o, usagef("--user %q: want the full id, @name:server", f.user)
		}
	case f.event != "":
		if o.Element, o.ID = synapse.Event, f.event; !strings.HasPrefix(f.event, "$") {
			return o, usagef("--event %q: want the event's id, which begins with $ (in quotes, for the shell)", f.event)
		}
	}
	return o, nil
}

// foundCommit is one commit as find prints it. Table is set when it is the only one.
type foundCommit struct {
	Lineage   string                `json:"lineage"`
	LSN       string                `json:"lsn"`
	XID       uint64                `json:"xid"`
	Time      time.Time             `json:"time"`
	Table     string                `json:"table,omitempty"`
	Tables    []restore.TableChange `json:"tables"`
	Inserts   uint64                `json:"inserts"`
	Updates   uint64                `json:"updates"`
	Deletes   uint64                `json:"deletes"`
	Truncates uint64                `json:"truncates"`
	RestoreAt string                `json:"restore_at"`
	Run       *foundRun             `json:"run,omitempty"`
}

// foundRun is the accident that a commit is part of.
type foundRun struct {
	Commits   int       `json:"commits"`
	Rows      uint64    `json:"rows"`
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	RestoreAt string    `json:"restore_at"`
}

func (a *app) find(ctx context.Context, f findFlags) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	if o.Since, err = a.parseSince(f.since); err != nil {
		return err
	}
	c, repo, s, err := a.openAsOperator(ctx, "find")
	if err != nil {
		return err
	}
	b, err := a.branches(ctx, c, repo, s, f.lineage)
	if err != nil {
		return err
	}
	out, err := findAlong(ctx, b, o)
	if err != nil {
		return err
	}
	if done, err := a.printJSON(out); done {
		return err
	}
	a.printFound(out, b, o)
	return nil
}

// findAlong looks through the host's branch, then those it left, until there are
// enough.
func findAlong(ctx context.Context, b *restore.Branches, o restore.FindOptions) ([]foundCommit, error) {
	line, err := b.Line()
	if err != nil {
		return nil, err
	}
	out := []foundCommit{}
	var missing error
	searched := 0
	for _, v := range line {
		rest := o
		if rest.Limit -= len(out); o.Limit > 0 && rest.Limit == 0 {
			break
		}
		rest.Limit = max(rest.Limit, 0)
		found, err := restore.Find(ctx, v, rest)
		if errors.Is(err, restore.ErrNoTable) || errors.Is(err, restore.ErrNoElements) {
			missing = cmp.Or(missing, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		searched++
		runs := map[*restore.Run]*foundRun{}
		for i := range found {
			out = append(out, asFound(v.ID.String(), &found[i], runs))
		}
	}
	if searched == 0 {
		return nil, missing
	}
	return out, nil
}

// asFound keeps one foundRun for each Run, so that printing knows which belong together.
func asFound(lineage string, t *restore.Found, runs map[*restore.Run]*foundRun) foundCommit {
	c := foundCommit{
		Lineage: lineage, LSN: t.Commit.End.String(), XID: uint64(t.Commit.XID), Time: t.Commit.Time.Time(),
		Tables: t.Tables, RestoreAt: t.Before,
	}
	for _, d := range t.Tables {
		c.Inserts, c.Updates, c.Deletes, c.Truncates = c.Inserts+d.Inserts, c.Updates+d.Updates, c.Deletes+d.Deletes, c.Truncates+d.Truncates
	}
	if len(t.Tables) == 1 {
		c.Table = t.Tables[0].Table
	}
	if r := t.Run; r != nil {
		if runs[r] == nil {
			runs[r] = &foundRun{Commits: r.Commits, Rows: r.Rows, From: r.First.Time.Time(), Until: r.Last.Time.Time(), RestoreAt: r.Before}
		}
		c.Run = runs[r]
	}
	return c
}

func (a *app) printFound(out []foundCommit, b *restore.Branches, o restore.FindOptions) {
	lineage := b.Host.ID.String()
	var run *foundRun
	for i := range out {
		t := &out[i]
		if t.Lineage != lineage {
			lineage = t.Lineage
			a.fact("In %s, the branch that was left:", lineage)
		}
		if t.Run != nil && t.Run != run && t.Run.Commits > 1 {
			a.fact("%s, %s to %s, together deleted %s. Before the FIRST of them: %s", count(int64(t.Run.Commits), "commit", "commits"),
				moment(t.Run.From), moment(t.Run.Until), count(int64(t.Run.Rows), "row", "rows"), a.restoreLine(t.Run.RestoreAt, t.Lineage, b))
		}
		run = t.Run
		a.fact("%s  transaction %d  %s", moment(t.Time), t.XID, t.changes())
		a.fact("    just before it: %s", a.restoreLine(t.RestoreAt, t.Lineage, b))
	}
	switch {
	case len(out) == 0:
		a.fact("No such commit among those up to lsn:%s%s.", b.Host.Durable, atMoment(commitTime(b.Host.DurableTime)))
	case o.Limit > 0 && len(out) == o.Limit:
		a.say("There may be older ones: --limit 0 prints all.")
	}
}

// restoreLine is the command that restores; with several branches it names the one,
// and it finds the repository as this command did.
func (a *app) restoreLine(at, lineage string, b *restore.Branches) string {
	of := ""
	if len(b.All) > 1 {
		of = " --lineage " + lineage
	}
	where := ""
	for _, f := range [][2]string{{" --config ", a.flags.config}, {" --repo ", a.flags.repo}} {
		if f[1] != "" {
			where += f[0] + word(f[1])
		}
	}
	return fmt.Sprintf("lifeboat restore%s --at %s%s --key %s --to DSN", where, word(at), of, word(orDefault(a.keyFile(), "FILE")))
}

// word quotes what a shell would not take as one word.
func word(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("_-./:@%+=,", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// changes says in words what a commit did.
func (t *foundCommit) changes() string {
	var parts []string
	add := func(verb string, n func(restore.TableChange) uint64) {
		var total uint64
		var tables []string
		for _, c := range t.Tables {
			if k := n(c); k > 0 {
				total += k
				tables = append(tables, fmt.Sprintf("%s %d", strings.TrimPrefix(c.Table, "public."), k))
			}
		}
		switch {
		case total == 0:
		case len(t.Tables) == 1:
			parts = append(parts, count(int64(total), "row", "rows")+" "+verb)
		default:
			named := tables[:min(len(tables), 5)]
			text := fmt.Sprintf("%s %s in %s: %s", verb, count(int64(total), "row", "rows"), count(int64(len(tables)), "table", "tables"), strings.Join(named, ", "))
			if more := len(tables) - len(named); more > 0 {
				text += fmt.Sprintf(" and %d more", more)
			}
			parts = append(parts, text)
		}
	}
	add("deleted", func(c restore.TableChange) uint64 { return c.Deletes })
	add("inserted", func(c restore.TableChange) uint64 { return c.Inserts })
	add("updated", func(c restore.TableChange) uint64 { return c.Updates })
	for _, c := range t.Tables {
		if c.Truncates > 0 && len(t.Tables) == 1 {
			parts = append(parts, "TRUNCATED")
		} else if c.Truncates > 0 {
			parts = append(parts, "TRUNCATED "+strings.TrimPrefix(c.Table, "public."))
		}
	}
	if len(t.Tables) == 1 {
		return t.Table + ": " + strings.Join(parts, ", ")
	}
	return strings.Join(parts, "; ")
}
