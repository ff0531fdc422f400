package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"lifeboat.im/lifeboat/internal/homeserver"
)

// synapse: what a message costs with and without the agent, on a homeserver that
// runs; then copy and restore of a database of its shape.
func (b *bench) synapse(ctx context.Context) error {
	const db = "synapse"
	install, err := homeserver.Find(".")
	if err != nil {
		return err
	}
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if err := b.messages(ctx, db, install); err != nil {
		return err
	}
	c, err := newChronicle("localhost", filepath.Join(b.dir, "homeserver", "signing.key"))
	if err != nil {
		return err
	}
	// The archive first, of fewer events: as many as its figure names.
	if err := b.growBy(ctx, db, c, int64(b.megabytes)*exportEvents/exportAt); err != nil {
		return err
	}
	if err := b.export(ctx, db, c.n); err != nil {
		return err
	}
	if err := b.grow(ctx, db, c, int64(b.megabytes)<<20); err != nil {
		return err
	}
	_, err = b.copyAndRestore(ctx, db, ", Synapse")
	return err
}

// exportEvents are in the archive when the size of databases is exportAt MB, as it is
// if nothing else is asked for.
const exportEvents, exportAt = 200_000, 1200

// export writes the archive of a homeserver: events a second of processor time, and the
// peak of the memory.
func (b *bench) export(ctx context.Context, db string, events int64) error {
	size, err := b.sql(ctx, db, "SELECT pg_size_pretty(pg_database_size('"+db+"'))")
	if err != nil {
		return err
	}
	h, a, err := b.capture(ctx, db, 5*time.Second)
	if err != nil {
		return err
	}
	if _, err := b.end(a.child); err != nil {
		return err
	}
	if err := b.detach(ctx, h); err != nil {
		return err
	}
	const target, most = 40_000, 256 // events a second of one processor, MiB
	var rates []float64
	peak := int64(0)
	for i := range b.pairs {
		file := filepath.Join(h.dir, fmt.Sprintf("server-%d.tar.zst.age", i))
		u, err := b.lifeboatRun(ctx, h, "export", "--at", "latest", "--signing-key", filepath.Join(b.dir, "homeserver", "signing.key"), "--key", h.key(), file)
		if err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("   export: %d events of a database of %s, %d MiB, in %.2f s (cpu %.2f), peak %d MiB\n", events, size, info.Size()>>20, u.wall, u.cpu, u.peak>>10)
		rates, peak = append(rates, float64(events)/u.cpu), max(peak, u.peak)
	}
	r := &result{name: "export, events a second and processor", target: target, miss: median(rates) < target}
	r.plain = fmt.Sprintf("%.0f of %d (target ≥ %d)", median(rates), events, target)
	b.results = append(b.results, r)
	fmt.Printf("   %s: %s\n", r.name, r.plain)
	b.peak("peak memory of export", peak, most)
	return nil
}

// growBy adds so many events.
func (b *bench) growBy(ctx context.Context, db string, c *chronicle, events int64) error {
	if err := c.grow(ctx, b.dsn(db), events); err != nil {
		return err
	}
	_, err := b.sql(ctx, db, "VACUUM ANALYZE", "CHECKPOINT")
	return err
}

// grow adds events until the database has size bytes.
func (b *bench) grow(ctx context.Context, db string, c *chronicle, size int64) error {
	for {
		out, err := b.sql(ctx, db, "SELECT pg_database_size('"+db+"')")
		if err != nil {
			return err
		}
		have, err := strconv.ParseInt(out, 10, 64)
		if err != nil {
			return err
		}
		if have >= size {
			fmt.Printf("   %d events, a database of %d bytes\n", c.n, have)
			return nil
		}
		// What is left, at the size of an event so far, and some more.
		if err := b.growBy(ctx, db, c, (size-have)/(have/c.n)+1000); err != nil {
			return err
		}
	}
}

// messages boots a homeserver and measures the sending of messages by one client
// after the other, as its user sees it.
func (b *bench) messages(ctx context.Context, db string, install homeserver.Install) error {
	s, err := homeserver.Start(ctx, homeserver.Options{Dir: filepath.Join(b.dir, "homeserver"), Install: install, DSN: b.dsn(db)})
	if err != nil {
		return err
	}
	defer func() { _ = s.Stop(ctx) }()
	c, err := s.Register(ctx, "alice", "wonderland", true)
	if err != nil {
		return err
	}
	room, err := c.CreateRoom(ctx, homeserver.Room{Name: "measured"})
	if err != nil {
		return err
	}
	if _, err := b.send(ctx, db, c, room); err != nil { // warms up
		return err
	}
	var with, without []sending
	for i := range b.pairs {
		for _, agent := range []bool{i%2 == 0, i%2 != 0} {
			if !agent {
				took, err := b.send(ctx, db, c, room)
				if err != nil {
					return err
				}
				without = append(without, took)
				continue
			}
			took, err := b.sendFollowed(ctx, db, c, room)
			if err != nil {
				return err
			}
			with = append(with, took)
		}
	}
	for _, f := range []struct {
		name, unit string
		of         func(sending) float64
	}{
		{"a message, median, with and without", "ms", func(s sending) float64 { return s.p50 }},
		{"a message, 99th of 100, with and without", "ms", func(s sending) float64 { return s.p99 }},
		{"WAL of a message, with and without", "kB", func(s sending) float64 { return s.wal }},
	} {
		b.compare(f.name, f.unit, with, without, f.of)
	}
	return nil
}

// sending is what messages took: milliseconds each, and kB of WAL.
type sending struct{ p50, p99, wal float64 }

func (b *bench) sendFollowed(ctx context.Context, db string, c *homeserver.Client, room string) (took sending, err error) {
	h, err := b.attach(ctx, db, 5*time.Second)
	if err != nil {
		return took, err
	}
	a, err := b.runAgentAt(h, agentNice)
	if err != nil {
		return took, err
	}
	if err := b.untilReady(ctx, a); err != nil {
		return took, err
	}
	if took, err = b.send(ctx, db, c, room); err != nil {
		return took, err
	}
	if _, err := b.end(a.child); err != nil {
		return took, err
	}
	return took, b.detach(ctx, h)
}

// send sends 30 messages for each second that the other figures take.
func (b *bench) send(ctx context.Context, db string, c *homeserver.Client, room string) (took sending, err error) {
	if _, err := b.sql(ctx, db, "CHECKPOINT"); err != nil {
		return took, err
	}
	position := func() (float64, error) {
		n, err := b.sql(ctx, db, "SELECT pg_current_wal_insert_lsn() - '0/0'")
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(n, 64)
	}
	const first = 30 // after a checkpoint each page that is touched is in the WAL whole
	var each []float64
	var from float64
	for i := range first + 30*b.seconds {
		if i == first {
			if from, err = position(); err != nil {
				return took, err
			}
		}
		began := time.Now()
		if _, err := c.Say(ctx, room, fmt.Sprintf("message %d of some length, as people write them", i)); err != nil {
			return took, err
		}
		if i >= first {
			each = append(each, time.Since(began).Seconds()*1000)
		}
	}
	to, err := position()
	slices.Sort(each)
	return sending{p50: median(each), p99: each[len(each)*99/100], wal: (to - from) / float64(len(each)) / 1000}, err
}

// compare adds a figure that is a pair of values and not a ratio of times.
func (b *bench) compare(name, unit string, with, without []sending, of func(sending) float64) {
	values := func(all []sending) float64 {
		x := make([]float64, len(all))
		for i := range all {
			x[i] = of(all[i])
		}
		return median(x)
	}
	w, o := values(with), values(without)
	b.tell(name, fmt.Sprintf("%.1f and %.1f %s (%.2f; no target)", w, o, unit, w/o))
}
