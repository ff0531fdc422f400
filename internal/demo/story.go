package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// demo is one walk through a story: what all stories share.
type demo struct {
	options
	out   io.Writer
	port  int      // of PostgreSQL
	ends  []func() // ends what was started, the last one first
	agent *process
	began time.Time
	at    string // the restore target that find printed
}

// step is one paragraph of a story.
type step struct {
	title string
	do    func(context.Context) error
}

// walk tells the story's steps, each with its time.
func (d *demo) walk(ctx context.Context, steps []step) error {
	d.began = time.Now()
	if err := d.prepare(); err != nil {
		return err
	}
	for i, s := range steps {
		fmt.Fprintf(d.out, "\n%2d. %s\n", i+1, s.title)
		start := time.Now()
		if err := s.do(ctx); err != nil {
			return err
		}
		d.say("(%.1f s)", time.Since(start).Seconds())
	}
	fmt.Fprintf(d.out, "\nDone in %.0f s. Everything is in %s; `make demo-clean` removes it.\n", time.Since(d.began).Seconds(), d.short(d.dir))
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "    "+format+"\n", args...) }

// weighed is a step that writes to the repository or to a database, and what both
// hold after it.
func (d *demo) weighed(db string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := do(ctx); err != nil {
			return err
		}
		var w weight
		if err := d.facts(ctx, &w, "repo", "stats"); err != nil {
			return err
		}
		size, err := d.sql(ctx, "postgres", "SELECT pg_size_pretty(pg_database_size('"+db+"'))")
		d.say("%s", w.line(db, size))
		return err
	}
}

// weight is what `lifeboat repo stats --json` says; the last of the objects are all.
type weight struct {
	Objects []struct{ Count, Bytes int64 } `json:"objects"`
	Ratio   float64                        `json:"ratio"`
}

func (w *weight) line(db, size string) string {
	if len(w.Objects) == 0 {
		return "the repository is empty; database " + db + ": " + size
	}
	all := w.Objects[len(w.Objects)-1]
	return fmt.Sprintf("repository: %d objects, %.1f MiB; database %s: %s; dedup ratio %.1f to 1", all.Count, float64(all.Bytes)/(1<<20), db, size, w.Ratio)
}

// short writes a path as it is typed from here.
func (d *demo) short(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

func (d *demo) prepare() error {
	for what, path := range map[string]string{"make build": d.lifeboat, "make tools": d.program("postgres")} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s is not there: `%s` brings it", path, what)
		}
	}
	if err := remove(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(d.dir, "vault"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, marker), nil, 0o644)
}

// lifeboatRun types a lifeboat command: prints it, runs it, prints its answer.
func (d *demo) lifeboatRun(ctx context.Context, args ...string) error {
	return d.lifeboatBrief(ctx, nil, args...)
}

// lifeboatBrief is lifeboatRun for an answer of many lines that say the same: those
// that begin with one of without are not shown.
func (d *demo) lifeboatBrief(ctx context.Context, without []string, args ...string) error {
	d.say("$ lifeboat %s", quote(args))
	out, err := d.command(ctx, nil, d.lifeboat, args...)
	if err != nil {
		return err
	}
	for l := range strings.Lines(out) {
		if !slices.ContainsFunc(without, func(p string) bool { return strings.HasPrefix(l, p) }) {
			d.say("%s", strings.TrimRight(l, "\n"))
		}
	}
	return nil
}

// facts runs a lifeboat command with --json, which is not shown.
func (d *demo) facts(ctx context.Context, into any, args ...string) error {
	out, err := d.command(ctx, nil, d.lifeboat, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read the answer of lifeboat %s: %w", args[0], err)
	}
	return nil
}

// quote writes arguments as a shell reads them.
func quote(args []string) string {
	var out []string
	for _, a := range args {
		if strings.ContainsAny(a, " '\"!$&*?#;<>|()") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

func (d *demo) sql(ctx context.Context, db, sql string) (string, error) {
	out, err := d.command(ctx, nil, d.program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", db, "-c", sql)
	return strings.TrimSpace(out), err
}

// init makes the repository of a database, named by flags, and puts the key away.
func (d *demo) init(ctx context.Context, database ...string) error {
	if err := d.lifeboatRun(ctx, append([]string{"init", "--repo", "repository", "--quiet"}, database...)...); err != nil {
		return err
	}
	// The key leaves the host; here, another folder stands for the safe place.
	d.say("$ mv lifeboat.key vault/")
	if err := os.Rename(filepath.Join(d.dir, "lifeboat.key"), filepath.Join(d.dir, "vault", "lifeboat.key")); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "key", "test", "--key", "vault/lifeboat.key")
}

func (d *demo) attach(ctx context.Context) error { return d.lifeboatRun(ctx, "attach", "--quiet") }

func (d *demo) runAgent(ctx context.Context) error {
	d.say("$ lifeboat run &")
	var err error
	d.agent, err = d.start("lifeboat", "lifeboat.log", nil, []syscall.Signal{syscall.SIGTERM}, d.lifeboat, "run")
	if err != nil {
		return err
	}
	var points []struct {
		Restorable bool `json:"restorable"`
	}
	err = d.wait(ctx, "the first copy", 5*time.Minute, d.agent, func() (bool, error) {
		err := d.facts(ctx, &points, "points")
		return err == nil && len(points) == 1 && points[0].Restorable, ctx.Err()
	})
	if err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "points")
}

const key = "vault/lifeboat.key"

func (d *demo) verify(ctx context.Context) error {
	if err := d.lifeboatRun(ctx, "verify", "--key", key); err != nil {
		return err
	}
	return d.lifeboatBrief(ctx, []string{"equal "}, "verify", "--live", "--key", key)
}

func (d *demo) sizes(ctx context.Context) error {
	if err := d.lifeboatBrief(ctx, []string{"TABLE ", "public."}, "status"); err != nil {
		return err
	}
	return d.lifeboatRun(ctx, "repo", "stats")
}

// detach ends the agent in order and leaves the database as it was.
func (d *demo) detach(ctx context.Context) error {
	d.say("$ kill -TERM %%1        # lifeboat run")
	d.agent.stop()
	if code := d.agent.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("lifeboat run ended with %d:\n%s", code, d.logTail("lifeboat"))
	}
	return d.lifeboatRun(ctx, "detach", "--yes", "--quiet")
}
