package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// peer is another way of keeping a month of a database.
type peer struct {
	name  string
	reach string // what it can be restored to
	dir   string // what it stores
	wal   string // the WAL in it; "": none
	// day takes what there is at a day's end; day 0 is the first time.
	day func(ctx context.Context, day int) error
}

// peers gives those whose programs are here; of the others it says what brings them.
func (b *bench) peers(ctx context.Context, db string) (out []*peer) {
	for _, find := range []func() (*peer, error){
		func() (*peer, error) { return b.restic(ctx, db) },
		func() (*peer, error) { return b.physical(ctx) },
	} {
		p, err := find()
		if err != nil {
			fmt.Printf("   not measured: %v\n", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// restic keeps a dump of every day. restic finds what stood in an older dump by itself,
// which needs dumps that are not compressed; it compresses what it stores.
func (b *bench) restic(ctx context.Context, db string) (*peer, error) {
	program, err := filepath.Abs(filepath.Join(".tools", "bin", "restic"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w: `make bench-tools` brings it", err)
	}
	p := &peer{name: "restic of a daily pg_dump -Fd -Z0", reach: "the day", dir: filepath.Join(b.dir, "restic")}
	password, dump := filepath.Join(b.dir, "restic.password"), filepath.Join(b.dir, "restic-dump")
	if err := os.WriteFile(password, []byte("bench"), 0o600); err != nil {
		return nil, err
	}
	run := func(ctx context.Context, args ...string) error {
		_, err := b.command(ctx, "restic", program, append([]string{"--repo", p.dir, "--password-file", password, "--no-cache", "--quiet"}, args...)...)
		return err
	}
	p.day = func(ctx context.Context, _ int) error {
		if err := os.RemoveAll(dump); err != nil {
			return err
		}
		if _, err := b.program(ctx, "pg_dump", "-Fd", "-j2", "-Z0", "-f", dump, db); err != nil {
			return err
		}
		return run(ctx, "backup", dump)
	}
	return p, run(ctx, "init")
}

// physical keeps a copy of the files of the cluster, what changed of them each day, and
// all WAL: by pgBackRest, or else in its manner by PostgreSQL's own programs.
func (b *bench) physical(ctx context.Context) (*peer, error) {
	dir := filepath.Join(b.dir, "physical")
	as, err := serverUser()
	if err != nil {
		return nil, err
	}
	if err := mkdirFor(as, dir); err != nil {
		return nil, err
	}
	p, command, err := b.pgBackRest(ctx, dir)
	if err != nil {
		fmt.Printf("   no pgBackRest (%v): PostgreSQL's own programs store the same blocks and WAL in its place\n", oneLine(err))
		if p, command, err = b.ownIncremental(dir); err != nil {
			return nil, err
		}
	}
	day := p.day
	p.day = func(ctx context.Context, n int) error {
		if err := day(ctx, n); err != nil {
			return err
		}
		return b.archived(ctx)
	}
	return p, b.archiveBy(ctx, command)
}

// archiveBy says to the server what stores a file of WAL.
func (b *bench) archiveBy(ctx context.Context, command string) error {
	if _, err := b.sql(ctx, "postgres", "ALTER SYSTEM SET archive_command = '"+command+"'", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return b.poll(ctx, time.Minute, b.server, func() (bool, error) {
		now, err := b.sql(ctx, "postgres", "SHOW archive_command")
		return now == command, err
	})
}

func oneLine(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// pgBackRest is used as its manual has it for incremental backups that are small: bundles,
// and of a file that changed only the blocks that did.
func (b *bench) pgBackRest(ctx context.Context, dir string) (p *peer, command string, err error) {
	program, err := exec.LookPath("pgbackrest")
	if err != nil {
		return nil, "", err
	}
	as, err := serverUser()
	if err != nil {
		return nil, "", err
	}
	repo, config := filepath.Join(dir, "pgbackrest"), filepath.Join(b.dir, "pgbackrest.conf")
	settings := []string{
		"[global]", "repo1-path=" + repo, "repo1-bundle=y", "repo1-block=y", "repo1-retention-full=99", "repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=bench",
		"compress-type=zst", "start-fast=y", "process-max=2", "log-level-file=off", "log-level-console=warn", "lock-path=" + dir, "spool-path=" + dir,
		"[bench]", "pg1-path=" + filepath.Join(b.dir, "days", "data"), "pg1-port=" + strconv.Itoa(b.port), "",
	}
	if err := os.WriteFile(config, []byte(strings.Join(settings, "\n")), 0o644); err != nil {
		return nil, "", err
	}
	run := func(ctx context.Context, args ...string) error {
		c, err := b.start("pgbackrest", as, nil, program, append([]string{"--config=" + config, "--stanza=bench"}, args...)...)
		if err != nil {
			return err
		}
		_, err = b.wait(ctx, c)
		return err
	}
	p = &peer{name: "pgBackRest, daily increments and WAL", reach: "any commit", dir: repo, wal: filepath.Join(repo, "archive")}
	p.day = func(ctx context.Context, day int) error {
		return run(ctx, "--type="+map[bool]string{true: "full", false: "incr"}[day == 0], "backup")
	}
	return p, program + " --config=" + config + " --stanza=bench archive-push %p", run(ctx, "stanza-create")
}

// ownIncremental stores with pg_basebackup what pgBackRest would: all files once, then the
// blocks that changed, and each file of WAL; zstd compresses all of it.
func (b *bench) ownIncremental(dir string) (p *peer, command string, err error) {
	zstd, err := exec.LookPath("zstd")
	if err != nil {
		return nil, "", err
	}
	as, err := serverUser()
	if err != nil {
		return nil, "", err
	}
	p = &peer{name: "pg_basebackup, daily increments and WAL", reach: "any commit", dir: dir, wal: filepath.Join(dir, "wal")}
	to := func(day int) string { return filepath.Join(dir, strconv.Itoa(day)) }
	p.day = func(ctx context.Context, day int) error {
		args := []string{"-D", to(day), "-Ft", "-X", "none", "-c", "fast"}
		if day > 0 {
			args = append(args, "--incremental="+filepath.Join(to(day-1), "backup_manifest"))
		}
		if _, err := b.program(ctx, "pg_basebackup", args...); err != nil {
			return err
		}
		_, err := b.command(ctx, "zstd", zstd, "-3", "-T2", "-q", "--rm", filepath.Join(to(day), "base.tar"))
		return err
	}
	return p, zstd + " -3 -q %p -o " + filepath.Join(p.wal, "%f.zst"), mkdirFor(as, p.wal)
}

// archived waits until the WAL so far is in the archive; without the message there may be
// none.
func (b *bench) archived(ctx context.Context) error {
	name, err := b.sql(ctx, "postgres", "SELECT pg_logical_emit_message(false, 'bench', '')", "SELECT pg_walfile_name(pg_switch_wal())")
	if err != nil {
		return err
	}
	return b.poll(ctx, 2*time.Minute, b.server, func() (bool, error) {
		last, err := b.sql(ctx, "postgres", "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")
		return len(last) >= len(name) && last[:len(name)] >= name, err // after it stands .backup, at times
	})
}
