package testpg

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// process is a running server or receiver.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// spawner runs what starts processes on one thread that never ends before the
// process does: PR_SET_PDEATHSIG fires when the *thread* that forked ends
// (prctl(2)), and Go ends threads as it likes.
func spawner(work <-chan func()) {
	runtime.LockOSThread()
	for f := range work {
		f()
	}
}

// start starts a program as the servers' user, in a process group of its own (a
// Ctrl-C at the terminal is for go test alone), bound to our life: whatever ends
// this process sends it the death signal.
func start(death syscall.Signal, log, path string, args ...string) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = environment()
	cmd.Dir = state.root
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death}
	if state.uid >= 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(state.uid), Gid: uint32(state.gid)}
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	started := make(chan error)
	state.spawn <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// run runs a program to its end as the servers' user.
func runAs(log, path string, args ...string) error {
	p, err := start(syscall.SIGKILL, log, path, args...)
	if err != nil {
		return err
	}
	<-p.done
	if !p.cmd.ProcessState.Success() {
		b, _ := os.ReadFile(log)
		return errors.New(filepath.Base(path) + ": " + p.cmd.ProcessState.String() + "\n" + tail(b, 40))
	}
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end sends each signal in turn and waits up to the time for the process to go;
// the last resort is SIGKILL to its group.
func (p *process) end(d time.Duration, signals ...syscall.Signal) {
	for _, s := range signals {
		_ = p.cmd.Process.Signal(s)
		if poll(d, p.ended) {
			return
		}
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// environment is what programs get: nothing of the caller's PG* variables.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=" + os.TempDir(), "TMPDIR=" + os.TempDir()}
}

// unprivileged gives the user for servers: nobody when we are root.
func unprivileged() (uid, gid int) {
	if os.Getuid() != 0 {
		return -1, -1
	}
	uid, gid = 65534, 65534
	if u, err := user.Lookup("nobody"); err == nil {
		if n, err := strconv.Atoi(u.Uid); err == nil {
			uid = n
		}
		if n, err := strconv.Atoi(u.Gid); err == nil {
			gid = n
		}
	}
	return uid, gid
}

// own gives a tree to the servers' user.
func own(dir string) error {
	if state.uid < 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, state.uid, state.gid)
	})
}
