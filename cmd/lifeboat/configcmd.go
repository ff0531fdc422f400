package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func configCommand(a *app) *cobra.Command {
	check := &cobra.Command{
		Use: "check", Short: "Read the configuration and say what is wrong with it",
		Example: "  lifeboat config check --config /etc/lifeboat/lifeboat.yaml", Args: noArgs(),
		RunE: func(*cobra.Command, []string) error { return a.checkConfig() },
	}
	show := &cobra.Command{
		Use: "show", Short: "Print every setting with its value; secrets are hidden",
		Example: "  lifeboat config show\n  lifeboat config show --json", Args: noArgs(),
		RunE: func(*cobra.Command, []string) error { return a.showConfig() },
	}
	return group("config", "Check or show the configuration", "  lifeboat config check", check, show)
}

func (a *app) checkConfig() error {
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if c.homeserverErr != nil {
		return usagef("%s: homeserver: %v", c.Path, c.homeserverErr)
	}
	if err := needSource(c); err != nil {
		return err
	}
	if _, err := repositoryDir(c); err != nil {
		return err
	}
	if _, err := a.logger(c); err != nil {
		return err
	}
	a.say("%s is fine. Whether the database and the repository are, `lifeboat doctor` tells.", c.Path)
	return nil
}

func (a *app) showConfig() error {
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if a.flags.json {
		m := map[string]string{"config": c.Path}
		for _, o := range options() {
			m[o.name] = o.show(c)
		}
		_, err := a.printJSON(m)
		return err
	}
	if c.Path != "" {
		a.fact("# %s", c.Path)
	}
	rows := [][]string{}
	for _, o := range options() {
		rows = append(rows, []string{o.name + ":", o.show(c), "# " + o.help})
	}
	for _, r := range rows {
		fmt.Fprintf(a.out, "%-16s %-30s %s\n", r[0], r[1], r[2])
	}
	return nil
}
