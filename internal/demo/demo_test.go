package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/testpg"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lifeboat-demo-test-")
	if err != nil {
		panic(err)
	}
	programs.dir = dir
	code := testpg.MainCode(m)
	os.RemoveAll(dir)
	os.Exit(code)
}

// output collects what the demo prints while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// programs are lifeboat and the demo, built once into a folder that TestMain makes
// and removes.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func build() error {
	programs.once.Do(func() {
		for name, pkg := range map[string]string{"lifeboat": "lifeboat.im/lifeboat/cmd/lifeboat", "demo": "lifeboat.im/lifeboat/internal/demo"} {
			if text, err := exec.Command("go", "build", "-o", filepath.Join(programs.dir, name), pkg).CombinedOutput(); err != nil {
				programs.err = fmt.Errorf("go build: %w\n%s", err, text)
			}
		}
	})
	return programs.err
}

// startDemo starts the demo in a folder that the servers' user can enter.
func startDemo(t *testing.T, args ...string) (*exec.Cmd, *output, string) {
	t.Helper()
	pg := filepath.Dir(filepath.Dir(testpg.Bin(t, testpg.Newest, "pgbench")))
	if err := build(); err != nil {
		t.Fatal(err)
	}
	repository, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("", "lifeboat-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "folder")
	cmd := exec.Command(filepath.Join(programs.dir, "demo"), append([]string{
		"-dir", dir, "-pg", pg, "-tools", repository, "-lifeboat", filepath.Join(programs.dir, "lifeboat"),
	}, args...)...)
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out, dir
}

func generic() []string { return []string{"-story", "generic", "-scale", "1"} }

// synapse gives the flags of the homeserver's story, and needs a Synapse.
func synapse(t *testing.T) []string {
	t.Helper()
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	_, err = homeserver.Find(root)
	testpg.Need(t, "Synapse", err == nil, "tools")
	return []string{"-story", "synapse", "-messages", "40"}
}

// runningIn lists the processes whose command line or folder is in dir.
func runningIn(dir string) []string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		if strings.Contains(string(line), dir) || strings.HasPrefix(cwd, dir) {
			found = append(found, fmt.Sprintf("%s %s (in %s)", filepath.Base(p), strings.ReplaceAll(string(line), "\x00", " "), cwd))
		}
	}
	return found
}

func ended(cmd *exec.Cmd) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	return done
}

// Each story ends well, and leaves no process.
func TestDemo(t *testing.T) {
	t.Parallel()
	endsWell(t, generic(), "; database shop: ", "; database restored: ", "dedup ratio ", "equal: pgbench_accounts", "Whole.", "to 1.", "Done in")
}

func TestSynapse(t *testing.T) {
	t.Parallel()
	endsWell(t, synapse(t), "seconds from the accident to the first message read", "a new message arrives", "not one error", "Whole.", "to 1.", "Done in")
}

func endsWell(t *testing.T, story []string, wants ...string) {
	t.Helper()
	cmd, out, dir := startDemo(t, append(story, "-seconds", "3")...)
	select {
	case <-ended(cmd):
	case <-time.After(8 * time.Minute):
		t.Fatalf("not done after 8 minutes:\n%s", out)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	for _, want := range wants {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if left := runningIn(dir); len(left) > 0 {
		t.Errorf("still running:\n%s", strings.Join(left, "\n"))
	}
	if err := remove(dir); err != nil {
		t.Error(err)
	}
}

// Ctrl-C in the middle leaves nothing running.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	interrupted(t, append(generic(), "-seconds", "60"), "pgbench.log", 3) // server, agent and pgbench
}

func TestSynapseInterrupt(t *testing.T) {
	t.Parallel()
	interrupted(t, append(synapse(t), "-seconds", "60"), "lifeboat.log", 3) // server, Synapse and agent
}

// interrupted presses Ctrl-C when a log is there and so many processes run.
func interrupted(t *testing.T, story []string, log string, least int) {
	t.Helper()
	cmd, out, dir := startDemo(t, story...)
	done := ended(cmd)
	testpg.WaitFor(t, 3*time.Minute, log, func() bool {
		if _, err := os.Stat(filepath.Join(dir, log)); err == nil {
			return true
		}
		select {
		case <-done:
			t.Fatalf("ended by itself:\n%s", out)
		default:
		}
		return false
	})
	testpg.WaitFor(t, 2*time.Minute, "all of its processes", func() bool { return len(runningIn(dir)) >= least })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("does not end:\n%s", out)
	}
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130:\n%s", code, out)
	}
	if left := runningIn(dir); len(left) > 0 {
		t.Errorf("still running:\n%s", strings.Join(left, "\n"))
	}
}

// What the demo did not make it does not remove.
func TestRemoveRefusesForeignFolders(t *testing.T) {
	dir := t.TempDir()
	if err := remove(dir); err == nil {
		t.Error("a folder of somebody else was removed")
	}
	if err := remove(filepath.Join(dir, "absent")); err != nil {
		t.Error(err)
	}
}

// The last of what repo stats counts is the whole repository.
func TestWeight(t *testing.T) {
	var w weight
	if err := json.Unmarshal([]byte(`{"objects":[{"kind":"a","count":3,"bytes":5},{"kind":"Repository","count":265,"bytes":1363149}],"ratio":1.24}`), &w); err != nil {
		t.Fatal(err)
	}
	if got, want := w.line("synapse", "26 MB"), "repository: 265 objects, 1.3 MiB; database synapse: 26 MB; dedup ratio 1.2 to 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
