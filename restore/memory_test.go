package restore

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// The child is this test binary again: it restores and says what it took.
const childVariable = "LIFEBOAT_RESTORE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := restoreAsChild(context.Background(), dir, os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testpg.Main(m)
}

func restoreAsChild(ctx context.Context, dir, dsn, bin string) error {
	debug.SetMemoryLimit(192 << 20) // as the command does
	b, err := os.ReadFile(filepath.Join(dir, "secrets"))
	if err != nil {
		return err
	}
	secrets, err := history.ParseSecrets(b)
	if err != nil {
		return err
	}
	store, err := fs.Open(filepath.Join(dir, "repo"))
	if err != nil {
		return err
	}
	repo, err := history.Open(ctx, store)
	if err != nil {
		return err
	}
	v, err := repo.Log(secrets, labLineage(), nil).Load(ctx)
	if err != nil {
		return err
	}
	target, err := ParseTarget("latest", time.Now())
	if err != nil {
		return err
	}
	point, err := target.Resolve(ctx, v)
	if err != nil {
		return err
	}
	plan, err := NewPlan(ctx, v, point, Options{PgRestore: bin})
	if err != nil {
		return err
	}
	report, err := plan.Materialise(ctx, dsn, secrets, nil)
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	fmt.Printf("%s\n%s%d rounds\n", phases(report), status, report.Rounds)
	return err
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// restoreApart restores in a process of its own and gives its greatest size in MiB.
func (l *lab) restoreApart(dir string) (*testpg.Database, int) {
	l.t.Helper()
	check(l.t, os.WriteFile(filepath.Join(dir, "secrets"), must[[]byte](l.t)(l.secrets.Marshal()), 0o600))
	d := l.src.Cluster.Database(l.t)
	cmd := exec.Command(must[string](l.t)(os.Executable()), d.DSN, filepath.Dir(testpg.Bin(l.t, 18, "pg_restore")))
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("restore in a process of its own: %v: %s", err, out)
	}
	m := highWater.FindSubmatch(out)
	testpg.Need(l.t, "VmHWM in /proc/self/status", m != nil, "test, on Linux")
	first, _, _ := strings.Cut(string(out), "\n")
	l.t.Logf("%s; %s kB", first, m[1])
	return d, must[int](l.t)(strconv.Atoi(string(m[1]))) >> 10
}

func newStored(t testing.TB, dir string, ddl ...string) *lab {
	t.Helper()
	src := testpg.Shared(t, 18).Database(t)
	src.Exec(t, ddl...)
	l := newLabOn(t, must[*fs.Store](t)(fs.Create(filepath.Join(dir, "repo"))))
	l.src = src
	l.copyAll(nil)
	return l
}

// TestMemoryIsBounded: values up to 16 MiB in copies and in records, and many
// changed keys, in at most 256 MiB.
func TestMemoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := newStored(t, dir, `CREATE TABLE big (id int PRIMARY KEY, v text)`, `CREATE TABLE many (id int PRIMARY KEY, v text)`,
		`CREATE TABLE still (id int PRIMARY KEY, v text)`,
		`INSERT INTO big SELECT i, repeat(md5(i::text), 512 * 1024) FROM generate_series(1, 6) i`,
		`INSERT INTO still SELECT i, repeat(md5(i::text), 512 * 1024) FROM generate_series(1, 3) i`,
		`INSERT INTO many SELECT i, 'v' || i FROM generate_series(1, 150000) i`)
	l.src.Exec(t, `UPDATE big SET v = repeat('ab', 8 * 1024 * 1024) WHERE id < 4`, `UPDATE many SET v = 'w'`)
	l.segment(l.differences())
	want := l.snapshotRows()
	d, mib := l.restoreApart(dir)
	l.equal(d, want)
	if mib > 256 {
		t.Errorf("%d MiB", mib)
	}
}

// TestHugeValue: a value of 200 MB works; its memory is printed.
func TestHugeValue(t *testing.T) {
	dir := t.TempDir()
	l := newStored(t, dir, `CREATE TABLE huge (id int PRIMARY KEY, v text)`,
		`INSERT INTO huge VALUES (1, repeat('0123456789', 20000000)), (2, 'small')`)
	x := &tx{}
	x.add(l.rel("huge"), record.Insert, "", "3\tthree")
	l.segment(x)
	d, mib := l.restoreApart(dir)
	if have := d.Query(t, `SELECT sum(length(v)) FROM huge`)[0][0]; have != "200000010" {
		t.Errorf("%s bytes", have)
	}
	t.Logf("a value of 200 MB took %d MiB", mib)
}
