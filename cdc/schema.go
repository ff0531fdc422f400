package cdc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DumpOptions says with what a schema is dumped.
type DumpOptions struct {
	// Bin is the folder of pg_dump and pg_restore; "": from PATH.
	Bin string
}

// Dump is the schema of the database, and the catalog that it shows.
type Dump struct {
	// Custom is for pg_restore, Plain the same as SQL text for a reader without it.
	Custom, Plain []byte
	// Catalog was read under the snapshot of the dump. The schema is certain from its
	// After on, and until the Before of any later catalog with an equal fingerprint.
	Catalog *Catalog
}

// quietness remembers since when the schema has been as it is.
type quietness struct {
	mu          sync.Mutex
	fingerprint [32]byte
	since       time.Time
}

// saw notes a fingerprint and gives how long it has stood.
func (q *quietness) saw(fingerprint [32]byte, now time.Time) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.since.IsZero() || q.fingerprint != fingerprint {
		q.fingerprint, q.since = fingerprint, now
	}
	return now.Sub(q.since)
}

// DumpSchema dumps the schema when nobody is changing it (protocol §6): pg_dump locks
// every table, so it runs only when the fingerprint has stood for Config.Quiet (each
// call of Catalog and of DumpSchema looks), when nobody holds or awaits ACCESS
// EXCLUSIVE, with a lock timeout, and under the watcher. Fingerprint and dump are of
// one snapshot; some catalog functions of pg_dump look past it, so the fingerprint
// is read again afterwards. ErrBusy, ErrYield: try again later. ErrChanged: it
// changed meanwhile.
func (s *Source) DumpSchema(ctx context.Context, o DumpOptions) (*Dump, error) {
	d, err := s.dump(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("dump the schema: %w", err)
	}
	return d, nil
}

func (s *Source) dump(ctx context.Context, o DumpOptions) (*Dump, error) {
	if _, err := s.clientVersion(ctx, o.Bin); err != nil {
		return nil, err
	}
	first, err := s.Catalog(ctx)
	if err != nil {
		return nil, err
	}
	if stood := s.quiet.saw(first.Fingerprint, s.now()); stood < s.cfg.Quiet {
		return nil, fmt.Errorf("the schema has stood for %s only, want %s: %w", stood.Round(time.Millisecond), s.cfg.Quiet, ErrBusy)
	}
	if err := s.ask(ctx, exclusive); err != nil {
		return nil, err
	}
	c, err := s.open(ctx, "snapshot", sessionOptions{})
	if err != nil {
		return nil, err
	}
	defer c.shut()
	cat, snapshot, err := s.dumpSnapshot(ctx, c)
	if err != nil {
		return nil, classify(err)
	}
	if cat.Fingerprint != first.Fingerprint {
		return nil, ErrChanged
	}
	// pg_dump fails when a table of its snapshot is dropped before it is locked.
	custom, failed := s.runDump(ctx, o.Bin, snapshot)
	last, err := s.Catalog(ctx)
	if err != nil {
		return nil, errors.Join(failed, err)
	}
	if last.Fingerprint != cat.Fingerprint {
		return nil, ErrChanged
	}
	if failed != nil {
		return nil, failed
	}
	plain, err := plainText(ctx, o.Bin, custom)
	if err != nil {
		return nil, err
	}
	return &Dump{Custom: custom, Plain: plain, Catalog: cat}, nil
}

// exclusive answers ErrBusy when somebody holds or awaits ACCESS EXCLUSIVE on a
// table that pg_dump would lock. Tables that we do not see were made by a
// transaction that is still open; pg_dump does not see them either.
func exclusive(ctx context.Context, c *session) error {
	rows, err := c.query(ctx, `SELECT n.nspname || '.' || r.relname, coalesce(l.pid, 0) FROM pg_catalog.pg_locks l
		JOIN pg_catalog.pg_class r ON r.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
		WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND r.relpersistence <> 't'
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) LIMIT 1`)
	if err != nil || len(rows) == 0 {
		return err
	}
	r := scan(rows[0])
	return fmt.Errorf("%s is locked or about to be by process %d: %w", r.text(), r.oid(), ErrBusy)
}

// dumpSnapshot exports a snapshot from a transaction that holds nothing but it, and
// reads the catalog under it.
func (s *Source) dumpSnapshot(ctx context.Context, c *session) (*Catalog, string, error) {
	before, err := insertLSN(ctx, c)
	if err != nil {
		return nil, "", err
	}
	if _, err := c.simple(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, "", err
	}
	r, err := c.one(ctx, "SELECT pg_catalog.pg_export_snapshot()")
	if err != nil {
		return nil, "", err
	}
	cat, err := s.catalogUnder(ctx, c)
	if err != nil {
		return nil, "", err
	}
	cat.Before = before
	cat.After, err = insertLSN(ctx, c)
	return cat, r.text(), err
}

// runDump runs pg_dump under the snapshot, watched. Its sessions are known by a name
// of their own.
func (s *Source) runDump(ctx context.Context, bin, snapshot string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name := "lifeboat dump " + rand.Text()[:12]
	release, err := s.watcher.guard(ctx, &hold{name: name, end: cancel})
	if err != nil {
		return nil, err
	}
	wait := strconv.FormatInt(s.lockWait().Milliseconds(), 10)
	cmd := exec.CommandContext(ctx, program(bin, "pg_dump"), "--schema-only", "--format=custom", "--no-password",
		"--lock-wait-timeout="+wait, "--snapshot="+snapshot)
	// The connection string has been resolved: a service named in the environment
	// must not be asked again.
	cmd.Env = slices.DeleteFunc(cmd.Environ(), func(v string) bool { return strings.HasPrefix(v, "PGSERVICE=") })
	cmd.Env = append(cmd.Env, s.libpqEnv(name)...)
	cmd.WaitDelay = 5 * time.Second
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	freed := release()
	text := strings.TrimSpace(said.String())
	switch {
	case err == nil:
		return out.Bytes(), nil
	case freed:
		return nil, fmt.Errorf("pg_dump: %w", ErrYield)
	case strings.Contains(text, "statement timeout") || strings.Contains(text, "lock timeout"):
		return nil, fmt.Errorf("pg_dump: %s: %w", text, ErrBusy)
	}
	return nil, fmt.Errorf("pg_dump: %w: %s", err, text)
}

// plainText makes SQL of a custom archive, without a server.
func plainText(ctx context.Context, bin string, custom []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program(bin, "pg_restore"), "--file=-")
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(custom), &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("pg_restore: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return out.Bytes(), nil
}

func program(bin, name string) string {
	if bin == "" {
		return name
	}
	return filepath.Join(bin, name)
}

// clientVersion gives pg_dump's major version, with an error when it is missing or
// older than the server (it refuses a newer server).
func (s *Source) clientVersion(ctx context.Context, bin string) (int, error) {
	major := s.version / 10000
	path := program(bin, "pg_dump")
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) || bin != "" {
			return 0, fmt.Errorf("%s not found: install the client programs of PostgreSQL %d or newer (Debian: apt install postgresql-client-%d): %w", path, major, major, err)
		}
		return 0, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	m := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s says %q: not PostgreSQL's pg_dump", path, out)
	}
	have, err := strconv.Atoi(string(m[1]))
	if err == nil && have < major {
		err = fmt.Errorf("%s is version %d, the server %d: install the client programs of PostgreSQL %d or newer (Debian: apt install postgresql-client-%d)", path, have, major, major, major)
	}
	return have, err
}

// libpqEnv tells a client program where to connect; nothing of it is on a command
// line, which other users of the host can read.
func (s *Source) libpqEnv(name string) []string {
	p := s.parsed
	env := []string{
		"PGHOST=" + p.Host, "PGPORT=" + strconv.Itoa(int(p.Port)), "PGUSER=" + p.User, "PGDATABASE=" + p.Database,
		"PGAPPNAME=" + name, "PGOPTIONS=-c synchronous_commit=off -c tcp_user_timeout=5s -c tcp_keepalives_idle=5",
		"PGCLIENTENCODING=UTF8",
	}
	if p.Password != "" {
		env = append(env, "PGPASSWORD="+p.Password)
	}
	for key, value := range dsnSettings(s.cfg.DSN) {
		if variable, ok := map[string]string{
			"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
			"sslsni": "PGSSLSNI", "sslnegotiation": "PGSSLNEGOTIATION", "passfile": "PGPASSFILE",
			"channel_binding": "PGCHANNELBINDING", "krbsrvname": "PGKRBSRVNAME", "connect_timeout": "PGCONNECT_TIMEOUT",
		}[key]; ok {
			env = append(env, variable+"="+value)
		}
	}
	return env
}

// dsnSettings reads the settings of a connection string that pgconn does not give
// back: key=value pairs of both forms (PostgreSQL documentation, section 32.1.1).
func dsnSettings(dsn string) map[string]string {
	out := map[string]string{}
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		if u, err := url.Parse(dsn); err == nil {
			for k, v := range u.Query() {
				out[k] = v[0]
			}
		}
		return out
	}
	pair := regexp.MustCompile(`(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))`)
	unescape := regexp.MustCompile(`\\(.)`)
	for _, m := range pair.FindAllStringSubmatch(dsn, -1) {
		out[m[1]] = unescape.ReplaceAllString(m[2]+m[3], "$1")
	}
	return out
}
