package proof

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// childEnv names the configuration of an agent: with it the test binary is that
// agent, and no test runs.
const childEnv = "LIFEBOAT_PROOF_CHILD"

// The exit codes of the child, those of the command.
const (
	exitFenced = 11
	exitLater  = 75
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(runChild(path))
	}
	testpg.Main(m)
}

// childConfig is what the child is told.
type childConfig struct {
	Repo   string
	Source agent.SourceOptions
	Tuning agent.Tuning
	State  string
	Adopt  bool
	Faults faults
}

// runChild is the agent: it opens what the configuration names and runs until
// SIGTERM.
func runChild(path string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := childMain(ctx, path)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, history.ErrFenced):
		fmt.Fprintln(os.Stderr, "fenced:", err)
		return exitFenced
	case errors.Is(err, agent.ErrLater):
		fmt.Fprintln(os.Stderr, "later:", err)
		return exitLater
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	return 1
}

func childMain(ctx context.Context, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var c childConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	disk, err := fs.Open(c.Repo)
	if err != nil {
		return err
	}
	var backend chunkstore.Backend = disk
	if c.Faults != (faults{}) {
		backend = newFaulty(disk, c.Faults)
	}
	var repo *history.Repository
	for range 20 { // the command would be started again by the service manager
		if repo, err = history.Open(ctx, backend); !errors.Is(err, errInjected) {
			break
		}
	}
	if err != nil {
		return err
	}
	s, err := agent.LoadSecrets(c.State)
	if err != nil {
		return err
	}
	return agent.Run(ctx, repo, s, agent.Options{
		Source: c.Source, Tuning: c.Tuning, State: c.State, Adopt: c.Adopt,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// child is an agent in a process of its own.
type child struct {
	pid  int
	log  string
	done chan struct{} // closed when it has ended
	code int           // of exit, -1 when a signal ended it; valid after done
}

// startChild starts an agent. It dies with this process.
func startChild(t testing.TB, dir string, c childConfig) *child {
	t.Helper()
	b, err := json.MarshalIndent(&c, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(dir, "agent-*.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &child{log: strings.TrimSuffix(f.Name(), ".json") + ".log", done: make(chan struct{})}
	out, err := os.Create(k.log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+f.Name(), "GOMAXPROCS=2")
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: a Ctrl-C at the terminal is for go test alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(k.done)
		defer out.Close()
		// The death signal fires when the thread that forked ends (prctl(2)): it is
		// this goroutine's until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()
		k.code = cmd.ProcessState.ExitCode()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	k.pid = cmd.Process.Pid
	t.Cleanup(func() {
		alive := !k.ended()
		k.kill()
		if t.Failed() && alive {
			t.Logf("the end of %s:\n%s", filepath.Base(k.log), k.tail(25))
		}
	})
	return k
}

func (k *child) ended() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// kill is SIGKILL; it returns when the process is gone.
func (k *child) kill() {
	if !k.ended() {
		_ = syscall.Kill(k.pid, syscall.SIGKILL)
	}
	<-k.done
}

func (k *child) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(k.pid, s); err != nil {
		t.Fatalf("signal %v to the agent: %v", s, err)
	}
}

// wait gives the exit code.
func (k *child) wait(t testing.TB, d time.Duration) int {
	t.Helper()
	select {
	case <-k.done:
	case <-time.After(d):
		t.Fatalf("the agent did not end within %v:\n%s", d, k.tail(25))
	}
	return k.code
}

// stop is SIGTERM: everything received is flushed, and the exit is clean.
func (k *child) stop(t testing.TB) {
	t.Helper()
	if k.ended() {
		t.Errorf("the agent ended by itself with %d:\n%s", k.code, k.tail(25))
		return
	}
	k.signal(t, syscall.SIGTERM)
	if code := k.wait(t, time.Minute); code != 0 {
		t.Errorf("SIGTERM ended the agent with %d:\n%s", code, k.tail(25))
	}
}

// output is all that the agent has said.
func (k *child) output() string {
	b, _ := os.ReadFile(k.log)
	return string(b)
}

func (k *child) tail(lines int) string {
	all := strings.Split(strings.TrimRight(k.output(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
