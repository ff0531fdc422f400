package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"lifeboat.im/lifeboat/internal/s3server"
)

// home is a configuration with its repository, key and state, in a folder that
// can be copied.
type home struct{ dir, slot string }

func (h home) config() string { return filepath.Join(h.dir, "lifeboat.yaml") }
func (h home) key() string    { return filepath.Join(h.dir, "lifeboat.key") }

// repository is where it is unless it is a bucket.
func (h home) repository() string { return filepath.Join(h.dir, "repository") }
func (h home) log() string        { return filepath.Join(h.repository(), "log") }

var (
	setLines       = regexp.MustCompile(`(?m)^(rpo|wal_budget):.*\n`)
	repositoryLine = regexp.MustCompile(`(?m)^repository:.*\n`)
)

// attach makes a home for a database and prepares the database. The settings are
// the defaults, but for a schema that need not rest for 10 s, an unlimited WAL
// budget, rpo, and the lines given.
func (b *bench) attach(ctx context.Context, db string, rpo time.Duration, lines ...string) (home, error) {
	b.serial++
	h := home{dir: filepath.Join(b.dir, fmt.Sprintf("%s-%d", db, b.serial)), slot: "bench_" + db}
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return h, err
	}
	place, err := b.place(h)
	if err != nil {
		return h, err
	}
	if _, err := b.lifeboatRun(ctx, h, append([]string{"init", "--source", b.dsn(db), "--key", h.key(), "--repo"}, place...)...); err != nil {
		return h, err
	}
	text, err := os.ReadFile(h.config())
	if err != nil {
		return h, err
	}
	s := setLines.ReplaceAllString(string(text), "")
	if b.bucket == nil {
		s = repositoryLine.ReplaceAllString(s, "repository: repository\n")
	}
	s += fmt.Sprintf("slot: %[1]s\npublication: %[1]s\nwal_budget: unlimited\nschema_quiet: 100ms\nrpo: %[2]s\n", h.slot, rpo)
	s += strings.Join(append(lines, ""), "\n")
	if err := os.WriteFile(h.config(), []byte(s), 0o644); err != nil {
		return h, err
	}
	_, err = b.lifeboatRun(ctx, h, "attach", "--quiet")
	return h, err
}

// place gives the arguments behind init --repo.
func (b *bench) place(h home) ([]string, error) {
	if b.bucket == nil {
		return []string{h.repository()}, nil
	}
	id, secret := filepath.Join(h.dir, "s3.id"), filepath.Join(h.dir, "s3.secret")
	err := errors.Join(os.WriteFile(id, []byte(s3server.AccessKey), 0o600), os.WriteFile(secret, []byte(s3server.SecretKey), 0o600))
	return []string{b.bucket.URL(filepath.Base(h.dir)), "--s3", "access_key_file=" + id, "--s3", "secret_key_file=" + secret}, err
}

// detach undoes attach.
func (b *bench) detach(ctx context.Context, h home) error {
	_, err := b.lifeboatRun(ctx, h, "detach", "--yes", "--quiet")
	return err
}

func (b *bench) lifeboatRun(ctx context.Context, h home, args ...string) (usage, error) {
	return b.command(ctx, "lifeboat-"+args[0], b.lifeboat, append(args, "--config", h.config())...)
}

// agent is `lifeboat run`.
type agent struct {
	*child
	copied atomic.Int64 // tables whose base is durable
	ready  atomic.Bool
	last   atomic.Int64 // when the newest base was, in Unix nanoseconds
}

// runAgent starts the agent, by another program when it is given.
func (b *bench) runAgent(h home, by ...string) (*agent, error) {
	a := &agent{}
	command := append(by, b.lifeboat, "run", "--config", h.config())
	var err error
	a.child, err = b.start("lifeboat", nil, func(line string) {
		switch {
		case strings.Contains(line, `msg="table copied"`):
			a.copied.Add(1)
			a.last.Store(time.Now().UnixNano())
		case strings.Contains(line, `msg="every table has its base`):
			a.ready.Store(true)
		}
	}, command[0], command[1:]...)
	return a, err
}

func (b *bench) untilReady(ctx context.Context, a *agent) error {
	return b.poll(ctx, 10*time.Minute, a.child, func() (bool, error) { return a.ready.Load(), nil })
}

// capture attaches to a database and runs the agent until every table has its base.
func (b *bench) capture(ctx context.Context, db string, rpo time.Duration) (home, *agent, error) {
	h, err := b.attach(ctx, db, rpo)
	if err != nil {
		return h, nil, err
	}
	a, err := b.runAgent(h)
	if err != nil {
		return h, nil, err
	}
	return h, a, b.untilReady(ctx, a)
}

// restore makes a database from a home, and gives what that took.
func (b *bench) restore(ctx context.Context, h home, db string) (usage, error) {
	if err := b.createDB(ctx, db); err != nil {
		return usage{}, err
	}
	return b.lifeboatRun(ctx, h, "restore", "--at", "latest", "--mode", "raw", "--to", b.dsn(db), "--key", h.key())
}

// treeSize gives the bytes of the files below dir.
func treeSize(dir string) (bytes int64) {
	bytes, _ = tree(dir)
	return bytes
}

// tree gives the bytes and the number of the files below dir.
func tree(dir string) (bytes, files int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
				files++
			}
		}
		return nil
	})
	return bytes, files
}
