package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/agent"
)

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check the whole set-up and name the command that mends each fault",
		Long:    "Check database, rights, slot, tables, state directory and repository, and with\nhomeserver: what else the homeserver is made of. Ends with 0 when nothing fails;\nwarnings are printed. docs/operations.md explains each finding.",
		Example: "  lifeboat doctor\n  lifeboat doctor --json", Args: noArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) },
	}
}

func (a *app) doctor(ctx context.Context) error {
	c, repo, s, err := a.openAsReader(ctx)
	if err != nil {
		return err
	}
	// A homeserver.yaml that cannot be read is one finding among the others.
	if err := needSource(c); err != nil && c.homeserverErr == nil {
		return err
	}
	o, err := a.agentOptions(c)
	if err != nil {
		return err
	}
	findings, err := agent.Doctor(ctx, repo, s, o)
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	if v, err := a.openView(ctx, c, repo, s, ""); err == nil {
		findings = append(findings, keepFinding(c, v))
	}
	findings = append(findings, a.doctorHomeserver(ctx, c, findings)...)
	var fails int64
	for _, f := range findings {
		if f.State == "fail" {
			fails++
		}
		a.fact("%-5s %s: %s", f.State, f.Name, flat(f.Why))
		if f.Mend != "" {
			a.fact("      mend: %s", f.Mend)
		}
	}
	if _, err := a.printJSON(findings); err != nil {
		return err
	}
	if fails > 0 {
		return verdict{exitFailed, count(fails, "check fails", "checks fail") + "; what mends each is printed with it"}
	}
	return nil
}
