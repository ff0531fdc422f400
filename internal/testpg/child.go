package testpg

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Child is the test binary run again as another program, so that SIGKILL and
// SIGSTOP are real. TestMain looks for the environment variable first and becomes
// that program, with the configuration that the variable names.
type Child struct {
	PID int
	// Log is the file that holds all it says.
	Log string
	// Done is closed when it has ended.
	Done <-chan struct{}

	code  int  // of exit; valid after Done
	meant bool // that it has ended: the test asked for it, or saw it
}

// StartChild starts one below dir. The configuration is written as JSON into a file
// named for what, whose path is the value of the environment variable env. It dies
// with this process, and with the test at the latest.
func StartChild(t testing.TB, dir, what, env string, config any) *Child {
	t.Helper()
	path, err := writeConfig(dir, what, config)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	k := &Child{Log: strings.TrimSuffix(path, ".json") + ".log", Done: done}
	out, err := os.Create(k.Log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env+"="+path, "GOMAXPROCS=2")
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own: a Ctrl-C at the terminal is for go test alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(done)
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
	k.PID = cmd.Process.Pid
	t.Cleanup(func() {
		meant := k.meant
		k.Kill()
		if t.Failed() && !meant {
			t.Logf("the end of %s:\n%s", filepath.Base(k.Log), k.Tail(25))
		}
	})
	return k
}

func writeConfig(dir, what string, config any) (string, error) {
	b, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, what+"-*.json")
	if err != nil {
		return "", err
	}
	if _, err := f.Write(b); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// Ended reports whether it has ended.
func (k *Child) Ended() bool {
	select {
	case <-k.Done:
		return true
	default:
		return false
	}
}

// Code is the exit code of a child that has ended, -1 when a signal ended it.
func (k *Child) Code() int {
	<-k.Done
	k.meant = true
	return k.code
}

// Kill is SIGKILL; it returns when the process is gone.
func (k *Child) Kill() {
	k.meant = true
	if !k.Ended() {
		_ = syscall.Kill(k.PID, syscall.SIGKILL)
	}
	<-k.Done
}

// Signal sends a signal.
func (k *Child) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(k.PID, s); err != nil {
		t.Fatalf("signal %v to the child: %v", s, err)
	}
}

// Wait gives the exit code, and fails the test when it does not end in time.
func (k *Child) Wait(t testing.TB, d time.Duration) int {
	t.Helper()
	k.meant = true // what it said stands below if it did not
	select {
	case <-k.Done:
	case <-time.After(d):
		t.Fatalf("the child did not end within %v:\n%s", d, k.Tail(25))
	}
	return k.code
}

// Stop is SIGTERM, which must end it with 0 within a minute.
func (k *Child) Stop(t testing.TB) {
	t.Helper()
	if k.Ended() {
		k.meant = true
		t.Errorf("the child ended by itself with %d:\n%s", k.code, k.Tail(25))
		return
	}
	k.Signal(t, syscall.SIGTERM)
	if code := k.Wait(t, time.Minute); code != 0 {
		t.Errorf("SIGTERM ended the child with %d:\n%s", code, k.Tail(25))
	}
}

// Output is all that it has said.
func (k *Child) Output() string {
	b, _ := os.ReadFile(k.Log)
	return string(b)
}

// Tail is the last lines of it.
func (k *Child) Tail(lines int) string { return tail([]byte(k.Output()), lines) }
