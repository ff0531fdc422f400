package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// events fills half of the database with rows like those of a chat server: ids,
// times and JSON of ciphertext, which compresses by about a half.
const events = `CREATE TABLE events (id bigint PRIMARY KEY, room text NOT NULL, sender text NOT NULL, kind text NOT NULL, at timestamptz NOT NULL, content jsonb NOT NULL);
INSERT INTO events SELECT g, '!' || substr(md5((g %% 977)::text), 1, 18) || ':example.org', '@user' || g %% 20011 || ':example.org',
	(ARRAY['m.room.message', 'm.room.encrypted', 'm.reaction', 'm.room.member'])[1 + g %% 4], timestamptz '2026-01-01' + g * interval '1.7 s',
	jsonb_build_object('algorithm', 'm.megolm.v1.aes-sha2', 'sender_key', md5(g::text), 'ciphertext',
		md5(g || 'a') || md5(g || 'b') || md5(g || 'c') || md5(g || 'd') || md5(g || 'e') || md5(g || 'f') || md5(g || 'g') || md5(g || 'h'),
		'body', repeat('the quick brown fox jumps over the lazy dog; ', 1 + (g %% 5)::int))
	FROM generate_series(1, %d) g;
CREATE INDEX ON events (room, at);`

// base: the first copy of a database, against pg_dump; then its restore, against
// pg_restore of that dump.
func (b *bench) base(ctx context.Context) error {
	const db = "big"
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if _, err := b.program(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(max(1, b.megabytes/30)), db); err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, fmt.Sprintf(events, b.megabytes*800), "VACUUM ANALYZE", "CHECKPOINT"); err != nil {
		return err
	}
	h, err := b.copyAndRestore(ctx, db, "")
	if err != nil {
		return err
	}
	fast := b.figure("base ÷ pg_dump -Fd -j2 -Z0, zstd -1", 0, false)
	if _, err := exec.LookPath("zstd"); err != nil {
		fmt.Println("   no zstd in PATH: not measured")
		return nil
	}
	return b.interleave(fast, b.copies(ctx, db, &h), func() (usage, error) { return b.dumpOnce(ctx, db, b.dump(), "-Z0") })
}

func (b *bench) dump() string { return filepath.Join(b.dir, "dump") }

// copies gives an arm that copies a database into a new repository, in place of the
// last one.
func (b *bench) copies(ctx context.Context, db string, h *home) func() (usage, error) {
	return func() (u usage, err error) {
		if h.dir != "" {
			if err := os.RemoveAll(h.dir); err != nil {
				return u, err
			}
		}
		*h, u, err = b.copyOnce(ctx, db)
		return u, err
	}
}

// copyAndRestore measures the first copy of a database against pg_dump, and the
// restore from it against pg_restore of that dump.
func (b *bench) copyAndRestore(ctx context.Context, db, label string) (h home, err error) {
	size, err := b.sql(ctx, db, "SELECT pg_size_pretty(pg_database_size('"+db+"'))")
	if err != nil {
		return h, err
	}
	fmt.Printf("   the database has %s\n", size)
	plain := b.figure("base ÷ pg_dump -Fd -j2"+label, 1.1, false)
	if err := b.interleave(plain, b.copies(ctx, db, &h), func() (usage, error) { return b.dumpOnce(ctx, db, b.dump(), "") }); err != nil {
		return h, err
	}
	fmt.Printf("   repository %d MiB, dump %d MiB\n", treeSize(h.repository())>>20, treeSize(b.dump())>>20)
	r := b.figure("restore ÷ pg_restore -j2"+label, 1.1, false)
	return h, b.interleave(r, func() (usage, error) { return b.restore(ctx, h, "ours") }, func() (usage, error) {
		if err := b.createDB(ctx, "theirs"); err != nil {
			return usage{}, err
		}
		return b.program(ctx, "pg_restore", "-j2", "-d", "theirs", b.dump())
	})
}

// copyOnce copies the database into a new repository: from the start of the agent
// to the moment when the base of every table is durable.
func (b *bench) copyOnce(ctx context.Context, db string) (home, usage, error) {
	tables, err := b.sql(ctx, db, "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace = 'public'::regnamespace")
	if err != nil {
		return home{}, usage{}, err
	}
	n, err := strconv.ParseInt(tables, 10, 64)
	if err != nil {
		return home{}, usage{}, err
	}
	h, err := b.attach(ctx, db, 5*time.Second)
	if err != nil {
		return h, usage{}, err
	}
	a, err := b.runAgent(h)
	if err != nil {
		return h, usage{}, err
	}
	if err := b.untilReady(ctx, a); err != nil {
		return h, usage{}, err
	}
	if have := a.copied.Load(); have != n {
		return h, usage{}, fmt.Errorf("%d tables were copied, there are %d", have, n)
	}
	wall := time.Unix(0, a.last.Load()).Sub(a.began).Seconds()
	u, err := b.end(a.child)
	if err != nil {
		return h, u, err
	}
	u.wall = wall
	return h, u, b.detach(ctx, h)
}

// dumpOnce dumps with pg_dump; with z = -Z0 the files are compressed by zstd -1
// afterwards (a directory cannot be piped), which counts.
func (b *bench) dumpOnce(ctx context.Context, db, to, z string) (usage, error) {
	if err := os.RemoveAll(to); err != nil {
		return usage{}, err
	}
	args := []string{"-Fd", "-j2", "-f", to}
	if z != "" {
		args = append(args, z)
	}
	u, err := b.program(ctx, "pg_dump", append(args, db)...)
	if err != nil || z == "" {
		return u, err
	}
	zstd, err := exec.LookPath("zstd")
	if err != nil {
		return u, err
	}
	packed, err := b.command(ctx, "zstd", zstd, "-1", "-T2", "-q", "-r", "--rm", to)
	return usage{wall: u.wall + packed.wall, cpu: u.cpu + packed.cpu}, err
}
