package homeserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what homeserver is started.
type Options struct {
	// Dir is the homeserver's folder; it may be empty or missing. A second start in
	// the same folder is the same homeserver (name, secrets, key, media), with
	// another DSN if that is given.
	Dir string
	// From, if any, is the folder of another homeserver: an empty Dir becomes a copy
	// of it first, which is how a restored database gets its homeserver.
	From string
	// Install is the Synapse to run; see [Find].
	Install Install
	// DSN is the database, postgres://…; encoding UTF8 and locale C, as Synapse demands.
	DSN string
	// ServerName is "localhost" by default, with Federation "localhost:PORT". It
	// counts at the first start in a folder only.
	ServerName string
	// Federation adds a TLS listener for other servers on this machine.
	Federation bool
	// Workers adds an event persister, a federation sender and a generic worker that
	// answers a part of the client API, with the server of the redis protocol through
	// which they talk.
	Workers bool
	// Extra is merged into homeserver.yaml, key by key at the top level; it stays
	// there for later starts.
	Extra map[string]any
}

// Server is a running homeserver, or one that ran: its folder outlives it.
type Server struct {
	options Options
	name    string
	secret  string // registration_shared_secret
	port    int
	ports   map[string]int // of workers, of what they talk through, and of the main process for them
	routes  []route        // requests that the generic worker answers; none without workers
	http    *http.Client

	mu     sync.Mutex
	procs  []*process // the last started last
	faults []string
}

// Start writes the configuration and boots the homeserver; it returns when the
// client API answers. The error holds the end of the log when it does not.
func Start(ctx context.Context, o Options) (*Server, error) {
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if err := o.copyFrom(); err != nil {
		return nil, fmt.Errorf("copy the homeserver %s: %w", o.From, err)
	}
	s := &Server{options: o, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, Proxy: nil}}}
	for range 3 { // another program may take the port between our look and the bind
		if s.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = s.configure(o); err != nil {
			return nil, fmt.Errorf("configure the homeserver: %w", err)
		}
		mark := len(s.Log())
		if err = s.boot(ctx); err == nil {
			return s, nil
		}
		s.Kill()
		if !strings.Contains(s.Log()[mark:], "Couldn't listen on") {
			break
		}
	}
	return nil, fmt.Errorf("boot the homeserver: %w\n%s", err, tail(s.Log(), 30))
}

// copyFrom makes an empty Dir a copy of From: configuration, keys and media, but
// not the log.
func (o Options) copyFrom() error {
	if o.From == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(o.Dir, configFile)); err == nil {
		return nil
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{configFile, keyFile, "tls.crt", "tls.key"} {
		b, err := os.ReadFile(filepath.Join(o.From, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.Dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return os.CopyFS(filepath.Join(o.Dir, mediaDir), os.DirFS(filepath.Join(o.From, mediaDir)))
}

// boot starts the process and waits until it answers.
func (s *Server) boot(ctx context.Context) error {
	if s.options.Workers {
		if err := s.bootRedis(); err != nil {
			return err
		}
	}
	p, err := s.spawn("homeserver", "-m", "synapse.app.homeserver", "-c", s.ConfigPath())
	if err != nil {
		return err
	}
	if err := s.answer(ctx, p, s.URL()+"/_matrix/client/versions"); err != nil || !s.options.Workers {
		return err
	}
	s.routes = genericRoutes()
	return s.bootWorkers(ctx)
}

// spawn starts a Python program of Synapse; its output goes to NAME.log.
func (s *Server) spawn(name string, args ...string) (*process, error) {
	i := s.options.Install
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.options.Dir, "LC_ALL=C.UTF-8", "TZ=UTC",
		"PYTHONPATH=" + i.Lib, "PYTHONUNBUFFERED=1",
	}
	p, err := spawn(name, filepath.Join(s.options.Dir, name+".log"), s.options.Dir, env, i.Python, args...)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.procs = append(s.procs, p)
	s.mu.Unlock()
	return p, nil
}

// bootTime is generous: two cores, many of us, and a first boot that fills a schema.
const bootTime = 2 * time.Minute

// answer waits until a process answers at a URL.
func (s *Server) answer(ctx context.Context, p *process, url string) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended: %s", p.name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", p.name, ctx.Err())
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if r, err := s.http.Do(req); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
}

// Stop ends the homeserver as an admin does (SIGTERM), and waits for it. It is an
// error when it had ended before, or had to be killed. ctx bounds nothing but the
// wait for a clean end.
func (s *Server) Stop(ctx context.Context) error {
	procs := s.take()
	var all []error
	for _, p := range slices.Backward(procs) {
		if p.ended() {
			all = append(all, fmt.Errorf("%s had ended by itself: %s", p.name, p.cmd.ProcessState))
			continue
		}
		most := 30 * time.Second
		if ctx.Err() != nil {
			most = time.Second
		}
		if !p.end(most, syscall.SIGTERM) {
			all = append(all, fmt.Errorf("%s did not end on SIGTERM", p.name))
		}
	}
	s.http.CloseIdleConnections()
	return errors.Join(all...)
}

// Kill ends the homeserver at once, as a crash does.
func (s *Server) Kill() {
	for _, p := range slices.Backward(s.take()) {
		p.end(0)
	}
	s.http.CloseIdleConnections()
}

func (s *Server) take() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	procs := s.procs
	s.procs = nil
	return procs
}

// Running reports whether all of its processes live.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.procs) > 0 && !slices.ContainsFunc(s.procs, (*process).ended)
}

// Options are those of the start.
func (s *Server) Options() Options { return s.options }

// Name is the server name, the part of a Matrix id after the colon.
func (s *Server) Name() string { return s.name }

// URL is the address of the client API, without a path.
func (s *Server) URL() string { return "http://127.0.0.1:" + strconv.Itoa(s.port) }

// ConfigPath is homeserver.yaml.
func (s *Server) ConfigPath() string { return filepath.Join(s.options.Dir, configFile) }

// MediaPath is the media store.
func (s *Server) MediaPath() string { return filepath.Join(s.options.Dir, mediaDir) }

// Log is all that the processes of this folder have said, those of earlier starts
// included.
func (s *Server) Log() string {
	all, _ := filepath.Glob(filepath.Join(s.options.Dir, "*.log"))
	var b strings.Builder
	for _, name := range all {
		text, _ := os.ReadFile(name)
		b.Write(text)
	}
	return b.String()
}

// Errors gives the entries of the log at ERROR or CRITICAL, each with its
// traceback, but for the harmless one of every boot (reference, A10: a metric is
// registered twice) and two of Synapse's own: a last word to other processes that one
// could not send any more when it was stopped, and a lock left to the garbage
// collector; and anything the interpreter said when it died.
func (s *Server) Errors() []string {
	var all []string
	keep := false
	for line := range strings.SplitSeq(s.Log(), "\n") {
		level, head := entry(line)
		switch {
		case head:
			keep = (level == "ERROR" || level == "CRITICAL") && !strings.Contains(line, harmless)
			if keep {
				all = append(all, line)
			}
		case keep:
			all[len(all)-1] += "\n" + line
		}
	}
	return slices.DeleteFunc(all, func(e string) bool {
		return strings.Contains(e, lastWord) && strings.HasSuffix(strings.TrimSpace(e), lostConnection) ||
			strings.HasSuffix(strings.TrimSpace(e), lostLock)
	})
}

// harmless is reference A10.
const harmless = "Metric named "

// A process of a Synapse with workers that is stopped closes its connection to the
// server of the redis protocol first, and then fails to tell what it did last
// (synapse/replication/tcp/redis.py).
const (
	lastWord       = "Background process 'send-cmd' threw an exception"
	lostConnection = "txredisapi.ConnectionError: Lost connection"
)

// lostLock: a lock that was left to the garbage collector, which releases it and says
// so (storage/databases/main/lock.py, Lock.__del__). A Synapse alone says it now and
// then when a purge and a reader of the room meet, and no client notices anything:
// TestLoad saw it, where nothing follows the database.
const lostLock = "dropped without being released"

// entry gives the level of a line that begins an entry of the log.
func entry(line string) (level string, ok bool) {
	// 2026-01-02 03:04:05,678 LEVEL logger request: message
	f := strings.SplitN(line, " ", 4)
	if len(f) < 4 || len(f[0]) != 10 || len(f[1]) != 12 || f[0][4] != '-' || f[1][2] != ':' {
		return "", false
	}
	return f[2], true
}

// Faults are the responses of 500 and above that clients of this server got: one
// line each.
func (s *Server) Faults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

func (s *Server) fault(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, line)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// freePort gives one below those that the kernel hands out to connections
// (ip_local_port_range), so that none of them takes it before the server does.
func freePort() (int, error) {
	var err error
	for range 100 {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))); err == nil {
			return l.Addr().(*net.TCPAddr).Port, l.Close()
		}
	}
	return 0, err
}
