package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// usage is what a program took: seconds by the clock, seconds of its processors
// (with the programs that it started and waited for), those of the server
// meanwhile, peak memory in KiB.
type usage struct {
	wall, cpu, server float64
	peak              int64
}

// child is a program that was started.
type child struct {
	name    string
	cmd     *exec.Cmd
	signals []syscall.Signal // to end it, the gentle one first
	began   time.Time
	done    chan struct{} // closed when it has ended; then usage and err are set
	usage   usage
	err     error
	read    chan struct{} // closed when all of its output was read
	tail    tail
}

// tail keeps the end of what a program says on standard error, and tells lines to
// whoever listens.
type tail struct {
	mu    sync.Mutex
	lines []string
	watch func(line string)
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, line); len(t.lines) > 20 {
		t.lines = t.lines[1:]
	}
	if t.watch != nil {
		t.watch(line)
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

// start runs a program. It has a process group of its own, so that a Ctrl-C
// reaches us alone, and dies with us whatever kills us.
func (b *bench) start(name string, as *syscall.Credential, watch func(string), path string, args ...string) (*child, error) {
	c := &child{name: name, done: make(chan struct{}), read: make(chan struct{}), signals: []syscall.Signal{syscall.SIGTERM}}
	c.tail.watch = watch
	c.cmd = exec.Command(path, args...)
	c.cmd.Env = b.environment()
	c.cmd.Dir = b.dir
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as}
	log, err := os.OpenFile(filepath.Join(b.dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.cmd.Stdout, c.cmd.Stderr = w, w
	c.began = time.Now()
	err = c.cmd.Start()
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	b.running = append(b.running, c)
	go func() { // ends when the program and its children have closed the pipe
		defer close(c.read)
		defer log.Close()
		defer r.Close()
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 0, 1<<16), 1<<24)
		for s.Scan() {
			fmt.Fprintln(log, s.Text())
			c.tail.add(s.Text())
		}
	}()
	go c.follow()
	return c, nil
}

// follow waits for the program and watches its memory until then.
func (c *child) follow() {
	over := make(chan struct{})
	peak := make(chan int64)
	go func() {
		var most int64
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, highWater(c.cmd.Process.Pid))
			select {
			case <-over:
				peak <- most
				return
			case <-tick.C:
			}
		}
	}()
	err := c.cmd.Wait()
	c.usage.wall = time.Since(c.began).Seconds()
	close(over)
	c.usage.peak = <-peak
	<-c.read
	if s := c.cmd.ProcessState; s != nil {
		c.usage.cpu = (s.UserTime() + s.SystemTime()).Seconds()
	}
	if err != nil {
		c.err = fmt.Errorf("%s: %w\n%s", c.name, err, c.tail.String())
	}
	close(c.done)
}

// highWater gives VmHWM of a process in KiB (proc_pid_status(5)), 0 when it is gone.
func highWater(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

// wait waits until the program ends by itself.
func (b *bench) wait(ctx context.Context, c *child) (usage, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return usage{}, ctx.Err()
	}
	b.forget(c)
	return c.usage, c.err
}

// command runs a program to its end.
func (b *bench) command(ctx context.Context, name, path string, args ...string) (usage, error) {
	c, err := b.start(name, nil, nil, path, args...)
	if err != nil {
		return usage{}, err
	}
	return b.wait(ctx, c)
}

// program runs one of PostgreSQL's programs to its end.
func (b *bench) program(ctx context.Context, name string, args ...string) (usage, error) {
	return b.command(ctx, name, filepath.Join(b.pg, "bin", name), args...)
}

// end asks a program to end, and gives what it took; each signal has 40 seconds.
func (b *bench) end(c *child) (usage, error) {
	b.forget(c)
	for _, s := range append(c.signals, syscall.SIGKILL) {
		_ = c.cmd.Process.Signal(s)
		select {
		case <-c.done:
			return c.usage, c.err
		case <-time.After(40 * time.Second):
		}
	}
	<-c.done
	return c.usage, c.err
}

func (b *bench) forget(c *child) {
	for i, r := range b.running {
		if r == c {
			b.running = append(b.running[:i], b.running[i+1:]...)
			return
		}
	}
}

func (b *bench) stopLast() { _, _ = b.end(b.running[len(b.running)-1]) }

// stopAll ends what was started last first.
func (b *bench) stopAll() {
	for len(b.running) > 0 {
		b.stopLast()
	}
}

// environment is what programs get: PostgreSQL's programs first in PATH, nothing
// of the caller's PG* variables.
func (b *bench) environment() []string {
	return []string{
		"PATH=" + filepath.Join(b.pg, "bin") + ":" + os.Getenv("PATH"), "HOME=" + b.dir, "TMPDIR=" + os.TempDir(), "LC_ALL=C", "TZ=UTC",
		"NO_COLOR=1", "PGHOST=127.0.0.1", "PGPORT=" + strconv.Itoa(b.port), "PGUSER=postgres", "PGCONNECT_TIMEOUT=10",
	}
}
