package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// shop is the generic story: any PostgreSQL database, here pgbench's.
type shop struct {
	*demo
	bench  *process
	before map[string]string // what each table held just before the accident
}

// tables in the order in which pgbench's transaction locks them, so that the
// accident, which locks them all, never meets it half way.
func tables() []string {
	return []string{"pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"}
}

func (d *shop) steps() []step {
	return []step{
		{"PostgreSQL 18 starts, in a folder of its own", d.startPostgres},
		{fmt.Sprintf("pgbench loads a shop of %d00,000 accounts", d.scale), d.load},
		{"The repository, the operator's key and lifeboat.yaml are made", d.setUp},
		{"The database is prepared: publication, identities, slot", d.attach},
		{"The agent runs: it copies every table and follows the stream", d.weighed("shop", d.runAgent)},
		{fmt.Sprintf("pgbench writes for %d seconds, and goes on after that", d.seconds), d.weighed("shop", d.write)},
		{"A named restore point", d.weighed("shop", d.mark)},
		{"The accident: DELETE FROM pgbench_accounts, without WHERE", d.weighed("shop", d.accident)},
		{"Who did it, and when?", d.find},
		{"The moment before becomes a new database", d.weighed("restored", d.restore)},
		{"Is it what was there?", d.compare},
		{"The repository is whole, and equal to the live database", d.verify},
		{"What it weighs", d.sizes},
		{"The agent stops in order, the database is left as it was", d.tidy},
	}
}

func (d *shop) load(ctx context.Context) error {
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

func (d *shop) dsn(db string) string {
	return fmt.Sprintf("postgres://shop@127.0.0.1:%d/%s", d.port, db)
}

func (d *shop) setUp(ctx context.Context) error { return d.init(ctx, "--source", d.dsn("shop")) }

func (d *shop) write(ctx context.Context) error {
	// More than enough for what follows; the walk's end stops it.
	var err error
	d.bench, err = d.start("pgbench", "pgbench.log", nil, []syscall.Signal{syscall.SIGTERM}, d.program("pgbench"),
		"-n", "-c", "2", "-T", "600", "-R", "300", "-P", "5", "-U", "shop", "shop")
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.bench.done:
		return errors.New("pgbench has ended:\n" + d.logTail("pgbench"))
	case <-time.After(time.Duration(d.seconds) * time.Second):
	}
	n, err := d.sql(ctx, "shop", "SELECT count(*) FROM pgbench_history")
	d.say("%s transactions so far", n)
	return err
}

func (d *shop) mark(ctx context.Context) error { return d.lifeboatRun(ctx, "mark", "all-is-well") }

// checksum is a query for the number of rows of a table and a hash over them.
func checksum(table string) string {
	return fmt.Sprintf("SELECT '%[1]s ' || count(*) || ' rows, checksum ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM %[1]s t", table)
}

// accident deletes every account. In the same transaction, with all writers
// waiting, it looks at what is there just before: the judge of the restore.
func (d *shop) accident(ctx context.Context) error {
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

func (d *shop) find(ctx context.Context) error {
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

func (d *shop) restore(ctx context.Context) error {
	d.say("$ createdb restored")
	if _, err := d.sql(ctx, "postgres", "CREATE DATABASE restored OWNER shop"); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "restore", "--at", d.at, "--to", d.dsn("restored"), "--key", key)
}

func (d *shop) compare(ctx context.Context) error {
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

func (d *shop) tidy(ctx context.Context) error {
	d.bench.stop()
	return d.detach(ctx)
}
