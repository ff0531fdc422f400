package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// Every command explains itself: a sentence and an example that names it.
func TestEveryCommandHasAnExample(t *testing.T) {
	root := newRoot(&app{out: t.Output(), err: t.Output(), env: func(string) string { return "" }, now: time.Now})
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() != "help" {
			if cmd.Short == "" || !strings.Contains(cmd.Example, cmd.CommandPath()) {
				t.Errorf("%s: short %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
}
