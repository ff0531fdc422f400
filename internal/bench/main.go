// Command bench measures Lifeboat against PostgreSQL's own tools on a real server
// and prints each figure beside its target, misses included. It types what an
// administrator types: the lifeboat binary and PostgreSQL's programs.
//
// Each figure is the median of the ratios of interleaved pairs: ours, then the
// peer's, then the other way round, so that a machine that grows slower on the way
// slows both. The server runs with fsync off in both arms; our store keeps every
// fsync. CPU seconds are user and system time of the client processes, and of the
// server meanwhile. `make bench` installs and builds first; -n makes it shorter.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
	"lifeboat.im/lifeboat/internal/s3server"
)

func main() {
	// The programs end with the thread that started them (PR_SET_PDEATHSIG): it is
	// the main one, which ends with the process only.
	runtime.LockOSThread()
	os.Exit(run())
}

// options say what is measured, how often and at what size.
type options struct {
	pairs, changes, updated, megabytes, seconds, month int

	lifeboat, pg, dir string
	only              []string
	keep              bool
}

// bench is one run of the program.
type bench struct {
	options
	port    int
	server  *child
	running []*child
	serial  int
	results []*result
	// bucket is where the next attach makes its repository; nil: a folder of its home.
	bucket *s3server.Server
}

// figure measures something and adds to results.
type figure struct {
	name string
	do   func(*bench, context.Context) error
	most int // pairs, whatever -n says; 0: as it says
	// seconds that it takes at the default sizes, about, on two quiet processors:
	// once, and for each pair.
	once, each int
}

// pairs of a figure, of which n are asked for.
func (f figure) pairs(n int) int {
	if f.most > 0 {
		return min(n, f.most)
	}
	return n
}

func figures() []figure {
	return []figure{
		{"drain", (*bench).drain, 3, 5, 32},
		{"base", (*bench).base, 0, 30, 50},
		{"memory", (*bench).memory, 1, 57, 0},
		{"tps", (*bench).tps, 3, 20, 42},
		{"updates", (*bench).updates, 3, 150, 8},
		{"synapse", (*bench).synapse, 3, 120, 140},
		{"objects", (*bench).objects, 3, 120, 36},
		{"days", (*bench).days, 1, 160, 0},
		{"accident", (*bench).accident, 1, 80, 0},
	}
}

func parse() (o options, err error) {
	var only string
	flag.IntVar(&o.pairs, "n", 5, "interleaved pairs per figure, of drain, tps, synapse and objects at most 3")
	flag.IntVar(&o.changes, "changes", 1_000_000, "row changes to drain")
	flag.IntVar(&o.updated, "updates", 5_000_000, "row updates between two restores")
	flag.IntVar(&o.megabytes, "mb", 1200, "size of the database to copy and restore, in MB")
	flag.IntVar(&o.month, "days", 30, "days that are simulated to compare what is stored")
	flag.IntVar(&o.seconds, "seconds", 10, "length of each pgbench run")
	flag.StringVar(&o.lifeboat, "lifeboat", "./lifeboat", "the lifeboat binary")
	flag.StringVar(&o.pg, "pg", filepath.Join(".tools", "pg18"), "folder of a PostgreSQL installation")
	flag.StringVar(&only, "only", "drain,base,memory,tps,updates,synapse,objects,days,accident", "figures to measure (base brings the restore)")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder with its logs")
	flag.Parse()
	o.only = strings.Split(only, ",")
	if o.pairs < 1 || o.changes < 4 || o.megabytes < 1 || o.seconds < 1 || o.month < 1 || flag.NArg() > 0 {
		return o, errors.New("-n, -mb, -days and -seconds are at least 1, -changes 4, and there are no arguments")
	}
	for what, p := range map[string]*string{"make build": &o.lifeboat, "make tools": &o.pg} {
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
		if *p, err = filepath.EvalSymlinks(*p); err != nil {
			return o, fmt.Errorf("%w: `%s` brings it", err, what)
		}
	}
	return o, nil
}

func run() int {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{options: o}
	err = b.all(ctx)
	b.stopAll()
	if b.dir != "" && !b.keep {
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	b.print(os.Stdout)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; nothing of it runs any more")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// all measures every figure that is asked for. A figure that fails is told at the
// end; the others are still measured.
func (b *bench) all(ctx context.Context) error {
	var err error
	if b.dir, err = os.MkdirTemp("", "lifeboat-bench-"); err != nil {
		return err
	}
	if err := os.Chmod(b.dir, 0o711); err != nil { // the server's user passes through
		return err
	}
	if err := b.startServer(ctx, "postgres"); err != nil {
		return err
	}
	fmt.Printf("PostgreSQL in %s, %d processors, fsync=off for the server in every arm, on for our store\n", b.pg, runtime.NumCPU())
	about := 0
	for _, f := range figures() {
		if slices.Contains(b.only, f.name) {
			about += f.once + f.each*f.pairs(b.pairs)
		}
	}
	fmt.Printf("This takes about %d minutes on two quiet processors at the default sizes; less with smaller ones (-mb, -changes, -seconds)\n", (about+59)/60)
	var failed error
	asked := b.pairs
	for _, f := range figures() {
		if !slices.Contains(b.only, f.name) {
			continue
		}
		began := time.Now()
		b.pairs = f.pairs(asked)
		fmt.Printf("\n== %s, n = %d", f.name, b.pairs)
		if b.pairs < asked {
			fmt.Printf(" and not %d, so that all of it ends in time", asked)
		}
		fmt.Println()
		if err := f.do(b, ctx); errors.Is(err, homeserver.ErrMissing) {
			fmt.Printf("   not measured: %v\n", err)
		} else if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", f.name, err))
			fmt.Printf("   %s ended: %v\n", f.name, err)
		}
		for len(b.running) > 1 { // all but the server
			b.stopLast()
		}
		fmt.Printf("   (%.0f s)\n", time.Since(began).Seconds())
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return failed
}
