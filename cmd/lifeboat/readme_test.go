package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestReadme types what the README says, line by line, into a real set-up.
func TestReadme(t *testing.T) {
	testpg.Shared(t, testpg.Newest)
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	// As much of a Synapse as init and doctor ask for.
	script := []string{
		"sql 'CREATE TABLE schema_version (lock char(1), version int)' 'CREATE TABLE applied_schema_deltas (version int, file text)' 'CREATE TABLE state_groups_state (state_group bigint)'",
		"sql 'CREATE TABLE users (name text)' 'CREATE TABLE event_json (event_id text, room_id text)' 'INSERT INTO event_json SELECT n, $$!id:example.org$$ FROM generate_series(1, 100) n'",
		"homeserver",
	}
	commands := 0
	for _, block := range shellBlocks(string(text)) {
		for line := range strings.Lines(block) {
			command, _, _ := strings.Cut(line, "#")
			script = append(script, typed(strings.TrimSpace(command))...)
			commands++
		}
	}
	if commands < 10 {
		t.Fatalf("only %d commands found in the README", commands)
	}
	dir := t.TempDir()
	writeFile(t, dir, "readme.txtar", strings.Join(script, "\n")+"\n", 0o600)
	testscript.Run(t, testscript.Params{Dir: dir, Setup: postgresEnv, Cmds: postgresCommands()})
}

// shellBlocks gives the texts between ```sh and ```.
func shellBlocks(text string) []string {
	var out []string
	for {
		_, after, ok := strings.Cut(text, "```sh\n")
		if !ok {
			return out
		}
		block, rest, _ := strings.Cut(after, "```")
		out, text = append(out, block), rest
	}
}

// typed translates a line of the README into this test's databases and folders.
func typed(line string) []string {
	line = strings.NewReplacer(
		"/srv/backup", "backup", "/etc/matrix-synapse/homeserver.yaml", "homeserver.yaml", "postgres://synapse@localhost/restored", "$RESTORED",
	).Replace(line)
	switch {
	case strings.HasPrefix(line, "createdb "): // it is there
		return nil
	case strings.HasPrefix(line, "lifeboat init"):
		return []string{line, "append lifeboat.yaml more.yaml", "exec sed -i s,5s,1s, lifeboat.yaml"}
	case strings.HasSuffix(line, " &"):
		return []string{line + "agent&", `until '"restorable": true' lifeboat points --json`}
	case strings.HasPrefix(line, "lifeboat detach"):
		return []string{"term", "wait agent", line}
	}
	return []string{line}
}
