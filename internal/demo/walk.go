package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// demo is one walk through the story.
type demo struct {
	options
	out     io.Writer
	port    int
	running []*process
	agent   *process
	began   time.Time

	before map[string]string // what each table held just before the accident
	at     string            // the restore target that find printed
}

// tables in the order in which pgbench's transaction locks them, so that the
// accident, which locks them all, never meets it half way.
func tables() []string {
	return []string{"pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"}
}

// step is one paragraph of the story.
type step struct {
	title string
	do    func(context.Context) error
}

func (d *demo) walk(ctx context.Context) error {
	d.began = time.Now()
	if err := d.prepare(); err != nil {
		return err
	}
	steps := []step{
		{"PostgreSQL 18 starts, in a folder of its own", d.startPostgres},
		{fmt.Sprintf("pgbench loads a shop of %d00,000 accounts", d.scale), d.load},
		{"The repository, the operator's key and lifeboat.yaml are made", d.init},
		{"The database is prepared: publication, identities, slot", d.attach},
		{"The agent runs: it copies every table and follows the stream", d.runAgent},
		{fmt.Sprintf("pgbench writes for %d seconds, and goes on after that", d.seconds), d.write},
		{"A named restore point", d.mark},
		{"The accident: DELETE FROM pgbench_accounts, without WHERE", d.accident},
		{"Who did it, and when?", d.find},
		{"The moment before becomes a new database", d.restore},
		{"Is it what was there?", d.compare},
		{"The repository is whole, and equal to the live database", d.verify},
		{"What it weighs", d.sizes},
		{"The agent stops in order, the database is left as it was", d.detach},
	}
	for i, s := range steps {
		fmt.Fprintf(d.out, "\n%2d. %s\n", i+1, s.title)
		start := time.Now()
		if err := s.do(ctx); err != nil {
			return err
		}
		d.say("(%.1f s)", time.Since(start).Seconds())
	}
	fmt.Fprintf(d.out, "\nDone in %.0f s. Everything is in %s; `make demo-clean` removes it.\n", time.Since(d.began).Seconds(), d.short(d.dir))
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "    "+format+"\n", args...) }

// short writes a path as it is typed from here.
func (d *demo) short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

func (d *demo) prepare() error {
	for what, path := range map[string]string{"make build": d.lifeboat, "make tools": d.program("postgres")} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s is not there: `%s` brings it", path, what)
		}
	}
	if err := remove(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.dir, "vault"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, marker), nil, 0o644)
}

// lifeboatRun types a lifeboat command: prints it, runs it, prints its answer.
func (d *demo) lifeboatRun(ctx context.Context, args ...string) error {
	d.say("$ lifeboat %s", quote(args))
	out, err := d.command(ctx, nil, d.lifeboat, args...)
	if err != nil {
		return err
	}
	for l := range strings.Lines(out) {
		d.say("%s", strings.TrimRight(l, "\n"))
	}
	return nil
}

// facts runs a lifeboat command with --json, which is not shown.
func (d *demo) facts(ctx context.Context, into any, args ...string) error {
	out, err := d.command(ctx, nil, d.lifeboat, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read the answer of lifeboat %s: %w", args[0], err)
	}
	return nil
}

func quote(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if strings.ContainsAny(a, " '") {
			a = strconv.Quote(a)
		}
		b.WriteString(a)
	}
	return b.String()
}

func (d *demo) sql(ctx context.Context, db, sql string) (string, error) {
	out, err := d.command(ctx, nil, d.program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", db, "-c", sql)
	return strings.TrimSpace(out), err
}

func (d *demo) load(ctx context.Context) error {
	// Not a superuser: the owner of the tables, with REPLICATION.
	if _, err := d.sql(ctx, "postgres", "CREATE ROLE shop LOGIN REPLICATION"); err != nil {
		return err
	}
	if _, err := d.sql(ctx, "postgres", "CREATE DATABASE shop OWNER shop"); err != nil {
		return err
	}
	if _, err := d.command(ctx, nil, d.program("pgbench"), "-i", "-q", "-s", strconv.Itoa(d.scale), "-U", "shop", "shop"); err != nil {
		return err
	}
	size, err := d.sql(ctx, "shop", "SELECT pg_size_pretty(pg_database_size('shop'))")
	d.say("the database has %s", size)
	return err
}

func (d *demo) dsn(db string) string {
	return fmt.Sprintf("postgres://shop@127.0.0.1:%d/%s", d.port, db)
}

func (d *demo) init(ctx context.Context) error {
	if err := d.lifeboatRun(ctx, "init", "--repo", "repository", "--source", d.dsn("shop"), "--quiet"); err != nil {
		return err
	}
	// The key leaves the host; here, another folder stands for the safe place.
	d.say("$ mv lifeboat.key vault/")
	if err := os.Rename(filepath.Join(d.dir, "lifeboat.key"), filepath.Join(d.dir, "vault", "lifeboat.key")); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "key", "test", "--key", "vault/lifeboat.key")
}

func (d *demo) attach(ctx context.Context) error { return d.lifeboatRun(ctx, "attach", "--quiet") }

func (d *demo) runAgent(ctx context.Context) error {
	d.say("$ lifeboat run &")
	var err error
	d.agent, err = d.start("lifeboat", "lifeboat.log", nil, []syscall.Signal{syscall.SIGTERM}, d.lifeboat, "run")
	if err != nil {
		return err
	}
	var points []struct {
		Restorable bool `json:"restorable"`
	}
	err = d.wait(ctx, "the first copy", 2*time.Minute, d.agent, func() (bool, error) {
		err := d.facts(ctx, &points, "points")
		return err == nil && len(points) == 1 && points[0].Restorable, ctx.Err()
	})
	if err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "points")
}

func (d *demo) write(ctx context.Context) error {
	// More than enough for what follows; the walk's end stops it.
	p, err := d.start("pgbench", "pgbench.log", nil, []syscall.Signal{syscall.SIGTERM}, d.program("pgbench"),
		"-n", "-c", "2", "-T", "600", "-R", "300", "-P", "5", "-U", "shop", "shop")
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.done:
		return errors.New("pgbench has ended:\n" + d.logTail("pgbench"))
	case <-time.After(time.Duration(d.seconds) * time.Second):
	}
	n, err := d.sql(ctx, "shop", "SELECT count(*) FROM pgbench_history")
	d.say("%s transactions so far", n)
	return err
}

func (d *demo) mark(ctx context.Context) error { return d.lifeboatRun(ctx, "mark", "all-is-well") }

// checksum is a query for the number of rows of a table and a hash over them.
func checksum(table string) string {
	return fmt.Sprintf("SELECT '%[1]s ' || count(*) || ' rows, checksum ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %[1]s t", table)
}

// accident deletes every account. In the same transaction, with all writers
// waiting, it looks at what is there just before: the judge of the restore.
func (d *demo) accident(ctx context.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, "BEGIN; LOCK TABLE %s IN EXCLUSIVE MODE;", strings.Join(tables(), ", "))
	for _, t := range tables() {
		b.WriteString(checksum(t) + ";")
	}
	b.WriteString("DELETE FROM pgbench_accounts; COMMIT;")
	out, err := d.sql(ctx, "shop", b.String())
	if err != nil {
		return err
	}
	d.before = parseChecksums(out)
	for _, t := range tables() {
		d.say("just before: %-17s %s", t, d.before[t])
	}
	left, err := d.sql(ctx, "shop", "SELECT count(*) FROM pgbench_accounts")
	d.say("accounts left: %s. pgbench goes on writing.", left)
	return err
}

func parseChecksums(out string) map[string]string {
	m := map[string]string{}
	for l := range strings.Lines(out) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(l), " "); ok {
			m[name] = rest
		}
	}
	return m
}

const key = "vault/lifeboat.key"

func (d *demo) find(ctx context.Context) error {
	var found []struct {
		Deletes uint64 `json:"deletes"`
		Before  string `json:"restore_at"`
	}
	args := []string{"find", "--table", "public.pgbench_accounts", "--deletes", "--key", key}
	err := d.wait(ctx, "the accident to be in the repository", time.Minute, d.agent, func() (bool, error) {
		err := d.facts(ctx, &found, args...)
		return len(found) > 0 || err != nil, err
	})
	if err != nil {
		return err
	}
	d.at = found[0].Before
	return d.lifeboatRun(ctx, args...)
}

func (d *demo) restore(ctx context.Context) error {
	d.say("$ createdb restored")
	if _, err := d.sql(ctx, "postgres", "CREATE DATABASE restored OWNER shop"); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "restore", "--at", d.at, "--to", d.dsn("restored"), "--key", key)
}

func (d *demo) compare(ctx context.Context) error {
	var wrong []string
	for _, t := range tables() {
		out, err := d.sql(ctx, "restored", checksum(t))
		if err != nil {
			return err
		}
		have := parseChecksums(out)[t]
		if have != d.before[t] {
			wrong = append(wrong, fmt.Sprintf("%s holds %s, was %s", t, have, d.before[t]))
			continue
		}
		d.say("equal: %-17s %s", t, have)
	}
	if len(wrong) > 0 {
		return errors.New("the restored database differs: " + strings.Join(wrong, "; "))
	}
	return nil
}

func (d *demo) verify(ctx context.Context) error {
	if err := d.lifeboatRun(ctx, "verify", "--key", key); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "verify", "--live", "--key", key)
}

func (d *demo) sizes(ctx context.Context) error {
	if err := d.lifeboatRun(ctx, "status"); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "repo", "stats")
}

func (d *demo) detach(ctx context.Context) error {
	d.running[len(d.running)-1].stop() // pgbench
	d.say("$ kill -TERM %%1        # lifeboat run")
	d.agent.stop()
	if code := d.agent.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("lifeboat run ended with %d:\n%s", code, d.logTail("lifeboat"))
	}
	return d.lifeboatRun(ctx, "detach", "--yes", "--quiet")
}
