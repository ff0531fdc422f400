// Command demo shows Lifeboat at work. Its first story is a homeserver: people talk
// on a real Synapse while it is backed up, a room is deleted with purge, the commit
// is found, the moment before it restored, and Synapse boots on that. The generic
// story is any PostgreSQL database, with pgbench for its application. Everything
// lies in one folder; when it ends, by itself or by Ctrl-C, nothing of it runs any
// more.
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
	flag.StringVar(&o.tools, "tools", ".", "folder that holds .tools with Synapse")
	flag.StringVar(&o.story, "story", "synapse", "synapse or generic")
	flag.IntVar(&o.messages, "messages", 600, "messages in the room that is deleted (synapse)")
	flag.IntVar(&o.scale, "scale", 5, "size of the database, in 100,000 accounts (generic)")
	flag.IntVar(&o.seconds, "seconds", 15, "how long clients write before the accident")
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
	err := d.tell(ctx)
	d.stopAll()
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "demo: interrupted; nothing of it runs any more")
		return 130
	}
	return report(err)
}

// tell walks through the story that was asked for.
func (d *demo) tell(ctx context.Context) error {
	if d.story == "generic" {
		return d.walk(ctx, (&shop{demo: d}).steps())
	}
	m := &matrix{demo: d}
	if err := m.needSynapse(); err != nil {
		return err
	}
	return d.walk(ctx, m.steps())
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
	dir, lifeboat, pg, tools string
	story                    string
	scale, seconds, messages int
}

func (o *options) resolve() error {
	for _, p := range []*string{&o.dir, &o.lifeboat, &o.pg, &o.tools} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if o.scale < 1 || o.seconds < 1 || o.messages < 1 {
		return errors.New("-scale, -seconds and -messages are at least 1")
	}
	if o.story != "synapse" && o.story != "generic" {
		return fmt.Errorf("there is no story %q: synapse or generic", o.story)
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
