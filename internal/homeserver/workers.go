package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"
)

// The workers of [Options.Workers], beside the main process.
const (
	persister = "persister" // the one writer of the streams events and backfill
	sender    = "sender"    // the one that sends to other servers
	generic   = "generic"   // answers a part of the client API (see [Server.route])
	redisName = "valkey"
)

// workerNames is every worker, in the order of their start.
func workerNames() []string { return []string{persister, sender, generic} }

// work adds workers to homeserver.yaml, as Synapse's docs/workers.md says: who is
// where, who writes what, and the server of the redis protocol through which they
// talk. Each worker gets a file of its own.
func (s *Server) work(conf map[string]any) error {
	ports := map[string]int{}
	for _, name := range append(workerNames(), redisName, "main") {
		port, err := freePort()
		if err != nil {
			return err
		}
		ports[name] = port
	}
	s.ports = ports
	at := func(name string) map[string]any { return map[string]any{"host": "127.0.0.1", "port": ports[name]} }
	conf["listeners"] = append(conf["listeners"].([]any), listener(ports["main"], false, "replication"))
	conf["redis"] = map[string]any{"enabled": true, "host": "127.0.0.1", "port": ports[redisName]}
	conf["instance_map"] = map[string]any{"main": at("main"), persister: at(persister)}
	conf["stream_writers"] = map[string]any{"events": persister}
	conf["federation_sender_instances"] = []string{sender}
	if conf["worker_replication_secret"] == nil {
		conf["worker_replication_secret"] = secret()
	}
	for _, name := range workerNames() {
		resources := []string{"replication"}
		if name == generic {
			resources = []string{"client"}
		}
		text, err := yaml.Marshal(map[string]any{
			"worker_app": "synapse.app.generic_worker", "worker_name": name,
			"worker_pid_file":   filepath.Join(s.options.Dir, name+".pid"),
			"worker_log_config": filepath.Join(s.options.Dir, logConfig),
			"worker_listeners":  []any{listener(ports[name], false, resources...)},
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.workerConfig(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// alone takes workers of an earlier start out of homeserver.yaml.
func alone(conf map[string]any) {
	for _, key := range []string{"redis", "instance_map", "stream_writers", "federation_sender_instances"} {
		delete(conf, key)
	}
}

func (s *Server) workerConfig(name string) string {
	return filepath.Join(s.options.Dir, name+".yaml")
}

// bootRedis starts the server of the redis protocol. It keeps nothing on disk.
func (s *Server) bootRedis() error {
	path := s.options.Install.Redis
	if path == "" {
		return fmt.Errorf("valkey: %w", ErrMissing)
	}
	p, err := spawn(redisName, filepath.Join(s.options.Dir, redisName+".log"), s.options.Dir, nil, path,
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.ports[redisName]), "--save", "", "--appendonly", "no")
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.procs = append(s.procs, p)
	s.mu.Unlock()
	return nil
}

// bootWorkers starts the workers side by side, and waits until each answers. The
// main process has brought the schema up to date before.
func (s *Server) bootWorkers(ctx context.Context) error {
	var all errgroup.Group
	for _, name := range workerNames() {
		p, err := s.spawn(name, "-m", "synapse.app.generic_worker", "-c", s.ConfigPath(), "-c", s.workerConfig(name))
		if err != nil {
			return errors.Join(err, all.Wait())
		}
		all.Go(func() error { return s.answer(ctx, p, s.at(name)+"/health") })
	}
	return all.Wait()
}

func (s *Server) at(name string) string { return "http://127.0.0.1:" + strconv.Itoa(s.ports[name]) }

// route gives the address of the process that answers a request: as a reverse
// proxy would by the tables of docs/workers.md, the generic worker gets what any
// worker may do.
func (s *Server) route(method, path string) string {
	path, _, _ = strings.Cut(path, "?")
	for _, r := range s.routes {
		if r.path.MatchString(path) && (r.method == "" || r.method == method) {
			return s.at(generic)
		}
	}
	return s.URL()
}

type route struct {
	method string // "" is any
	path   *regexp.Regexp
}

// genericRoutes are endpoints of docs/workers.md that need not be answered by a
// writer of some stream. To-device messages, receipts, typing, presence, account
// data, device lists and push rules are not among them: the main process writes
// their streams.
func genericRoutes() []route {
	const client = `^/_matrix/client/(api/v1|r0|v1|v3|unstable)`
	var all []route
	for _, r := range []struct{ method, path string }{
		{"", `/sync$`},
		{"", `/(createRoom|login|joined_rooms|capabilities|search|notifications|publicRooms)$`},
		{"", `/account/whoami$`},
		{"", `/keys/(query|claim|changes)$`},
		{"", `/room_keys/`},
		{"", `/user/[^/]+/filter`},
		{http.MethodGet, `/profile/`},
		{http.MethodGet, `/directory/room/`},
		{"", `/rooms/[^/]+/(messages|context/.*|members|joined_members|event/.*|relations/.*|threads|hierarchy|aliases)$`},
		{"", `/rooms/[^/]+/(send/.*|redact/.*|state(/.*)?|join|invite|leave|ban|unban|kick)$`},
		{"", `/(join|knock)/`},
	} {
		all = append(all, route{r.method, regexp.MustCompile(client + r.path)})
	}
	return all
}
