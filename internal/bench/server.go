package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// startServer makes and starts PostgreSQL, small and without fsync, in the folder of
// that name; settings are NAME=VALUE. It becomes the server of the bench.
func (b *bench) startServer(ctx context.Context, name string, settings ...string) error {
	as, err := serverUser()
	if err != nil {
		return err
	}
	home := filepath.Join(b.dir, name)
	if err := mkdirFor(as, home); err != nil {
		return err
	}
	if b.port, err = freePort(); err != nil {
		return err
	}
	data := filepath.Join(home, "data")
	c, err := b.start("initdb", as, nil, filepath.Join(b.pg, "bin", "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return err
	}
	if _, err := b.wait(ctx, c); err != nil {
		return err
	}
	args := []string{"-D", data}
	for _, s := range append([]string{
		"port=" + strconv.Itoa(b.port), "listen_addresses=127.0.0.1", "unix_socket_directories=", "wal_level=logical", "fsync=off",
		"shared_buffers=256MB", "max_wal_size=8GB", "checkpoint_timeout=30min", "max_replication_slots=20", "jit=off", "log_checkpoints=off",
	}, settings...) {
		args = append(args, "-c", s)
	}
	server, err := b.start(name, as, nil, filepath.Join(b.pg, "bin", "postgres"), args...)
	if err != nil {
		return err
	}
	b.server = server
	server.signals = []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT} // fast, then immediate shutdown
	return b.poll(ctx, time.Minute, server, func() (bool, error) {
		_, err := b.sql(ctx, "postgres", "SELECT 1")
		return err == nil, nil
	})
}

// mkdirFor makes a folder that the server's user owns.
func mkdirFor(as *syscall.Credential, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil || as == nil {
		return err
	}
	return os.Chown(dir, int(as.Uid), int(as.Gid))
}

// serverUser gives the user that PostgreSQL runs as: ourselves, or nobody when we
// are root, whom it refuses.
func serverUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user nobody: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (b *bench) dsn(db string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", b.port, db)
}

// sql runs statements in a session of their own and gives the first value of the
// last result.
func (b *bench) sql(ctx context.Context, db string, statements ...string) (string, error) {
	conn, err := pgconn.Connect(ctx, b.dsn(db))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	out := ""
	for _, s := range statements {
		results, err := conn.Exec(ctx, s).ReadAll()
		if err != nil {
			return "", fmt.Errorf("%s: %w", s, err)
		}
		if last := results[len(results)-1]; len(last.Rows) > 0 {
			out = string(last.Rows[0][0])
		}
	}
	return out, nil
}

// createDB makes a database; one of that name goes first.
func (b *bench) createDB(ctx context.Context, db string) error {
	_, err := b.sql(ctx, "postgres", "DROP DATABASE IF EXISTS "+db+" WITH (FORCE)", "CREATE DATABASE "+db)
	return err
}

// confirmed waits until a slot's consumer has confirmed a position.
func (b *bench) confirmed(ctx context.Context, slot, lsn string, needs *child) error {
	conn, err := pgconn.Connect(ctx, b.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	q := "SELECT confirmed_flush_lsn >= '" + lsn + "' FROM pg_replication_slots WHERE slot_name = '" + slot + "'"
	return b.poll(ctx, 10*time.Minute, needs, func() (bool, error) {
		r, err := conn.Exec(ctx, q).ReadAll()
		if err != nil {
			return false, err
		}
		return len(r[0].Rows) > 0 && strings.HasPrefix(string(r[0].Rows[0][0]), "t"), nil
	})
}

// poll asks every few milliseconds until it is so, a program that it needs has
// ended, or time is up.
func (b *bench) poll(ctx context.Context, most time.Duration, needs *child, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait: %w", ctx.Err())
		case <-needs.done:
			return fmt.Errorf("%s has ended: %s", needs.name, needs.tail.String())
		case <-tick.C:
		}
	}
}
