// Package s3server runs real S3 servers and a faulty line to them, on this host, for tests
// and figures.
package s3server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// ErrMissing: the server's program is not here. make tools brings it.
var ErrMissing = errors.New("not installed: make tools")

// Kind is a server.
type Kind string

// The servers; they have no code in common.
const (
	// VersityGW keeps objects as files and checks signatures.
	VersityGW Kind = "versitygw"
	// GoFakeS3 keeps objects in memory and lets everybody in.
	GoFakeS3 Kind = "gofakes3"
)

// What the servers let in; no secrets.
const (
	AccessKey = "lifeboat-test"
	SecretKey = "lifeboat-test-secret"
	// Bucket exists when the server answers.
	Bucket = "backups"
)

// Server is a running one.
type Server struct {
	// Addr is host:port; requests are plain HTTP.
	Addr string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the server below root, the checkout that holds .tools, with its files in
// dir, which must exist. It is bound to the life of this process.
func Start(ctx context.Context, root string, kind Kind, dir string) (*Server, error) {
	path := filepath.Join(root, ".tools", "bin", string(kind))
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, ErrMissing)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), done: make(chan struct{})}
	args, err := arguments(kind, s.Addr, dir)
	if err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "server.log")
	if err := s.spawn(path, log, args); err != nil {
		return nil, fmt.Errorf("start %s: %w", kind, err)
	}
	if err := s.answers(ctx); err != nil {
		s.Stop()
		text, _ := os.ReadFile(log)
		return nil, fmt.Errorf("start %s: %w\n%s", kind, err, text)
	}
	return s, nil
}

func arguments(kind Kind, addr, dir string) ([]string, error) {
	if kind == GoFakeS3 {
		return []string{"-backend", "memory", "-host", addr, "-initialbucket", Bucket, "-quiet"}, nil
	}
	// Metadata lies beside the files: extended attributes are not everywhere.
	data, meta := filepath.Join(dir, "data"), filepath.Join(dir, "meta")
	for _, d := range []string{filepath.Join(data, Bucket), meta} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return []string{"--access", AccessKey, "--secret", SecretKey, "--port", addr, "--quiet", "posix", "--sidecar", meta, data}, nil
}

func (s *Server) spawn(path, log string, args []string) error {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.cmd = exec.Command(path, args...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(s.done)
		defer out.Close()
		// The death signal fires when the thread that forked ends (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait()
		}
	}()
	return <-started
}

// answers waits until the server speaks HTTP.
func (s *Server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-tick.C:
		case <-s.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return err
		}
	}
}

// URL is where a repository with that prefix lies on the server.
func (s *Server) URL(prefix string) string { return URL(s.Addr, prefix) }

// URL is where a repository lies at an address, the server's or a [Proxy]'s.
func URL(addr, prefix string) string { return "s3+http://" + addr + "/" + Bucket + "/" + prefix }

// Stop ends the server at once.
func (s *Server) Stop() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.done
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
