package testpg

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Null is how [Database.Query] gives a NULL.
const Null = `\N`

// Database is a database of one test.
type Database struct {
	*Cluster
	Name string
	// DSN is its address as superuser. A restart keeps the port, unless another
	// program took it meanwhile.
	DSN string

	mu    sync.Mutex
	conn  *pgconn.PgConn // for Exec and Query; a session of an earlier start is dead
	epoch int
}

// Database makes an empty database with a name of its own. When the test ends its
// prepared transactions are rolled back, its slots dropped, and then it is.
func (c *Cluster) Database(t testing.TB) *Database {
	t.Helper()
	state.Lock()
	state.serial++
	n := state.serial
	state.Unlock()
	name := fmt.Sprintf("t%d_%s", n, strings.Map(plain, t.Name()))
	name = name[:min(len(name), 50)]
	d := &Database{Cluster: c, Name: name, DSN: c.DSN(name)}
	c.query(t, "postgres", "CREATE DATABASE "+d.Name)
	t.Cleanup(func() { d.drop(t) })
	return d
}

// plain keeps what an identifier has without quotes.
func plain(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		return r
	case r >= 'A' && r <= 'Z':
		return r + 'a' - 'A'
	}
	return '_'
}

// As gives the database's address as another role.
func (d *Database) As(role string) string { return d.DSNAs(role, d.Name) }

func (d *Database) drop(t testing.TB) {
	d.mu.Lock()
	if d.conn != nil {
		_ = d.conn.Close(context.Background())
	}
	d.mu.Unlock()
	d.Cluster.mu.Lock()
	down := d.proc == nil || d.proc.ended()
	d.Cluster.mu.Unlock()
	if down {
		return
	}
	for _, r := range d.query(t, d.Name, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") {
		d.query(t, d.Name, "ROLLBACK PREPARED "+quote(r[0]))
	}
	slots := "FROM pg_replication_slots WHERE database = " + quote(d.Name)
	WaitFor(t, 20*time.Second, "the slots of "+d.Name+" to be dropped", func() bool {
		d.query(t, "postgres", "SELECT pg_terminate_backend(active_pid) "+slots+" AND active_pid IS NOT NULL")
		// A walsender may have taken it again between the two: then it is left for the
		// next round.
		for _, r := range d.query(t, "postgres", "SELECT slot_name "+slots+" AND active_pid IS NULL") {
			d.query(t, "postgres", "DO $$ BEGIN PERFORM pg_drop_replication_slot("+quote(r[0])+"); EXCEPTION WHEN object_in_use OR undefined_object THEN NULL; END $$")
		}
		return d.query(t, "postgres", "SELECT count(*) "+slots)[0][0] == "0"
	})
	d.query(t, "postgres", "DROP DATABASE IF EXISTS "+d.Name+" WITH (FORCE)")
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Exec runs statements in the database's one session, each as a simple query.
func (d *Database) Exec(t testing.TB, sql ...string) {
	t.Helper()
	for _, q := range sql {
		d.Query(t, q)
	}
}

// Query gives the rows of the last result in text; a NULL is [Null].
func (d *Database) Query(t testing.TB, sql string) [][]string {
	t.Helper()
	rows, err := d.Try(t, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// Try is Query for a statement that may fail.
func (d *Database) Try(t testing.TB, sql string) ([][]string, error) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d.Cluster.mu.Lock()
	epoch := d.Cluster.epoch
	d.Cluster.mu.Unlock()
	if d.conn == nil || d.conn.IsClosed() || d.epoch != epoch {
		conn, err := pgconn.Connect(ctx, d.DSN)
		if err != nil {
			return nil, err
		}
		d.conn, d.epoch = conn, epoch
	}
	return query(ctx, d.conn, sql)
}

// Conn opens a session as superuser that is closed when the test ends.
func (d *Database) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	return Connect(t, d.DSN)
}

// Connect opens a session that is closed when the test ends.
func Connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	last := results[len(results)-1]
	rows := make([][]string, len(last.Rows))
	for i, r := range last.Rows {
		for _, v := range r {
			if v == nil {
				rows[i] = append(rows[i], Null)
			} else {
				rows[i] = append(rows[i], string(v))
			}
		}
	}
	return rows, nil
}
