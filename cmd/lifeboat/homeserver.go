package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/synapse"
)

// The profiles.
const (
	profileSynapse = "synapse"
	profileGeneric = "generic"
)

func checkProfile(name string) error {
	if name == profileSynapse || name == profileGeneric {
		return nil
	}
	return fmt.Errorf("profile %q is not known: use synapse or generic", name)
}

// profile is what the file says the database is, or what follows from the rest.
func (c *config) profile() string {
	switch {
	case c.Profile != "":
		return c.Profile
	case c.Homeserver != "":
		return profileSynapse
	}
	return profileGeneric
}

// readHomeserver takes the connection string from homeserver.yaml, unless source
// says how else to reach the database: as a role of its own, say.
func (c *config) readHomeserver() {
	if c.homeserver, c.homeserverErr = synapse.ReadHomeserver(c.Homeserver); c.homeserverErr == nil && c.Source == "" {
		c.Source = c.homeserver.DSN
	}
}

// detectTime bounds what init spends on looking at the database.
const detectTime = 5 * time.Second

// detect asks the database what it is. When it cannot be asked, it is generic and
// why says so.
func (a *app) detect(ctx context.Context, dsn string) (profile, why string) {
	ctx, cancel := context.WithTimeout(ctx, detectTime)
	defer cancel()
	answers, err := agent.Ask(ctx, agent.SourceOptions{DSN: dsn}, synapse.TablesSQL)
	switch {
	case err != nil:
		return profileGeneric, "The database could not be asked what it is, so its profile is generic. If it is Synapse's, change\n" +
			"the line profile: before `lifeboat attach`, or name homeserver.yaml."
	case synapse.DetectIn(answers[0]):
		return profileSynapse, "The database is Synapse's: profile synapse. `homeserver:` with the path of homeserver.yaml in\n" +
			"place of `source:` lets `lifeboat doctor` look at media, keys and configuration too."
	}
	return profileGeneric, ""
}

// doctorHomeserver holds the homeserver against its database, and says what of it
// the backup holds. What is outside is a warning, loud and one line each: the
// database is backed up as it should be, and no command of this version would mend
// it (docs/decisions).
// before are the findings of the source and of the history.
func (a *app) doctorHomeserver(ctx context.Context, c *config, before []agent.Finding) []agent.Finding {
	if c.profile() != profileSynapse {
		return nil
	}
	var out []agent.Finding
	h := c.homeserver
	switch {
	case c.homeserverErr != nil:
		out = append(out, agent.Finding{
			Name: "homeserver", State: "fail", Why: strings.TrimPrefix(c.homeserverErr.Error(), synapse.ErrHomeserver.Error()+": "),
			Mend: "set homeserver: to the file that Synapse is started with",
		})
	case h == nil:
		out = append(out, agent.Finding{
			Name: "homeserver", State: "warn", Why: "only the database is known: media, signing key and configuration are outside the backup, and nobody looks at them",
			Mend: "set homeserver: to the path of homeserver.yaml",
		})
	default:
		out = append(out, agent.Finding{Name: "homeserver", State: "ok", Why: h.ServerName + ", read from " + strings.Join(h.Files, ", ")})
	}
	if !slices.ContainsFunc(before, func(f agent.Finding) bool { return f.Name == "source" && f.State == "fail" }) {
		out = append(out, a.askHomeserver(ctx, c)...) // else it is said above that it does not answer
	}
	if h != nil {
		out = append(out, inventory(h, captured(before))...)
	}
	return out
}

// askHomeserver puts the checks of the profile to the database. That it cannot be
// reached is a finding of the source already.
func (a *app) askHomeserver(ctx context.Context, c *config) []agent.Finding {
	checks := synapse.Checks(c.homeserver)
	questions := make([]string, len(checks))
	for i, ch := range checks {
		questions[i] = ch.SQL
	}
	answers, err := agent.Ask(ctx, c.Agent, questions...)
	if err != nil {
		return []agent.Finding{{Name: "homeserver's database", State: "warn", Why: "it could not be asked: " + err.Error(), Mend: "run `lifeboat doctor` again when it answers"}}
	}
	out := make([]agent.Finding, len(checks))
	for i, ch := range checks {
		out[i] = agent.Finding(ch.Judge(answers[i]))
	}
	return out
}

// captured reports whether the findings say that the database can be restored.
func captured(before []agent.Finding) bool {
	return !slices.ContainsFunc(before, func(f agent.Finding) bool {
		return f.State == "fail" && f.Name == "slot" ||
			f.State != "ok" && slices.Contains([]string{"source", "publication", "lineage", "history", "first base"}, f.Name)
	})
}

// absent reports whether nothing is at the path. What may not be looked at is no
// finding: this user needs no right to read it.
func absent(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func inventory(h *synapse.Homeserver, captured bool) []agent.Finding {
	var out []agent.Finding
	for _, p := range h.Inventory() {
		f := agent.Finding{Name: p.Name, State: "ok", Why: "inside the backup: " + p.Path + "; " + p.Why}
		switch {
		case !p.Inside:
			f.State, f.Why, f.Mend = "warn", "NOT in the backup: "+p.Path+"; "+p.Why, p.Mend
			if p.Path != "" && (p.Path == h.MediaStore || p.Path == h.SigningKey) && absent(p.Path) {
				f.Why = "NOT in the backup: " + p.Path + ", and NOT THERE (a typing error, or a path relative to another folder); " + p.Why
				f.Mend = p.Mend + "; first correct its path in " + h.Path
			}
		case !captured:
			f.State, f.Why, f.Mend = "warn", "NOT in the backup yet: "+p.Path+"; what is missing stands above", "`lifeboat attach`, then let `lifeboat run` go on"
		}
		out = append(out, f)
	}
	if len(h.Relative) > 0 {
		out = append(out, agent.Finding{
			Name: "relative paths", State: "warn",
			Why:  strings.Join(h.Relative, ", ") + ": Synapse takes them from the folder that it is started in, which its configuration does not name; here they were looked for below " + h.Base,
			Mend: "write absolute paths into homeserver.yaml",
		})
	}
	return out
}
