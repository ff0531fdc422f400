package testpg

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// transaction does one random thing, as a whole.
func (c *client) transaction(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	switch n := c.rng.IntN(100); {
	case n < 4 && !c.load.Quiet:
		return c.truncate(ctx)
	case n < 7 && !c.load.Quiet && !c.load.Settled:
		return c.createOrDrop(ctx)
	case n < 12 && len(c.prepared) > 0:
		return c.decide(ctx)
	case n < 14:
		c.Large++
		err := c.exec(ctx, "INSERT INTO load.bag SELECT %d, g %% 50, repeat('x', g %% 30) FROM generate_series(1, %d) g", c.id, 200+c.rng.IntN(2000))
		return c.count(err)
	case n < 16:
		// Autocommit: a transaction of one statement, and one without a record.
		return c.exec(ctx, "SELECT nextval('load.down'); SELECT setval('load.serial', nextval('load.serial') + %d)", c.rng.IntN(50))
	}
	begin := "BEGIN"
	if c.rng.IntN(4) == 0 {
		begin = "BEGIN ISOLATION LEVEL REPEATABLE READ"
	}
	// Rows under a prepared transaction are locked until it is decided: they come
	// from a range that the client uses for nothing else.
	prepare := c.load.Prepared && len(c.prepared) == 0 && c.rng.IntN(15) == 0
	if prepare {
		c.own = c.id + maxClients
		defer func() { c.own = c.id }()
	}
	if c.load.Replica && c.rng.IntN(10) == 0 {
		begin += "; SET LOCAL session_replication_role = replica"
	}
	if err := c.exec(ctx, "%s", begin); err != nil {
		return err
	}
	if err := c.body(ctx, 0); err != nil {
		c.rollback(ctx)
		return err
	}
	if prepare {
		return c.prepare(ctx)
	}
	if c.rng.IntN(7) == 0 {
		c.Rollbacks++
		return c.exec(ctx, "ROLLBACK")
	}
	return c.count(c.exec(ctx, "COMMIT"))
}

func (c *client) count(err error) error {
	if err == nil {
		c.Commits++
	}
	return err
}

func (c *client) rollback(ctx context.Context) {
	if c.conn != nil && !c.conn.IsClosed() {
		_ = c.exec(ctx, "ROLLBACK")
	}
}

// body is some statements, with savepoints within savepoints.
func (c *client) body(ctx context.Context, depth int) error {
	for range 1 + c.rng.IntN(6) {
		if depth < 3 && c.rng.IntN(8) == 0 {
			name := fmt.Sprintf("s%d", depth)
			if err := c.exec(ctx, "SAVEPOINT %s", name); err != nil {
				return err
			}
			if err := c.body(ctx, depth+1); err != nil {
				return err
			}
			end := []string{"RELEASE", "ROLLBACK TO"}[c.rng.IntN(2)]
			if err := c.exec(ctx, "%s %s", end, name); err != nil {
				return err
			}
			continue
		}
		if err := c.exec(ctx, "%s", c.statement()); err != nil {
			return err
		}
	}
	return nil
}

// statement gives one random change of rows.
func (c *client) statement() string {
	n := c.rng.IntN(1000) - 500
	switch c.rng.IntN(20) {
	case 0, 1:
		return fmt.Sprintf("INSERT INTO load.keyed VALUES (%d, %d, %d, %s) ON CONFLICT (id) DO NOTHING", c.newKey(), c.own, n, c.value(20))
	case 2:
		return fmt.Sprintf("INSERT INTO load.keyed VALUES (%d, %d, %d, %s) ON CONFLICT (id) DO UPDATE SET n = excluded.n", c.key(), c.own, n, c.value(20))
	case 3:
		return fmt.Sprintf("UPDATE load.keyed SET n = %d, note = %s WHERE id = %d", n, c.value(20), c.key())
	case 4: // the key changes
		return fmt.Sprintf("UPDATE load.keyed SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM load.keyed WHERE id = %[1]d)", c.key(), c.key())
	case 5:
		return fmt.Sprintf("DELETE FROM load.keyed WHERE id = %d", c.key())
	case 6:
		return fmt.Sprintf("INSERT INTO load.pair VALUES (%d, %s, %d, %d.%03d) ON CONFLICT (b, a) DO UPDATE SET v = load.pair.v + 1", c.key(), quote(c.text(3)), c.own, n, c.rng.IntN(1000))
	case 7:
		return fmt.Sprintf("DELETE FROM load.pair WHERE ctid = (SELECT min(ctid) FROM load.pair WHERE client = %d)", c.own)
	case 8: // duplicates
		return fmt.Sprintf("INSERT INTO load.bag SELECT %d, %d, %s FROM generate_series(1, %d)", c.own, c.rng.IntN(5), c.value(2), 1+c.rng.IntN(3))
	case 9: // one of several equal rows
		return fmt.Sprintf("DELETE FROM load.bag WHERE ctid IN (SELECT ctid FROM load.bag WHERE client = %d AND a = %d LIMIT 1)", c.own, c.rng.IntN(50))
	case 10:
		return fmt.Sprintf("UPDATE load.bag SET b = %s WHERE ctid IN (SELECT ctid FROM load.bag WHERE client = %d LIMIT %d)", c.value(3), c.own, c.rng.IntN(4))
	case 11, 12:
		return c.toast()
	case 13:
		return c.typed()
	case 14:
		return fmt.Sprintf("INSERT INTO load.emptied VALUES (nextval('load.serial'), %d, %s); INSERT INTO load.emptied_too VALUES (%[3]d, %[1]d, %[4]s) ON CONFLICT (id) DO NOTHING", c.own, c.value(9), c.key(), c.value(9))
	case 15: // rows move between partitions
		return fmt.Sprintf("INSERT INTO load.parted VALUES (%d, %d, %d, %s) ON CONFLICT (k, id) DO NOTHING", c.rng.IntN(2), c.key(), c.own, c.value(9))
	case 16:
		return fmt.Sprintf("UPDATE load.parted p SET k = 1 - k WHERE client = %d AND id %% 7 = %d AND NOT EXISTS (SELECT FROM load.parted q WHERE q.id = p.id AND q.k = 1 - p.k)", c.own, c.rng.IntN(7))
	case 17:
		return fmt.Sprintf(`INSERT INTO load."Wïld ""Name""" VALUES (%s, %d, %s) ON CONFLICT DO NOTHING`, quote(fmt.Sprintf("%d/%s", c.own, c.text(2))), c.own, c.value(5))
	case 18:
		if len(c.extra) > 0 && c.own == c.id {
			return fmt.Sprintf("INSERT INTO load.%s VALUES (%d, %s)", c.extra[c.rng.IntN(len(c.extra))], n, c.value(30))
		}
		return "INSERT INTO load.nothing DEFAULT VALUES"
	}
	return fmt.Sprintf("UPDATE load.keyed SET n = n + 1 WHERE client = %d AND id %% 10 = %d", c.own, c.rng.IntN(10))
}

// toast writes long values, and changes rows beside them so that they are sent as
// unchanged.
func (c *client) toast() string {
	switch c.rng.IntN(4) {
	case 0:
		body := strings.Repeat(c.text(20)+"x", 200+c.rng.IntN(2000))
		return fmt.Sprintf("INSERT INTO load.toast VALUES (%d, %d, 0, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body", c.key(), c.own, quote(body))
	case 1:
		return fmt.Sprintf("DELETE FROM load.toast WHERE id = %d", c.key())
	}
	return fmt.Sprintf("UPDATE load.toast SET hot = hot + 1 WHERE client = %d AND id %% 5 = %d", c.own, c.rng.IntN(5))
}

func (c *client) typed() string {
	r := func(options ...string) string { return options[c.rng.IntN(len(options))] }
	f := r("0", "'-0'", "'NaN'", "'Infinity'", "1e-300", "0.1", "NULL")
	ts := r("now()", "'infinity'", "'-infinity'", "'2001-02-03 04:05:06.000007+08'", "'0044-03-15 BC'", "NULL")
	return fmt.Sprintf(`INSERT INTO load.typed (client, f, n, t, b, j, a, u, o, i, r) VALUES (%d, %s, %d.%d, %s, decode('%x', 'hex'), jsonb_build_object('k', %s::text), ARRAY[%s, %s]::text[], gen_random_uuid(), %s, %s, %s)`,
		c.own, f, c.rng.IntN(1e6), c.rng.IntN(1e4), ts, c.text(10), c.value(10), c.value(5), c.value(5), r("true", "false", "NULL"),
		r("'1 mon -2 days 03:04:05.6'", "'-1 year'", "NULL"), r("'[1,5)'", "'empty'", "'(,9]'", "NULL"))
}

// truncate asks for its lock without waiting, alone in its transaction.
func (c *client) truncate(ctx context.Context) error {
	what := []string{"load.emptied", "load.emptied_too, load.emptied", "load.emptied_too RESTART IDENTITY CASCADE"}[c.rng.IntN(3)]
	tables, _, _ := strings.Cut(what, " RESTART")
	err := c.exec(ctx, "BEGIN; LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT; TRUNCATE %s", tables, what)
	if err == nil && c.rng.IntN(3) == 0 { // rows after it, in the same transaction
		err = c.exec(ctx, "INSERT INTO load.emptied_too VALUES (%d, %d, %s) ON CONFLICT (id) DO NOTHING", c.key(), c.id, c.value(9))
	}
	if err != nil {
		c.rollback(ctx)
		if code(err) == "55P03" { // somebody is writing: another time
			return nil
		}
		return err
	}
	if c.rng.IntN(4) == 0 {
		c.Rollbacks++
		return c.exec(ctx, "ROLLBACK")
	}
	c.Truncates++
	return c.count(c.exec(ctx, "COMMIT"))
}

// createOrDrop makes a table of its own with rows from its first transaction on,
// or drops one.
func (c *client) createOrDrop(ctx context.Context) error {
	if len(c.extra) > 2 {
		name := c.extra[0]
		// The capture may hold it for a moment: it waits with nothing held.
		if err := c.exec(ctx, "DROP TABLE load.%s", name); err != nil {
			return err
		}
		c.extra = c.extra[1:]
		c.Dropped++
		return c.count(nil)
	}
	c.serial++
	name := fmt.Sprintf("extra_%d_%d_%d", c.id, c.serial, c.rng.IntN(1e9))
	key := []string{"", " PRIMARY KEY"}[c.rng.IntN(2)]
	if err := c.exec(ctx, "BEGIN; CREATE TABLE load.%s (n int, v text); INSERT INTO load.%[1]s SELECT g, md5(g::text) FROM generate_series(10001, %d) g", name, 10001+c.rng.IntN(200)); err != nil {
		c.rollback(ctx)
		return err
	}
	if key != "" {
		if err := c.exec(ctx, "ALTER TABLE load.%s ADD COLUMN id bigserial%s", name, key); err != nil {
			c.rollback(ctx)
			return err
		}
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		return err
	}
	c.extra = append(c.extra, name)
	c.Created++
	return c.count(nil)
}

func (c *client) prepare(ctx context.Context) error {
	c.serial++
	gid := c.gid(fmt.Sprintf("%d-%d", c.serial, c.rng.IntN(1e9)))
	if err := c.exec(ctx, "PREPARE TRANSACTION %s", quote(gid)); err != nil {
		c.rollback(ctx)
		return err
	}
	c.prepared = append(c.prepared, gid)
	c.Prepared++
	return nil
}

// decide ends a prepared transaction.
func (c *client) decide(ctx context.Context) error {
	gid := c.prepared[0]
	verb := "COMMIT"
	if c.rng.IntN(3) == 0 {
		verb = "ROLLBACK"
	}
	if err := c.exec(ctx, "%s PREPARED %s", verb, quote(gid)); err != nil {
		return err
	}
	c.prepared = slices.Delete(c.prepared, 0, 1)
	if verb == "COMMIT" {
		c.Commits++
	} else {
		c.Rollbacks++
	}
	return nil
}
