package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

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

// startDemo builds both programs and starts the demo in a folder that the
// servers' user can enter.
func startDemo(t *testing.T, args ...string) (*exec.Cmd, *output, string) {
	t.Helper()
	pg := filepath.Dir(filepath.Dir(testpg.Bin(t, testpg.Newest, "pgbench")))
	root, err := os.MkdirTemp("", "lifeboat-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, pkg := range map[string]string{"lifeboat": "lifeboat.im/lifeboat/cmd/lifeboat", "demo": "lifeboat.im/lifeboat/internal/demo"} {
		if text, err := exec.Command("go", "build", "-o", filepath.Join(root, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, text)
		}
	}
	dir := filepath.Join(root, "folder")
	cmd := exec.Command(filepath.Join(root, "demo"), append([]string{
		"-dir", dir, "-pg", pg, "-lifeboat", filepath.Join(root, "lifeboat"), "-scale", "1",
	}, args...)...)
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out, dir
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

// The whole story ends well, and leaves no process.
func TestDemo(t *testing.T) {
	t.Parallel()
	cmd, out, dir := startDemo(t, "-seconds", "3")
	select {
	case <-ended(cmd):
	case <-time.After(3 * time.Minute):
		t.Fatalf("not done after 3 minutes:\n%s", out)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	for _, want := range []string{"equal: pgbench_accounts", "Whole.", "to 1.", "Done in"} {
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
	cmd, out, dir := startDemo(t, "-seconds", "60")
	done := ended(cmd)
	testpg.WaitFor(t, time.Minute, "pgbench to write", func() bool {
		if _, err := os.Stat(filepath.Join(dir, "pgbench.log")); err == nil {
			return true
		}
		select {
		case <-done:
			t.Fatalf("ended by itself:\n%s", out)
		default:
		}
		return false
	})
	if len(runningIn(dir)) < 3 {
		t.Fatalf("server, agent and pgbench should run: %q", runningIn(dir))
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
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
