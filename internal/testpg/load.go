package testpg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// LoadSchema makes the tables that [Load] writes to.
const LoadSchema = `
CREATE SCHEMA load;
CREATE TABLE load.keyed (id bigint PRIMARY KEY, client int NOT NULL, n int, note text, twice int GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE load.pair (a int, b text, client int NOT NULL, v numeric, PRIMARY KEY (b, a));
CREATE TABLE load.bag (client int NOT NULL, a int, b text);
CREATE TABLE load.toast (id bigint PRIMARY KEY, client int NOT NULL, hot int, body text);
ALTER TABLE load.toast ALTER body SET STORAGE EXTERNAL;
CREATE TABLE load.typed (id bigserial PRIMARY KEY, client int NOT NULL, f float8, n numeric(20, 4), t timestamptz, b bytea, j jsonb, a text[], u uuid, o bool, i interval, r int4range);
CREATE TABLE load.emptied (id bigint, client int NOT NULL, v text);
CREATE TABLE load.emptied_too (id bigint PRIMARY KEY, client int NOT NULL, v text);
CREATE TABLE load.parted (k int NOT NULL, id bigint NOT NULL, client int NOT NULL, v text, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
CREATE TABLE load.parted_0 PARTITION OF load.parted FOR VALUES IN (0);
CREATE TABLE load.parted_1 (v text, client int NOT NULL, gone int, id bigint NOT NULL, k int NOT NULL);
ALTER TABLE load.parted_1 DROP gone;
ALTER TABLE load.parted ATTACH PARTITION load.parted_1 FOR VALUES IN (1);
CREATE TABLE load."Wïld ""Name""" ("The Kéy" text PRIMARY KEY, client int NOT NULL, "select" text);
CREATE TABLE load.nothing ();
CREATE SEQUENCE load.serial;
CREATE SEQUENCE load.down INCREMENT -3 MAXVALUE 0 MINVALUE -1000000000;
`

// Load is a random mixed load on the tables of [LoadSchema]. Each client keeps to
// rows of its own and never waits for a lock while it holds one that others want,
// so that a deadlock or a failed statement is somebody else's doing.
type Load struct {
	Seed    uint64
	Clients int // at most 32
	// Rate bounds the transactions per second of all clients; 0 means none.
	Rate int
	// Replica lets some transactions run with session_replication_role = replica;
	// the role must be allowed to.
	Replica bool
	// Prepared lets some transactions be prepared and decided later.
	Prepared bool
	// Quiet leaves out TRUNCATE and tables that come and go; Settled only the latter,
	// so that the schema stands still.
	Quiet, Settled bool
}

// Counts says what a load has done.
type Counts struct {
	Commits, Rollbacks, Statements, Prepared, Truncates, Created, Dropped, Large int64
	// Reconnects counts sessions lost to a server that went down: what was in flight
	// then may or may not have been committed.
	Reconnects int64
	// Failures are statements that failed for another reason than serialization.
	Failures []string
}

func (c *Counts) add(o *Counts) {
	c.Commits += o.Commits
	c.Rollbacks += o.Rollbacks
	c.Statements += o.Statements
	c.Prepared += o.Prepared
	c.Truncates += o.Truncates
	c.Created += o.Created
	c.Dropped += o.Dropped
	c.Large += o.Large
	c.Reconnects += o.Reconnects
	c.Failures = append(c.Failures, o.Failures...)
}

// Run loads the database until ctx ends. Transactions that are open then are
// rolled back, prepared ones decided.
func (l Load) Run(ctx context.Context, dsn string) Counts {
	var total Counts
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range min(max(1, l.Clients), maxClients) {
		wg.Go(func() {
			c := &client{load: l, id: i, own: i, dsn: dsn, rng: rand.New(rand.NewPCG(l.Seed, uint64(i)))}
			c.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			total.add(&c.Counts)
		})
	}
	wg.Wait()
	return total
}

const maxClients = 32

// client is one session of a load.
type client struct {
	Counts
	load     Load
	id       int
	dsn      string
	rng      *rand.Rand
	conn     *pgconn.PgConn
	serial   int      // for names and keys of its own
	own      int      // which rows: id, or id + maxClients
	keys     int      // keys run from 0 to here
	prepared []string // not decided yet
	extra    []string // tables of its own
}

// errLost: the server went down under a session.
var errLost = errors.New("session lost")

func (c *client) run(ctx context.Context) {
	var tick <-chan time.Time
	if c.load.Rate > 0 {
		t := time.NewTicker(time.Second * time.Duration(max(1, c.load.Clients)) / time.Duration(c.load.Rate))
		defer t.Stop()
		tick = t.C
	}
	for ctx.Err() == nil {
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
			}
		}
		err := c.transaction(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, errLost):
			c.Reconnects++
			c.conn = nil
		case !serialization(err):
			c.Failures = append(c.Failures, fmt.Sprintf("client %d: %v", c.id, err))
		}
	}
	// The context is over; what is left to decide needs one of its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if c.conn != nil {
		_ = c.conn.Close(ctx)
		c.conn = nil
	}
	if err := c.connect(ctx); err != nil {
		return
	}
	for len(c.prepared) > 0 {
		err := c.decide(ctx)
		if code(err) == "42704" { // undefined_object
			// The session that the end of the context broke off was deciding it: its server
			// process had not come to that when connect looked.
			c.prepared = c.prepared[1:]
			continue
		}
		if err != nil {
			c.Failures = append(c.Failures, fmt.Sprintf("client %d: %v", c.id, err))
			break
		}
	}
	_ = c.conn.Close(ctx)
}

// connect opens the session; while the server is down it asks again.
func (c *client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	var last error
	poll(time.Minute, func() bool {
		if c.conn, last = pgconn.Connect(ctx, c.dsn); last == nil || ctx.Err() != nil {
			return true
		}
		c.conn = nil
		return false
	})
	if c.conn == nil {
		return last
	}
	// What a lost session had prepared is still there, or was never.
	rows, err := query(ctx, c.conn, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE "+quote(c.gid("%")))
	if err != nil {
		return c.classify(err)
	}
	c.prepared = c.prepared[:0]
	for _, r := range rows {
		c.prepared = append(c.prepared, r[0])
	}
	rows, err = query(ctx, c.conn, "SELECT tablename FROM pg_tables WHERE schemaname = 'load' AND tablename LIKE "+quote(fmt.Sprintf(`extra\_%d\_%%`, c.id)))
	if err != nil {
		return c.classify(err)
	}
	c.extra = c.extra[:0]
	for _, r := range rows {
		c.extra = append(c.extra, r[0])
	}
	return nil
}

func (c *client) gid(n string) string { return fmt.Sprintf("load-%d-%d-%s", c.load.Seed, c.id, n) }

// exec runs statements as one simple query.
func (c *client) exec(ctx context.Context, format string, args ...any) error {
	sql := fmt.Sprintf(format, args...)
	c.Statements++
	if _, err := query(ctx, c.conn, sql); err != nil {
		return fmt.Errorf("%.200s: %w", sql, c.classify(err))
	}
	return nil
}

func (c *client) classify(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "57P01", "57P02", "57P03", "57P05":
			return errLost
		}
		return err
	}
	return errors.Join(errLost, err)
}

func serialization(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "40001"
}

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// text gives a random value with all that COPY escapes.
func (c *client) text(limit int) string {
	parts := []string{"a", "Z", "\t", "\n", "\r", `\`, "'", `"`, "\b", "\f", "\v", "é", "🛟", `\N`, `\U`, "{}", ",", " ", "\x01", "0"}
	var b strings.Builder
	for range c.rng.IntN(limit + 1) {
		b.WriteString(parts[c.rng.IntN(len(parts))])
	}
	return b.String()
}

// value gives a literal, sometimes NULL.
func (c *client) value(limit int) string {
	if c.rng.IntN(8) == 0 {
		return "NULL"
	}
	return quote(c.text(limit))
}

// key gives a key of the client's own: no two clients touch one row.
func (c *client) key() int { return c.rng.IntN(c.keys+1)*2*maxClients + c.own }

func (c *client) newKey() int {
	c.keys++
	return c.keys*2*maxClients + c.own
}
