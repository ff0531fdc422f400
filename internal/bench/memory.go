package main

import (
	"context"
	"fmt"
	"time"
)

// hexOf gives an expression for n MiB of random text.
func hexOf(n int) string {
	return fmt.Sprintf("(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, %d) WHERE g IS NOT NULL)", n<<20/32)
}

// memory: the peak of the agent and of a restore with values up to 16 MiB, copied
// as well as streamed, and again with one of 200 MB. The server stores them as they
// are: its compression would take most of the time.
func (b *bench) memory(ctx context.Context) error {
	const target = 256 // MiB
	up := []string{
		"INSERT INTO wide SELECT g, " + hexOf(16) + " FROM generate_series(101, 108) g",
		"UPDATE wide SET v = " + hexOf(16) + " FROM generate_series(101, 104) g WHERE id = g",
		"UPDATE wide SET n = n + 1",
		"DELETE FROM wide WHERE id IN (1, 2, 101, 102)",
		"INSERT INTO narrow SELECT g, md5(g::text) FROM generate_series(200001, 500000) g",
	}
	err := b.memoryOnce(ctx, "values", "values ≤ 16 MiB", target, []string{
		"CREATE TABLE wide (id int PRIMARY KEY, v text STORAGE EXTERNAL, n int DEFAULT 0)",
		"CREATE TABLE narrow (id int PRIMARY KEY, v text)",
		"INSERT INTO narrow SELECT g, md5(g::text) FROM generate_series(1, 200000) g",
		"INSERT INTO wide SELECT g, " + hexOf(16) + " FROM generate_series(1, 8) g",
		"INSERT INTO wide SELECT g, " + hexOf(1) + " FROM generate_series(11, 60) g",
	}, up)
	if err != nil {
		return err
	}
	return b.memoryOnce(ctx, "huge", "a 200 MB value", 0, []string{
		"CREATE TABLE huge (id int PRIMARY KEY, v text STORAGE EXTERNAL)",
		"INSERT INTO huge SELECT g, " + hexOf(191) + " FROM generate_series(1, 1) g",
	}, []string{"INSERT INTO huge SELECT 2, v || 'x' FROM huge", "DELETE FROM huge WHERE id = 1"})
}

func (b *bench) memoryOnce(ctx context.Context, db, what string, target int64, before, after []string) error {
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, before...); err != nil {
		return err
	}
	h, a, err := b.capture(ctx, db, time.Second)
	if err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, after[:len(after)-1]...); err != nil {
		return err
	}
	end, err := b.sql(ctx, db, "BEGIN", after[len(after)-1], "SELECT pg_current_wal_insert_lsn()", "COMMIT")
	if err != nil {
		return err
	}
	if err := b.confirmed(ctx, h.slot, end, a.child); err != nil {
		return err
	}
	u, err := b.end(a.child)
	if err != nil {
		return err
	}
	b.peak("peak memory of the agent, "+what, u.peak, target)
	if u, err = b.restore(ctx, h, "restored"); err != nil {
		return err
	}
	b.peak("peak memory of restore, "+what, u.peak, target)
	return b.detach(ctx, h)
}
