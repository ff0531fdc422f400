package testpg

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Superuser is the role that owns every cluster. There are no passwords.
const Superuser = "postgres"

// Cluster is a PostgreSQL server on 127.0.0.1.
type Cluster struct {
	Major int
	// Dir is the data directory; the server's user owns it.
	Dir string
	// Port may change when the server is started again and another program took it.
	Port int

	install string
	log     string
	conf    map[string]string

	mu    sync.Mutex
	proc  *process // nil when down
	epoch int      // counts starts: older sessions are dead
}

// defaults is the configuration that a test changes by conf: logical decoding,
// small, and without fsync, since only a power cut could tell.
func defaults() map[string]string {
	return map[string]string{
		"wal_level": "logical", "fsync": "off", "autovacuum": "on",
		"max_replication_slots": "50", "max_wal_senders": "50", "max_prepared_transactions": "10",
		"max_connections": "100", "shared_buffers": "64MB", "checkpoint_timeout": "30s", "max_wal_size": "256MB",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "jit": "off",
		"timezone": "UTC", "log_timezone": "UTC", "log_line_prefix": "%m [%p] %d %a ", "logging_collector": "off",
	}
}

// Start makes a cluster for this test alone; conf adds to the defaults (an empty
// value of a setting is written as it is). It is stopped and removed when the
// test ends.
func Start(t testing.TB, major int, conf map[string]string) *Cluster {
	t.Helper()
	c, err := create(install(t, major, "postgres"), major, conf)
	if err != nil {
		t.Fatalf("start PostgreSQL %d: %v", major, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", c.Log(30))
		}
		c.remove()
	})
	return c
}

// Shared gives the package's cluster of a major version: started by the first
// test that asks, stopped by [Main]. Tests in it keep to databases of their own.
func Shared(t testing.TB, major int) *Cluster {
	t.Helper()
	dir := install(t, major, "postgres")
	state.Lock()
	defer state.Unlock()
	if c := state.shared[major]; c != nil {
		return c
	}
	state.Unlock()
	c, err := create(dir, major, nil)
	state.Lock()
	if err != nil {
		t.Fatalf("start PostgreSQL %d: %v", major, err)
	}
	if first := state.shared[major]; first != nil { // a parallel test was faster
		go c.remove()
		return first
	}
	state.shared[major] = c
	return c
}

// reserve makes a folder of its own for a cluster.
func reserve(name string) (string, error) {
	state.Lock()
	state.serial++
	dir := filepath.Join(state.root, fmt.Sprintf("%s-%d", name, state.serial))
	state.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, own(dir)
}

func create(install string, major int, conf map[string]string) (*Cluster, error) {
	dir, err := reserve("pg" + strconv.Itoa(major))
	if err != nil {
		return nil, err
	}
	c := &Cluster{Major: major, Dir: filepath.Join(dir, "data"), install: install, log: filepath.Join(dir, "server.log"), conf: defaults()}
	maps.Copy(c.conf, conf)
	err = runAs(filepath.Join(dir, "initdb.log"), filepath.Join(install, "bin", "initdb"),
		"-D", c.Dir, "-U", Superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return nil, err
	}
	if err := c.up(true); err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// up starts the server and, with wait, returns when it answers. A port that
// another program takes between our look and the server's bind costs a try.
func (c *Cluster) up(wait bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil && !c.proc.ended() {
		return nil
	}
	var err error
	for range 10 {
		if c.Port == 0 || err != nil {
			if c.Port, err = freePort(); err != nil {
				return err
			}
		}
		if err = c.writeConf(); err != nil {
			return err
		}
		mark := logSize(c.log)
		// SIGQUIT: the postmaster ends its children and itself at once.
		c.proc, err = start(syscall.SIGQUIT, c.log, filepath.Join(c.install, "bin", "postgres"), "-D", c.Dir)
		if err != nil {
			return err
		}
		c.epoch++
		if !wait {
			return nil
		}
		if err = c.answer(); err == nil {
			return nil
		}
		if !bytes.Contains(logFrom(c.log, mark), []byte("could not bind")) {
			return err
		}
	}
	return err
}

// answer waits until the server takes sessions.
func (c *Cluster) answer() error {
	var last error
	ok := poll(2*time.Minute, func() bool {
		if c.proc.ended() {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var conn *pgconn.PgConn
		if conn, last = pgconn.Connect(ctx, c.DSN("postgres")); last != nil {
			return false
		}
		_ = conn.Close(ctx)
		return true
	})
	switch {
	case c.proc.ended():
		return fmt.Errorf("the server ended: %s", c.Log(20))
	case !ok:
		return fmt.Errorf("the server does not answer: %w", last)
	}
	return nil
}

// writeConf writes our settings to a file of their own, read after initdb's.
func (c *Cluster) writeConf() error {
	c.conf["port"] = strconv.Itoa(c.Port)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(c.conf)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(c.conf[k], "'", "''"))
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "testpg.conf"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	main := filepath.Join(c.Dir, "postgresql.conf")
	old, err := os.ReadFile(main)
	if err != nil || bytes.Contains(old, []byte("testpg.conf")) {
		return err
	}
	return os.WriteFile(main, append(old, "\ninclude 'testpg.conf'\n"...), 0o644)
}

// DSN gives the address of a database as superuser.
func (c *Cluster) DSN(db string) string { return c.DSNAs(Superuser, db) }

// DSNAs gives the address of a database as another role.
func (c *Cluster) DSNAs(role, db string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User(role), Host: "127.0.0.1:" + strconv.Itoa(c.Port),
		Path: "/" + db, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Restart ends the server in a mode of pg_ctl (smart, fast or immediate) and
// starts it again; one that is down is only started.
func (c *Cluster) Restart(t testing.TB, mode string) {
	t.Helper()
	signal, ok := map[string]syscall.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}[mode]
	if !ok {
		t.Fatalf("restart: no mode %q", mode)
	}
	c.down(signal)
	if err := c.up(true); err != nil {
		t.Fatalf("restart PostgreSQL: %v", err)
	}
}

// Kill ends the server as a crash does, and leaves it down. The next start
// recovers from the write-ahead log.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	c.down(syscall.SIGQUIT)
}

// Stop ends the server in fast mode and leaves it down.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	c.down(syscall.SIGINT)
}

func (c *Cluster) down(s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proc != nil {
		c.proc.end(30*time.Second, s, syscall.SIGQUIT)
		c.proc = nil
	}
}

func (c *Cluster) remove() {
	c.down(syscall.SIGQUIT)
	_ = os.RemoveAll(filepath.Dir(c.Dir))
}

// SetConf changes a setting and waits until new sessions see it; a setting that
// needs a restart waits for [Cluster.Restart]. It stays until the cluster ends.
func (c *Cluster) SetConf(t testing.TB, name, value string) {
	t.Helper()
	c.mu.Lock()
	c.conf[name] = value
	err := c.writeConf()
	c.mu.Unlock()
	if err != nil {
		t.Fatalf("set %s: %v", name, err)
	}
	before := c.query(t, "postgres", "SELECT pg_conf_load_time()::text")
	// pg_conf_load_time has microseconds: two reloads never share one.
	c.query(t, "postgres", "SELECT pg_reload_conf()")
	WaitFor(t, 2*time.Minute, "the reload of the configuration", func() bool {
		return c.query(t, "postgres", "SELECT pg_conf_load_time()::text")[0][0] != before[0][0]
	})
}

// Role makes a role that can log in; attrs are those of CREATE ROLE, for instance
// "REPLICATION". It is dropped, with what it owns, when the test ends.
func (c *Cluster) Role(t testing.TB, name, attrs string) {
	t.Helper()
	q := pgx.Identifier{name}.Sanitize()
	c.query(t, "postgres", "CREATE ROLE "+q+" LOGIN "+attrs)
	t.Cleanup(func() {
		for _, db := range c.query(t, "postgres", "SELECT datname FROM pg_database WHERE datallowconn") {
			_, err := c.try(db[0], "REASSIGN OWNED BY "+q+" TO "+Superuser+"; DROP OWNED BY "+q)
			// A test that runs beside this one may have dropped its database meanwhile.
			if err != nil && len(c.query(t, "postgres", "SELECT 1 FROM pg_database WHERE datname = "+quote(db[0]))) > 0 {
				t.Fatalf("disown role %s: %v", name, err)
			}
		}
		c.query(t, "postgres", "DROP ROLE "+q)
	})
}

// Query runs one query in a session of its own, in the database postgres.
func (c *Cluster) Query(t testing.TB, sql string) [][]string {
	t.Helper()
	return c.query(t, "postgres", sql)
}

func (c *Cluster) query(t testing.TB, db, sql string) [][]string {
	t.Helper()
	rows, err := c.try(db, sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func (c *Cluster) try(db, sql string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, c.DSN(db))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", db, err)
	}
	defer conn.Close(ctx)
	rows, err := query(ctx, conn, sql)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	return rows, nil
}

// Log gives the last lines of the server's log.
func (c *Cluster) Log(lines int) string {
	b, _ := os.ReadFile(c.log)
	return tail(b, lines)
}

func tail(b []byte, lines int) string {
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func logSize(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func logFrom(path string, from int64) []byte {
	b, _ := os.ReadFile(path)
	return b[min(int64(len(b)), from):]
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
