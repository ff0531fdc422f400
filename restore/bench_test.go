package restore

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// BenchmarkRestore restores a pgbench database of about 100 MB of text for each
// 10 of LIFEBOAT_BENCH_SCALE (default 10), and lets pg_restore -j2 do the same
// from pg_dump -Fd -j2 at its default compression.
func BenchmarkRestore(b *testing.B) {
	scale := os.Getenv("LIFEBOAT_BENCH_SCALE")
	if scale == "" {
		scale = "10"
	}
	src := testpg.Shared(b, 18).Database(b)
	run := func(name string, args ...string) time.Duration {
		b.Helper()
		began := time.Now()
		cmd := exec.Command(testpg.Bin(b, 18, name), args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			b.Fatalf("%s: %v: %s", name, err, errs.String())
		}
		return time.Since(began)
	}
	run("pgbench", "-i", "-q", "-s", scale, src.DSN)
	l := newLab(b)
	l.src = src
	l.catalog()
	l.schema(l.tables...)
	for _, r := range l.tables {
		l.rows[r.OID] = l.read(l.src, r)
		l.base(r, l.rows[r.OID])
	}
	l.ready()
	if os.Getenv("LIFEBOAT_BENCH_CHANGES") != "" {
		l.change(`UPDATE pgbench_accounts SET abalance = aid WHERE aid % 20 = 0`)
	}
	l.rows = nil
	dir := filepath.Join(b.TempDir(), "dump")
	run("pg_dump", "-Fd", "-j2", "-f", dir, "-d", src.DSN)
	var ours, theirs time.Duration
	for b.Loop() {
		d := src.Cluster.Database(b)
		d.Exec(b, "CHECKPOINT")
		began := time.Now()
		report, err := l.restoreInto(d, "latest", Options{Workers: 2})
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		ours += took
		d = src.Cluster.Database(b)
		d.Exec(b, "CHECKPOINT")
		t := run("pg_restore", "-j2", "--no-publications", "-d", d.DSN, dir)
		theirs += t
		b.Logf("%d rows, %s: ours %s (%s), pg_restore %s", report.Rows, mib(report.Bytes), took, phases(report), t)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "ratio")
	b.ReportMetric(0, "ns/op")
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmHWM") {
			b.Log(line)
		}
	}
}

func phases(r *Report) string {
	var out []string
	for _, p := range []Phase{PhaseSchema, PhaseRows, PhaseIndexes, PhaseVerify} {
		out = append(out, fmt.Sprintf("%s %.2fs", p, r.Took[p].Seconds()))
	}
	return strings.Join(out, ", ")
}
