package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lifeboat.im/lifeboat/internal/archivetest"
	"lifeboat.im/lifeboat/internal/testpg"
)

func TestMain(m *testing.M) {
	testscript.Main(servers{m}, map[string]func(){"lifeboat": main})
}

// servers runs the tests with testpg's servers at hand.
type servers struct{ m *testing.M }

func (s servers) Run() int { return testpg.MainCode(s.m) }

// TestScripts runs the real program by the scripts in testdata/script; none of
// them needs a server. `code N command…` runs a command that must end with N.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   filepath.Join("testdata", "script"),
		Setup: scriptEnv,
		Cmds:  scriptCommands(),
	})
}

func scriptCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"code": codeCommand, "mode": modeCommand, "flip": flipCommand, "append": appendCommand, "recipient": recipientCommand, "reader": readerCommand,
	}
}

func scriptEnv(env *testscript.Env) error {
	archives, err := filepath.Abs("../../mspf/testdata")
	if err != nil {
		return err
	}
	env.Setenv("ARCHIVES", archives)
	env.Setenv("NO_COLOR", "1")
	env.Setenv("TZ", "UTC")
	return nil
}

// codeCommand: code N command args… fails unless the command exits with N.
func codeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	have := 0
	if err != nil {
		if _, e := fmt.Sscanf(err.Error(), "exit status %d", &have); e != nil {
			ts.Fatalf("%v", err)
		}
	}
	if have != want {
		ts.Fatalf("%s ended with %d, want %d", strings.Join(args[1:], " "), have, want)
	}
}

// modeCommand: mode 0600 file.
func modeCommand(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if have := fmt.Sprintf("%04o", info.Mode().Perm()); have != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], have, args[0])
	}
}

// appendCommand: append to from.
func appendCommand(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0]) + ts.ReadFile(args[1])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// readerCommand: reader archive — the independent reader takes it. Where there is no
// Python, it is not asked.
func readerCommand(ts *testscript.TestScript, _ bool, args []string) {
	err := archivetest.Reader(filepath.Join(ts.Getenv("ARCHIVES"), "..", ".."), ts.MkAbs(args[0]))
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("LIFEBOAT_REQUIRE") != "all" {
		ts.Logf("python3 is missing")
		return
	}
	ts.Check(err)
}

// recipientCommand: recipient keyfile — puts its public half into $RECIPIENT.
func recipientCommand(ts *testscript.TestScript, _ bool, args []string) {
	_, after, _ := strings.Cut(ts.ReadFile(args[0]), "# public key: ")
	line, _, _ := strings.Cut(after, "\n")
	ts.Setenv("RECIPIENT", line)
}

// flipCommand: flip glob — changes one byte in the middle of the first file that
// matches.
func flipCommand(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("no file matches %s", args[0])
	}
	b, err := os.ReadFile(files[0])
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.Chmod(files[0], 0o600))
	ts.Check(os.WriteFile(files[0], b, 0o600))
}
