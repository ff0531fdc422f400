package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+)`)

// follower is who follows the slot while pgbench runs.
type follower int

const (
	nobody      follower = iota // nothing is attached to the database
	lifeboat                    // the agent, at the priority that its systemd unit gives it
	recvlogical                 // pg_recvlogical into /dev/null, on the same publication
)

// tps: pgbench's transactions per second with the agent running, against a
// database to which nothing is attached; and the same with pg_recvlogical in the
// agent's place, which tells what any logical follower costs.
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
	ours := b.figure("pgbench TPS with ÷ without the agent", 0.95, true)
	peer := b.figure("pgbench TPS with ÷ without pg_recvlogical", 0, true)
	for i := range b.pairs {
		var took [3]followed
		for k := range 3 {
			who := []follower{nobody, lifeboat, recvlogical}[(i+k)%3]
			var err error
			if took[who], err = b.followed(ctx, db, who); err != nil {
				return err
			}
		}
		seconds := float64(b.seconds)
		for _, r := range []struct {
			*result
			followed
		}{{ours, took[lifeboat]}, {peer, took[recvlogical]}} {
			fmt.Printf("   %.0f TPS (cpu %.2f s, its walsender's %.2f s of %d s), behind at the end by %.1f MB, which was confirmed after %.1f s\n",
				r.tps, r.cpu, r.sender, b.seconds, r.behind, r.after)
			r.pair(usage{wall: seconds, cpu: r.cpu, server: r.sender}, usage{wall: seconds}, r.tps/took[nobody].tps)
		}
	}
	return nil
}

// followed is what a run of pgbench gave with a follower: the processor seconds of
// both ends of the stream while it ran, how many MB of WAL were not confirmed at
// its end, and after how many seconds they were.
type followed struct{ tps, cpu, sender, behind, after float64 }

// followed runs pgbench once with a follower that has copied everything before.
func (b *bench) followed(ctx context.Context, db string, who follower) (f followed, err error) {
	if who == nobody {
		f.tps, err = b.pgbench(ctx, db)
		return f, err
	}
	h, err := b.attach(ctx, db, 5*time.Second)
	if err != nil {
		return f, err
	}
	var c *child
	if who == lifeboat {
		a, err := b.runAgentAt(h, agentNice)
		if err != nil {
			return f, err
		}
		if err := b.untilReady(ctx, a); err != nil {
			return f, err
		}
		c = a.child
	} else {
		c, err = b.start("pg_recvlogical", nil, nil, filepath.Join(b.pg, "bin", "pg_recvlogical"), "-d", b.dsn(db), "--slot", h.slot,
			"--start", "-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names="+h.slot)
		if err != nil {
			return f, err
		}
	}
	if err := b.measureFollowed(ctx, db, h, c, &f); err != nil {
		return f, err
	}
	if _, err := b.end(c); err != nil {
		return f, err
	}
	return f, b.detach(ctx, h)
}

// agentNice is the Nice= of systemd/lifeboat.service.
const agentNice = 5

func (b *bench) measureFollowed(ctx context.Context, db string, h home, c *child, f *followed) error {
	sender := 0
	err := b.poll(ctx, time.Minute, c, func() (bool, error) {
		pid, err := b.sql(ctx, db, "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = '"+h.slot+"'")
		if err == nil {
			sender, err = strconv.Atoi(pid)
		}
		return sender > 0, err
	})
	if err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, "VACUUM", "CHECKPOINT"); err != nil {
		return err
	}
	own, its := processorSeconds(c.cmd.Process.Pid), processorSeconds(sender)
	if f.tps, err = b.pgbench(ctx, db); err != nil {
		return err
	}
	f.cpu, f.sender = processorSeconds(c.cmd.Process.Pid)-own, processorSeconds(sender)-its
	ended := time.Now()
	at, err := b.sql(ctx, db, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return err
	}
	behind, err := b.sql(ctx, db, "SELECT round(('"+at+"'::pg_lsn - confirmed_flush_lsn) / 1e6, 3) FROM pg_replication_slots WHERE slot_name = '"+h.slot+"'")
	if err != nil {
		return err
	}
	if f.behind, err = strconv.ParseFloat(behind, 64); err != nil {
		return err
	}
	// One more commit: whoever confirms only what commits tell passes the position.
	if _, err := b.sql(ctx, db, "UPDATE pgbench_branches SET bbalance = bbalance WHERE bid = 1"); err != nil {
		return err
	}
	if err := b.confirmed(ctx, h.slot, at, c); err != nil {
		return err
	}
	f.after = time.Since(ended).Seconds()
	return nil
}

// pgbench gives the transactions per second of one run.
func (b *bench) pgbench(ctx context.Context, db string) (tps float64, err error) {
	if _, err := b.sql(ctx, db, "VACUUM", "CHECKPOINT"); err != nil {
		return 0, err
	}
	c, err := b.start("pgbench", nil, func(line string) {
		if m := tpsLine.FindStringSubmatch(line); m != nil {
			tps, _ = strconv.ParseFloat(m[1], 64)
		}
	}, b.pg+"/bin/pgbench", "-n", "-c", "4", "-j", "2", "-T", strconv.Itoa(b.seconds), db)
	if err != nil {
		return 0, err
	}
	_, err = b.wait(ctx, c)
	return tps, err
}

// runAgentAt is runAgent with less priority (nice(1)).
func (b *bench) runAgentAt(h home, nice int) (*agent, error) {
	path, err := exec.LookPath("nice")
	if err != nil {
		return nil, err
	}
	return b.runAgent(h, path, "-n", strconv.Itoa(nice))
}

// processorSeconds gives what a process took so far (proc_pid_stat(5)), 0 when it
// is gone. Linux counts in hundredths for every user program.
func processorSeconds(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return statSeconds(string(b), 11, 12)
}

// statSeconds sums fields of a line of /proc/PID/stat, counted from the state.
func statSeconds(line string, fields ...int) (seconds float64) {
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	for _, i := range fields {
		if i < len(f) {
			n, _ := strconv.ParseInt(f[i], 10, 64)
			seconds += float64(n) / 100
		}
	}
	return seconds
}

// serverSeconds gives what the server and all its processes, past and present,
// took so far.
func (b *bench) serverSeconds() (seconds float64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	server := b.server.cmd.Process.Pid
	for _, path := range stats {
		s, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(s[strings.LastIndexByte(string(s), ')')+1:]))
		switch {
		case path == fmt.Sprintf("/proc/%d/stat", server):
			seconds += statSeconds(string(s), 11, 12, 13, 14)
		case len(f) > 1 && f[1] == strconv.Itoa(server):
			seconds += statSeconds(string(s), 11, 12)
		}
	}
	return seconds
}
