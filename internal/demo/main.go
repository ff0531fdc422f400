// Command demo shows Lifeboat at work on a real PostgreSQL: it loads a database,
// backs it up while pgbench writes, deletes a table by mistake, finds the commit,
// restores the moment before it and compares. Everything lies in one folder;
// when it ends, by itself or by Ctrl-C, nothing of it runs any more.
//
// It types what an administrator types: the lifeboat binary and PostgreSQL's own
// client programs. `make demo` installs and builds these first.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

func main() {
	// The servers end with the thread that started them (PR_SET_PDEATHSIG): it is
	// the main one, which ends with the process only.
	runtime.LockOSThread()
	os.Exit(run())
}

func run() int {
	var o options
	var clean bool
	flag.StringVar(&o.dir, "dir", ".lifeboat-demo", "folder for everything")
	flag.StringVar(&o.lifeboat, "lifeboat", "./lifeboat", "the lifeboat binary")
	flag.StringVar(&o.pg, "pg", filepath.Join(".tools", "pg18"), "folder of a PostgreSQL installation")
	flag.IntVar(&o.scale, "scale", 5, "size of the database, in 100,000 accounts")
	flag.IntVar(&o.seconds, "seconds", 15, "how long pgbench writes before the accident")
	flag.BoolVar(&clean, "clean", false, "remove the folder and end")
	flag.Parse()
	if err := o.resolve(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 2
	}
	if clean {
		return report(remove(o.dir))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{options: o, out: os.Stdout}
	err := d.walk(ctx)
	d.stopAll()
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "demo: interrupted; nothing of it runs any more")
		return 130
	}
	return report(err)
}

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	return 1
}

// options say where things are; all paths are absolute after resolve.
type options struct {
	dir, lifeboat, pg string
	scale, seconds    int
}

func (o *options) resolve() error {
	for _, p := range []*string{&o.dir, &o.lifeboat, &o.pg} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if o.scale < 1 || o.seconds < 1 {
		return errors.New("-scale and -seconds are at least 1")
	}
	return nil
}

// marker is the file by which a folder is known to be the demo's, so that nothing
// else is ever removed.
const marker = "this-is-a-lifeboat-demo"

func remove(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
		return fmt.Errorf("%s was not made by the demo: remove it yourself", dir)
	}
	return os.RemoveAll(dir)
}
