package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs beside the demo.
type process struct {
	name    string
	cmd     *exec.Cmd
	signals []syscall.Signal // to end it, the gentle one first
	done    chan struct{}    // closed when it has ended
}

// start runs a program in the background, its output in a log file. It is in a
// process group of its own, so that a Ctrl-C reaches the demo alone, which ends
// its programs in order; and it dies with the demo whatever kills that.
func (d *demo) start(name, log string, as *syscall.Credential, signals []syscall.Signal, path string, args ...string) (*process, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, log), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = d.environment()
	cmd.Dir = d.dir
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: signals[len(signals)-1], Credential: as}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, signals: signals, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	d.ends = append(d.ends, p.stop)
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the process: each signal has 20 seconds.
func (p *process) stop() {
	for _, s := range append(p.signals, syscall.SIGKILL) {
		if p.ended() {
			return
		}
		_ = p.cmd.Process.Signal(s)
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
		}
	}
}

// stopAll ends what was started last first.
func (d *demo) stopAll() {
	for len(d.ends) > 0 {
		last := len(d.ends) - 1
		d.ends[last]()
		d.ends = d.ends[:last]
	}
}

// command runs a program to its end and gives what it printed to standard output.
func (d *demo) command(ctx context.Context, as *syscall.Credential, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = d.environment()
	cmd.Dir = d.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 15 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", filepath.Base(path), err, tail(out.String()+errOut.String(), 15))
	}
	return out.String(), nil
}

// environment is what programs get: PostgreSQL's programs first in PATH, nothing
// of the caller's PG* variables.
func (d *demo) environment() []string {
	env := []string{
		"PATH=" + filepath.Join(d.pg, "bin") + ":" + os.Getenv("PATH"), "HOME=" + d.dir, "LC_ALL=C",
		"NO_COLOR=1", "PGHOST=127.0.0.1", "PGCONNECT_TIMEOUT=10",
	}
	if d.port != 0 {
		env = append(env, "PGPORT="+strconv.Itoa(d.port))
	}
	if zone, ok := os.LookupEnv("TZ"); ok {
		env = append(env, "TZ="+zone)
	}
	return env
}

// serverUser gives the user that PostgreSQL runs as: ourselves, or nobody when we
// are root, whom it refuses.
func serverUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user nobody: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// reachable says which folder above path keeps other users out.
func reachable(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("PostgreSQL does not run as root, and the user nobody may not enter %s: chmod o+x %s, or clone the repository elsewhere", p, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startPostgres makes and starts the server, in ./postgres below the demo's folder.
func (d *demo) startPostgres(ctx context.Context) error {
	as, err := serverUser()
	if err != nil {
		return err
	}
	home := filepath.Join(d.dir, "postgres")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	if as != nil {
		if err := errors.Join(reachable(d.dir), reachable(filepath.Join(d.pg, "bin")), os.Chown(home, int(as.Uid), int(as.Gid))); err != nil {
			return err
		}
	}
	data := filepath.Join(home, "data")
	if _, err := d.command(ctx, as, d.program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-instructions"); err != nil {
		return err
	}
	if d.port, err = freePort(); err != nil {
		return err
	}
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} // fast, then immediate shutdown
	server, err := d.start("postgres", "postgres.log", as, signals, d.program("postgres"), "-D", data,
		"-c", "port="+strconv.Itoa(d.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "wal_level=logical", "-c", "shared_buffers=128MB", "-c", "max_wal_size=1GB")
	if err != nil {
		return err
	}
	return d.wait(ctx, "PostgreSQL", time.Minute, server, func() (bool, error) {
		_, err := d.command(ctx, nil, d.program("pg_isready"), "-q", "-d", "postgres", "-U", "postgres")
		return err == nil, nil
	})
}

func (d *demo) program(name string) string { return filepath.Join(d.pg, "bin", name) }

// wait asks until it is so, a background process has ended, or time is up.
func (d *demo) wait(ctx context.Context, what string, most time.Duration, needs *process, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-needs.done:
			return fmt.Errorf("%s has ended; the end of its log:\n%s", needs.name, d.logTail(needs.name))
		case <-tick.C:
		}
	}
}

func (d *demo) logTail(name string) string {
	f, err := os.Open(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return tail(string(b), 15)
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
