package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// drain: row changes of pgbench's transactions (three updates, one insert; FULL
// identity) from a slot into the store, against pg_recvlogical into /dev/null.
// The changes are made once; each side gets a copy of the slot at their start.
func (b *bench) drain(ctx context.Context) error {
	const db, origin, peer = "drain", "bench_origin", "bench_peer"
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if _, err := b.program(ctx, "pgbench", "-i", "-q", "-s", "20", db); err != nil {
		return err
	}
	// What is left in the last batch waits for rpo; the default of 5 s would measure
	// the wait.
	h, a, err := b.capture(ctx, db, 200*time.Millisecond)
	if err != nil {
		return err
	}
	if _, err := b.end(a.child); err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, "SELECT pg_copy_logical_replication_slot('"+h.slot+"', '"+origin+"')"); err != nil {
		return err
	}
	if _, err := b.program(ctx, "pgbench", "-n", "-c", "4", "-j", "2", "-t", strconv.Itoa(b.changes/16), db); err != nil {
		return err
	}
	end, err := b.lastCommit(ctx, db)
	if err != nil {
		return err
	}
	size, err := b.sql(ctx, db, "SELECT pg_size_pretty('"+end+"'::pg_lsn - confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = '"+origin+"'")
	if err != nil {
		return err
	}
	fmt.Printf("   %d row changes, %s of WAL\n", b.changes, size)
	slot := func(name string) error {
		_, err := b.sql(ctx, db, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+name+"'",
			"SELECT pg_copy_logical_replication_slot('"+origin+"', '"+name+"')")
		return err
	}
	theirs := func() (usage, error) {
		if err := slot(peer); err != nil {
			return usage{}, err
		}
		return b.program(ctx, "pg_recvlogical", "-d", b.dsn(db), "--slot", peer, "--start", "-f", "/dev/null", "--no-loop", "--endpos", end,
			"-o", "proto_version=1", "-o", "publication_names="+h.slot)
	}
	r := b.figure("drain ÷ pg_recvlogical", 1.25, false)
	return b.interleave(r, func() (usage, error) {
		if err := slot(h.slot); err != nil {
			return usage{}, err
		}
		return b.drainOnce(ctx, h, end)
	}, theirs)
}

// drainOnce drains with a copy of the repository as it was before the changes.
func (b *bench) drainOnce(ctx context.Context, h home, end string) (usage, error) {
	b.serial++
	again := home{dir: h.dir + "-" + strconv.Itoa(b.serial), slot: h.slot}
	if err := os.CopyFS(again.dir, os.DirFS(h.dir)); err != nil {
		return usage{}, err
	}
	defer os.RemoveAll(again.dir)
	if err := os.Chmod(again.dir+"/lifeboat-state", 0o700); err != nil {
		return usage{}, err
	}
	return b.untilConfirmed(ctx, again, end)
}

// untilConfirmed runs the agent until the slot's position is at end.
func (b *bench) untilConfirmed(ctx context.Context, h home, end string) (usage, error) {
	a, err := b.runAgent(h)
	if err != nil {
		return usage{}, err
	}
	if err := b.confirmed(ctx, h.slot, end, a.child); err != nil {
		return usage{}, err
	}
	wall := time.Since(a.began).Seconds()
	u, err := b.end(a.child)
	u.wall = wall
	return u, err
}

// lastCommit makes one and gives a position that lies before its end: nothing that the
// server writes by itself stands between.
func (b *bench) lastCommit(ctx context.Context, db string) (string, error) {
	return b.sql(ctx, db, "BEGIN", "UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1", "SELECT pg_current_wal_insert_lsn()", "COMMIT")
}

// drainNew captures a database into a repository of its own, makes changes while nobody
// follows, and drains them.
func (b *bench) drainNew(ctx context.Context, db string) (usage, error) {
	h, a, err := b.capture(ctx, db, 200*time.Millisecond)
	if err != nil {
		return usage{}, err
	}
	if _, err := b.end(a.child); err != nil {
		return usage{}, err
	}
	if _, err := b.program(ctx, "pgbench", "-n", "-c", "4", "-j", "2", "-t", strconv.Itoa(max(1, b.changes/64)), db); err != nil {
		return usage{}, err
	}
	end, err := b.lastCommit(ctx, db)
	if err != nil {
		return usage{}, err
	}
	u, err := b.untilConfirmed(ctx, h, end)
	return u, errors.Join(err, b.detach(ctx, h))
}

// interleave measures pairs, in turn ours first and the peer's first.
func (b *bench) interleave(r *result, ours, peer func() (usage, error)) error {
	for i := range b.pairs {
		var u [2]usage
		for _, which := range []int{i % 2, 1 - i%2} {
			var err error
			before := b.serverSeconds()
			if u[which], err = []func() (usage, error){ours, peer}[which](); err != nil {
				return err
			}
			u[which].server = b.serverSeconds() - before
		}
		r.pair(u[0], u[1], u[0].wall/u[1].wall)
	}
	return nil
}
