package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// maxPrinted bounds the rooms, the users and the rows of a step that are printed;
// --json and --report have all.
const maxPrinted = 5

// printPlan prints a plan, and what it would undo.
func (a *app) printPlan(ctx context.Context, plan *restore.Plan, file string) error {
	loss, err := plan.Loss(ctx)
	if err != nil {
		return fmt.Errorf("tell what would be undone: %w", err)
	}
	all := struct {
		*restore.Plan
		Loss *synapse.Loss `json:"loss,omitempty"`
	}{plan, loss}
	if err := writeReport(file, all); err != nil {
		return err
	}
	if done, err := a.printJSON(all); done {
		return err
	}
	a.fact("%s", strings.TrimRight(plan.String(), "\n"))
	a.printLoss(loss, false)
	a.fact("Nothing was touched.")
	return nil
}

// writeReport writes what --json prints to a file.
func writeReport(file string, report any) error {
	if file == "" {
		return nil
	}
	b, err := json.MarshalIndent(report, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(escapeControls(b), '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// printAftercare prints what was done after the proof: a line for each step, and the
// reason where somebody has to read it.
func (a *app) printAftercare(steps []restore.StepReport) {
	if len(steps) == 0 {
		return
	}
	a.fact("Done to the rows after that, for a rollback:")
	var heed []restore.StepReport
	for _, s := range steps {
		if s.Heed {
			heed = append(heed, s)
			continue
		}
		if s.Rows > 0 {
			a.fact("  %-20s %s", s.Name, count(s.Rows, "row", "rows"))
		}
	}
	for _, s := range heed {
		if s.Rows == 0 && s.Columns != nil {
			continue
		}
		a.fact("NOTE %s: %s.", s.Name, s.Why)
		for i, d := range s.Details {
			if i == maxPrinted {
				a.fact("  … and %d more", len(s.Details)-i)
				break
			}
			a.fact("  %s", oneLine(strings.Join(d, "  ")))
		}
	}
}

// printLoss prints what a rollback undid, or would undo.
func (a *app) printLoss(l *synapse.Loss, done bool) {
	if l == nil {
		return
	}
	if l.Empty() {
		a.fact("Nothing that users did is undone: no later change is known.")
		return
	}
	was := "would be"
	if done {
		was = "was"
	}
	t := l.Totals
	a.fact("What %s undone, after this point: %s.", was, orDefault(list(eventCounts(t.Events)), "no event"))
	if n := t.Sum(); n > 0 {
		a.fact("  of these %s, other servers hold %d and give them back over federation; %d are lost%s.", count(int64(n), "event", "events"), t.Returns, t.Lost(), heldHint(done))
	}
	if s := list(otherCounts(t)); s != "" {
		a.fact("  also: %s.", s)
	}
	if again := l.Again(); len(again) > 0 {
		a.fact("DEACTIVATED OR ERASED SINCE, AND UNDONE: whoever asked for it has a right to it, do it again:")
		for _, u := range again {
			a.fact("  %s", u)
		}
	}
	for i, r := range l.Rooms {
		if i == maxPrinted {
			a.fact("  … and %s", count(int64(len(l.Rooms)-i+l.MoreRooms), "more room", "more rooms"))
			break
		}
		a.fact("  room %s: %s", oneLine(r.Room), list(roomCounts(r)))
	}
	for i, u := range l.Users {
		if i == maxPrinted {
			a.fact("  … and %s", count(int64(len(l.Users)-i+l.MoreUsers), "more user", "more users"))
			break
		}
		a.fact("  user %s: %s", oneLine(u.User), list(userCounts(u)))
	}
	for i, h := range l.Holes {
		if i == maxPrinted {
			a.fact("  … and %s", count(int64(len(l.Holes)-i), "more hole", "more holes"))
			break
		}
		a.fact("  NOT KNOWN, so more may be undone: %s", oneLine(h))
	}
	if l.Unread > 0 {
		a.fact("  not wholly looked into: %s with a value too large for it.", count(int64(l.Unread), "row", "rows"))
	}
	a.say("--json and --report FILE have all of it.")
}

func heldHint(done bool) string {
	if done {
		return ""
	}
	return " (as far as the records say; the restore looks into the rows)"
}

// counted is a number and its words.
type counted struct {
	n         int
	one, many string
}

// list joins what is not 0.
func list(all []counted) string {
	var parts []string
	for _, c := range all {
		switch {
		case c.n > 0 && c.many == "":
			parts = append(parts, c.one)
		case c.n > 0:
			parts = append(parts, count(int64(c.n), c.one, c.many))
		}
	}
	return strings.Join(parts, ", ")
}

func eventCounts(e synapse.Events) []counted {
	return []counted{
		{e.Messages, "message", "messages"},
		{e.Reactions, "reaction", "reactions"},
		{e.Redactions, "redaction (what it hid is readable again)", "redactions (what they hid is readable again)"},
		{e.Joins, "join", "joins"},
		{e.Leaves, "leave", "leaves"},
		{e.Invites, "invite", "invites"},
		{e.State, "change of state", "changes of state"},
		{e.Other, "other event", "other events"},
	}
}

func otherCounts(t synapse.Totals) []counted {
	return []counted{
		{t.RoomsPurged, "deleted room is back", "deleted rooms are back"},
		{t.RoomsCreated, "new room is gone", "new rooms are gone"},
		{t.Registered, "account is gone", "accounts are gone"},
		{t.Passwords, "changed password is the old one again", "changed passwords are the old ones again"},
		{t.LoggedIn, "device must log in anew", "devices must log in anew"},
		{t.LoggedOut, "logged-out device is logged in again", "logged-out devices are logged in again"},
		{t.Media, "upload (its file is still there)", "uploads (their files are still there)"},
		{t.BackupKeys, "change to backed-up keys", "changes to backed-up keys"},
		{t.ToDevice, "undelivered to-device message", "undelivered to-device messages"},
		{t.AccountData, "change to account data", "changes to account data"},
	}
}

func roomCounts(r synapse.RoomLoss) []counted {
	all := append([]counted{{flag(r.Purged), "it was deleted since and is back", ""}, {flag(r.Created), "it is gone, it was made since", ""}}, eventCounts(r.Events)...)
	return append(all, []counted{
		{r.Back, "purged event is back", "purged events are back"},
		{r.Fetched, "event fetched from other servers", "events fetched from other servers"},
		{len(r.Aliases), "alias", "aliases"},
		{flag(r.Held), "held by other servers", ""},
	}...)
}

func userCounts(u synapse.UserLoss) []counted {
	return []counted{
		{flag(u.Registered), "the account is gone", ""},
		{flag(u.Deactivated), "NOT DEACTIVATED any more", ""},
		{flag(u.Erased), "NOT ERASED any more", ""},
		{flag(u.Password), "the old password is back", ""},
		{flag(u.Restricted), "a lock, suspension or ban is undone", ""},
		{flag(u.Admin), "rights as an admin are undone", ""},
		{flag(u.Identity), "cross-signing must be set up again", ""},
		{u.Sent, "event sent", "events sent"},
		{u.LoggedIn, "device must log in anew", "devices must log in anew"},
		{u.LoggedOut, "device is logged in again", "devices are logged in again"},
		{u.Media, "upload", "uploads"},
		{u.MediaDeleted, "deleted upload is listed again without its file", "deleted uploads are listed again without their files"},
		{u.BackupKeys, "change to backed-up keys", "changes to backed-up keys"},
		{u.Backups, "key backup made or deleted", "key backups made or deleted"},
		{u.ToDevice, "to-device message undelivered", "to-device messages undelivered"},
		{u.ToDeviceAgain, "to-device message there again", "to-device messages there again"},
		{u.AccountData, "change to account data", "changes to account data"},
		{u.Profile, "change to the profile", "changes to the profile"},
		{u.ThreePIDs, "address added or removed", "addresses added or removed"},
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
