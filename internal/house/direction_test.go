package house

import (
	"strings"
	"testing"
)

// levels: arrows go down only (house rules, direction). A new room gets its level
// here, with a thought about what it may know.
var levels = map[string]int{
	"record": 0, "chunkstore": 0,
	"cdc": 1, "history": 1, "synapse": 1, "mspf": 1, "mspf/event": 0, "synapse/archive": 2, "chunkstore/fs": 1, "chunkstore/s3": 1, "chunkstore/storetest": 1,
	"agent": 2, "restore": 2,
	"standby":      3,
	"cmd/lifeboat": 4,
	"systemd":      1, // a test of the unit, and nothing else
	// Beside the house: a leaf that the rooms from level 1 on may use, and what serves
	// tests and demonstrations only.
	"internal/durable": 0, "internal/calm": 0, "internal/spill": 0,
	"internal/testpg": 1, "internal/house": 1, "internal/archivetest": 2, "internal/secondreader": 2, "internal/homeserver": 1, "internal/s3server": 1, "internal/demo": 4, "internal/proof": 4, "internal/synapseproof": 4, "internal/bench": 4, "internal/soak": 4,
}

// forTests are never part of the program.
var forTests = []string{"internal/testpg", "internal/archivetest", "internal/secondreader", "internal/house", "chunkstore/storetest"}

func TestDirection(t *testing.T) {
	for _, s := range sources(t) {
		level, known := levels[s.room]
		if !known {
			t.Errorf("%s: the room %q has no level in internal/house: a room exists when two would hold its code twice without it", s.path, s.room)
			continue
		}
		if s.test {
			continue
		}
		for _, p := range s.imports() {
			room, ours := strings.CutPrefix(p, module+"/")
			if !ours {
				continue
			}
			if within(s.room, "record") || s.room == "chunkstore" {
				t.Errorf("%s imports %s: record and chunkstore import nothing of ours, so that the values and the bytes can be read, tested and trusted alone", s.path, room)
			}
			to := levels[room]
			if to >= level {
				t.Errorf("%s (level %d) imports %s (level %d): arrows go down only. Rooms of one level never know each other: PostgreSQL and storage meet in agent, restore and standby", s.path, level, room, to)
			}
			if within(room, forTests...) && !within(s.room, "internal") {
				t.Errorf("%s imports %s, which serves tests: it would become part of the program", s.path, room)
			}
		}
	}
}

// Only some rooms may use what ties the program to the outside.
func TestWhoMayUse(t *testing.T) {
	for _, rule := range []struct {
		prefix string
		rooms  []string
		why    string
	}{
		{"github.com/jackc/", []string{"cdc", "restore", "standby", "internal/testpg", "internal/bench"}, "PostgreSQL is spoken in cdc, restore and standby; the others stay testable without it"},
		{"github.com/minio/", []string{"chunkstore/s3"}, "one backend knows S3; the store is a dumb interface to all others"},
		{"flag", []string{"cmd", "internal"}, "what the user typed is read in cmd and passed down as values"},
		{"github.com/spf13/", []string{"cmd"}, "what the user typed is read in cmd and passed down as values"},
		{"log", []string{}, "one *slog.Logger is passed in; package log is a global"},
	} {
		for _, s := range sources(t) {
			if s.test || within(s.room, rule.rooms...) {
				continue
			}
			for _, p := range s.imports() {
				if p == rule.prefix || strings.HasSuffix(rule.prefix, "/") && strings.HasPrefix(p, rule.prefix) {
					t.Errorf("%s imports %s: %s", s.path, p, rule.why)
				}
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range sources(t) {
		switch s.ast.Name.Name {
		case "utils", "util", "common", "types", "models", "pkg", "helpers", "mocks", "misc", "shared":
			t.Errorf("%s: a package named %s says nothing of what it holds, so everything ends there", s.path, s.ast.Name.Name)
		}
	}
}
