package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+)`)

// tps: pgbench's transactions per second with the agent running, against a
// database to which nothing is attached.
func (b *bench) tps(ctx context.Context) error {
	const db = "tps"
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if _, err := b.program(ctx, "pgbench", "-i", "-q", "-s", "10", db); err != nil {
		return err
	}
	if _, err := b.pgbench(ctx, db); err != nil { // warms up
		return err
	}
	r := b.figure("pgbench TPS with ÷ without the agent", 0.95, true)
	for i := range b.pairs {
		var with, without, took usage
		for _, agent := range []bool{i%2 == 0, i%2 != 0} {
			var err error
			if !agent {
				without, err = b.pgbench(ctx, db)
			} else {
				with, took, err = b.withAgent(ctx, db)
			}
			if err != nil {
				return err
			}
		}
		tps, base := with.wall, without.wall // see pgbench
		fmt.Printf("   %.0f TPS with the agent (its cpu %.2f s of %d s), %.0f without\n", tps, took.cpu, b.seconds, base)
		r.pair(usage{wall: float64(b.seconds), cpu: took.cpu}, usage{wall: float64(b.seconds)}, tps/base)
	}
	return nil
}

func (b *bench) withAgent(ctx context.Context, db string) (tps, took usage, err error) {
	h, a, err := b.capture(ctx, db, 5*time.Second)
	if err != nil {
		return tps, took, err
	}
	if tps, err = b.pgbench(ctx, db); err != nil {
		return tps, took, err
	}
	if took, err = b.end(a.child); err != nil {
		return tps, took, err
	}
	return tps, took, b.detach(ctx, h)
}

// pgbench gives the transactions per second in wall.
func (b *bench) pgbench(ctx context.Context, db string) (usage, error) {
	if _, err := b.sql(ctx, db, "VACUUM", "CHECKPOINT"); err != nil {
		return usage{}, err
	}
	var tps float64
	bin := b.pg + "/bin/pgbench"
	c, err := b.start("pgbench", nil, func(line string) {
		if m := tpsLine.FindStringSubmatch(line); m != nil {
			tps, _ = strconv.ParseFloat(m[1], 64)
		}
	}, bin, "-n", "-c", "4", "-j", "2", "-T", strconv.Itoa(b.seconds), db)
	if err != nil {
		return usage{}, err
	}
	u, err := b.wait(ctx, c)
	if err != nil {
		return u, err
	}
	u.wall = tps
	return u, nil
}
