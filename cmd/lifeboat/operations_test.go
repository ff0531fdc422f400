package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestOperations: every lifeboat command that docs/operations.md, the README, the
// advice of errors or another command's help tells to type exists, with its flags.
func TestOperations(t *testing.T) {
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range []string{"docs/operations.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandsIn(string(text)) {
			found++
			if err := parses(line); err != nil {
				t.Errorf("%s tells to type\n    %s\n%v", name, line, err)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d commands found", found)
	}
	for _, o := range outcomes() {
		for _, line := range inline(o.hint) {
			if err := parses(line); err != nil {
				t.Errorf("the advice for %q tells to type\n    %s\n%v", o.is, line, err)
			}
		}
	}
	for _, cmd := range allCommands(newRoot(&app{})) {
		for _, line := range commandsIn("```sh\n" + cmd.Example + "\n```\n") {
			if err := parses(line); err != nil {
				t.Errorf("the example of %s tells to type\n    %s\n%v", cmd.CommandPath(), line, err)
			}
		}
	}
}

// TestOperationsNotices: what does not exist is not overlooked.
func TestOperationsNotices(t *testing.T) {
	for _, line := range []string{"lifeboat rescue", "lifeboat restore --at latest --fast", "lifeboat find --room", "lifeboat attach now", "lifeboat key forget"} {
		if parses(line) == nil {
			t.Errorf("%q passed", line)
		}
	}
}

func allCommands(cmd *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		out = append(out, allCommands(c)...)
	}
	return out
}

// commandsIn gives what a text tells to type: in its sh and console blocks and
// between backquotes.
func commandsIn(text string) []string {
	var out []string
	blocks := regexp.MustCompile("(?ms)^```(sh|console)\n(.*?)^```")
	for _, b := range blocks.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(b[2]) {
			for part := range strings.SplitSeq(line, "&&") {
				part = strings.TrimPrefix(strings.TrimSpace(part), "# ")
				part = regexp.MustCompile(`^(sudo -u \S+ )?(env \S+=\S+ )?`).ReplaceAllString(part, "")
				part = regexp.MustCompile(` +[#|>].*`).ReplaceAllString(part, "")
				part = strings.TrimSuffix(strings.TrimSpace(part), " &")
				if strings.HasPrefix(part, "lifeboat ") {
					out = append(out, part)
				}
			}
		}
	}
	rest := regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")
	return append(out, inline(rest)...)
}

// inline gives the commands between backquotes.
func inline(text string) []string {
	var out []string
	for _, m := range regexp.MustCompile("`(lifeboat\\s[^`]*)`").FindAllStringSubmatch(text, -1) {
		out = append(out, strings.Join(strings.Fields(m[1]), " "))
	}
	return out
}

// parses reports whether the program would take the command line.
func parses(line string) error {
	args := words(strings.TrimSpace(strings.ReplaceAll(line, " …", "")))[1:]
	a := &app{env: func(string) string { return "" }, now: time.Now}
	root := newRoot(a)
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	_, grouped := cmd.Annotations[isGroup]
	if cmd == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") || grouped {
		return errors.New("there is no such command")
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// words splits a line as a shell does, without its expansions.
func words(line string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		out = append(out, m[1]+m[2]+m[3])
	}
	return out
}
