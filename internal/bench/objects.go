package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/internal/s3server"
)

// objects: the same with the repository in a bucket of versitygw on this host: how long
// after its COMMIT a change is durable, and the first copy and the restore against a
// repository in a folder. What is measured is ours and the protocol's; a server far away
// adds its round trips.
func (b *bench) objects(ctx context.Context) error {
	const db = "objects"
	dir := filepath.Join(b.dir, "versitygw")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	srv, err := s3server.Start(ctx, ".", s3server.VersityGW, dir)
	if err != nil {
		return err
	}
	defer srv.Stop()
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	for _, rpo := range []time.Duration{time.Second, 100 * time.Millisecond} {
		if err := b.durable(ctx, db, srv, rpo); err != nil {
			return err
		}
	}
	if _, err := b.program(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(max(1, b.megabytes/30)), db); err != nil {
		return err
	}
	var folder, bucket home
	at := func(s *s3server.Server, do func() (usage, error)) func() (usage, error) {
		return func() (usage, error) {
			b.bucket = s
			defer func() { b.bucket = nil }()
			return do()
		}
	}
	r := b.figure("base: versitygw ÷ folder", 0, false)
	if err := b.interleave(r, at(srv, b.copies(ctx, db, &bucket)), at(nil, b.copies(ctx, db, &folder))); err != nil {
		return err
	}
	r = b.figure("drain: versitygw ÷ folder", 0, false)
	drain := func() (usage, error) { return b.drainNew(ctx, db) }
	if err := b.interleave(r, at(srv, drain), at(nil, drain)); err != nil {
		return err
	}
	r = b.figure("restore: versitygw ÷ folder", 0, false)
	return b.interleave(r, func() (usage, error) { return b.restore(ctx, bucket, "ours") }, func() (usage, error) { return b.restore(ctx, folder, "theirs") })
}

// durable measures from the return of COMMIT to the moment when the slot's position says
// that the change is in the bucket, at random moments.
func (b *bench) durable(ctx context.Context, db string, srv *s3server.Server, rpo time.Duration) error {
	const commits = 60
	if _, err := b.sql(ctx, db, "CREATE TABLE IF NOT EXISTS log (id bigserial PRIMARY KEY, line text)"); err != nil {
		return err
	}
	b.bucket = srv
	defer func() { b.bucket = nil }()
	h, a, err := b.capture(ctx, db, rpo)
	if err != nil {
		return err
	}
	conn, err := pgconn.Connect(ctx, b.dsn(db))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var took []time.Duration
	for range commits {
		d, err := b.oneCommit(ctx, conn, h.slot, a.child)
		if err != nil {
			return err
		}
		took = append(took, d)
		select {
		case <-time.After(rand.N(rpo)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	slices.Sort(took)
	b.tell(fmt.Sprintf("commit → durable on versitygw, rpo %v", rpo),
		fmt.Sprintf("p50 %d ms, p99 %d ms, of %d commits", took[commits/2].Milliseconds(), took[commits*99/100].Milliseconds(), commits))
	if _, err := b.end(a.child); err != nil {
		return err
	}
	if rpo == time.Second {
		if err := b.monthly(ctx, h); err != nil {
			return err
		}
	}
	return b.detach(ctx, h)
}

// oneCommit commits a row and waits until it is durable.
func (b *bench) oneCommit(ctx context.Context, conn *pgconn.PgConn, slot string, needs *child) (time.Duration, error) {
	out, err := conn.Exec(ctx, "BEGIN; INSERT INTO log (line) VALUES (repeat('x', 200)); SELECT pg_current_wal_insert_lsn(); COMMIT").ReadAll()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	lsn := string(out[2].Rows[0][0])
	q := "SELECT confirmed_flush_lsn >= '" + lsn + "' FROM pg_replication_slots WHERE slot_name = '" + slot + "'"
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := conn.Exec(ctx, q).ReadAll()
		switch {
		case err != nil:
			return 0, err
		case len(out[0].Rows) > 0 && string(out[0].Rows[0][0]) == "t":
			return time.Since(began), nil
		}
		select {
		case <-tick.C:
		case <-needs.done:
			return 0, fmt.Errorf("the agent ended: %w", needs.err)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
