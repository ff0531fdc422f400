package fs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
)

// folder makes an empty store and returns its folder too.
func folder(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "store")
	s, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// reopen is the next process.
func reopen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func leftovers(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, tempDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(entries)
}

func keys(t *testing.T, s *Store) (keys []string) {
	t.Helper()
	err := s.List(t.Context(), "", func(i chunkstore.Info) error {
		keys = append(keys, i.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(t *testing.T) chunkstore.Backend {
		s, _ := folder(t)
		return s
	})
}

// createSteps are the durable steps of Create, in order, and whether the object is
// there after a crash right behind each.
var createSteps = []struct {
	at        step
	persisted bool
}{
	{stepFolders, false},
	{stepWritten, false},
	{stepSynced, false},
	{stepLinked, true},
	{stepUnlink, true},
	{stepDone, true},
}

// TestCrashAfterEachStep: the next process sees the whole object or none, no
// leftover as an object, and can create it.
func TestCrashAfterEachStep(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 5000)
	for _, c := range createSteps {
		t.Run(string(c.at), func(t *testing.T) {
			s, dir := folder(t)
			reached := false
			s.fault = func(at step) error {
				if at != c.at {
					return nil
				}
				reached = true
				return errCrash
			}
			if err := s.Create(t.Context(), "log/a/1", data); !errors.Is(err, errCrash) || !reached {
				t.Fatalf("create: %v", err)
			}
			next := reopen(t, dir)
			got, err := next.Get(t.Context(), "log/a/1")
			switch {
			case c.persisted && (err != nil || !bytes.Equal(got, data)):
				t.Errorf("after the crash: %d bytes, %v", len(got), err)
			case !c.persisted && !errors.Is(err, chunkstore.ErrNotFound):
				t.Errorf("after the crash: %d bytes, %v", len(got), err)
			}
			if n := len(keys(t, next)); (n == 1) != c.persisted || n > 1 {
				t.Errorf("%d objects listed", n)
			}
			err = next.Create(t.Context(), "log/a/1", data)
			if c.persisted != errors.Is(err, chunkstore.ErrExists) || !c.persisted && err != nil {
				t.Errorf("create again: %v", err)
			}
			if got, err := next.Get(t.Context(), "log/a/1"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("in the end: %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestFailureOfEachStep: an error that is no crash leaves no file behind; before the
// link it leaves no object either, and a full disk gets its space back.
func TestFailureOfEachStep(t *testing.T) {
	for _, c := range createSteps {
		t.Run(string(c.at), func(t *testing.T) {
			s, dir := folder(t)
			s.fault = func(at step) error {
				if at == c.at {
					return syscall.ENOSPC
				}
				return nil
			}
			if err := s.Create(t.Context(), "log/a/1", []byte("x")); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("create: %v", err)
			}
			s.fault = nil
			if n := leftovers(t, dir); n != 0 {
				t.Errorf("%d files left behind", n)
			}
			if n := len(keys(t, s)); (n == 1) != c.persisted {
				t.Errorf("%d objects", n)
			}
			err := s.Create(t.Context(), "log/a/1", []byte("x"))
			if c.persisted != errors.Is(err, chunkstore.ErrExists) || !c.persisted && err != nil {
				t.Errorf("create again: %v", err)
			}
		})
	}
}

// TestStepsInOrder: the file is synced before it is linked, the folder after.
func TestStepsInOrder(t *testing.T) {
	s, _ := folder(t)
	var got, want []step
	s.fault = func(at step) error { got = append(got, at); return nil }
	if err := s.Create(t.Context(), "log/a/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, c := range createSteps {
		want = append(want, c.at)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestSyncedBeforeNamed: the whole file is synced before it is linked, and the folder
// of its name after, as are the folders above that are new. This sees fsync itself: a
// step that forgets it is found here, and not by a crash that only a power cut shows.
func TestSyncedBeforeNamed(t *testing.T) {
	s, dir := folder(t)
	var got []string
	s.sync = func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("file of %d bytes", info.Size())
		for _, d := range []string{".", ".tmp", "log", "log/a"} {
			if at, err := os.Stat(filepath.Join(dir, d)); err == nil && os.SameFile(at, info) {
				what = "folder " + d
			}
		}
		got = append(got, what)
		return f.Sync()
	}
	s.fault = func(at step) error {
		if at == stepLinked {
			got = append(got, string(at))
		}
		return nil
	}
	create := func(key string) {
		got = append(got, "create "+key)
		if err := s.Create(t.Context(), key, []byte("seven b")); err != nil && !errors.Is(err, chunkstore.ErrExists) {
			t.Fatal(err)
		}
	}
	create("log/a/1")
	create("log/a/2")
	create("log/a/2")
	if err := s.Remove(t.Context(), "log/a/2"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"create log/a/1", "folder .", "folder .", "folder log", "file of 7 bytes", "linked", "folder log/a",
		"create log/a/2", "file of 7 bytes", "linked", "folder log/a",
		"create log/a/2", "folder log/a", // who made it may have died before this
		"folder log/a", // the removal
	}
	if !slices.Equal(got, want) {
		t.Errorf("synced: %q\nwant: %q", got, want)
	}
}

// TestFullDisk fills a real file system, in a process of its own that may mount one
// without being root. Where user namespaces are forbidden TestFailureOfEachStep has
// to do.
func TestFullDisk(t *testing.T) {
	const inside = "LIFEBOAT_TEST_FULL_DISK"
	if dir := os.Getenv(inside); dir != "" {
		if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Logf("mount a small file system: %v", err)
			return
		}
		fillDisk(t, dir)
		return
	}
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
	c.Env = append(os.Environ(), inside+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Logf("no user namespace here: %v", err)
		return
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func fillDisk(t *testing.T, dir string) {
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(t.Context(), "big", make([]byte, 2<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("create: %v", err)
	}
	if n := leftovers(t, dir); n != 0 || len(keys(t, s)) != 0 {
		t.Errorf("%d files left behind, objects %q", n, keys(t, s))
	}
	if err := s.Create(t.Context(), "small", make([]byte, 500<<10)); err != nil {
		t.Errorf("the space did not come back: %v", err)
	}
}

// TestExistsIsDurable: the folder is synced before ErrExists, because who linked the
// object may have died before he did it.
func TestExistsIsDurable(t *testing.T) {
	s, dir := folder(t)
	s.fault = func(at step) error {
		if at == stepLinked {
			return errCrash
		}
		return nil
	}
	s.Create(t.Context(), "log/a/1", []byte("x"))
	next := reopen(t, dir)
	if err := next.Create(t.Context(), "log/a/1", []byte("y")); !errors.Is(err, chunkstore.ErrExists) {
		t.Fatal(err)
	}
	for _, d := range []string{"log", "log/a"} {
		if !next.synced[d] {
			t.Errorf("the name of %s is not known to be durable", d)
		}
	}
	// When the sync fails, it is not said that the object exists.
	os.Chmod(filepath.Join(dir, "log/a"), 0o300)
	defer os.Chmod(filepath.Join(dir, "log/a"), 0o700)
	err := reopen(t, dir).Create(t.Context(), "log/a/1", []byte("y"))
	if os.Getuid() != 0 && (err == nil || errors.Is(err, chunkstore.ErrExists)) {
		t.Errorf("create when the folder cannot be synced: %v", err)
	}
}

func TestLeftoversAreNoObjectsAndGoAway(t *testing.T) {
	s, dir := folder(t)
	if err := s.Create(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	old, young := filepath.Join(dir, tempDir, "old"), filepath.Join(dir, tempDir, "young")
	for _, f := range []string{old, young, filepath.Join(dir, ".hidden"), filepath.Join(dir, "bad name")} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := os.Chtimes(old, now.Add(-25*time.Hour), now.Add(-25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	next := reopen(t, dir)
	if got := keys(t, next); !slices.Equal(got, []string{"a"}) {
		t.Errorf("listed: %q", got)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an old leftover stayed: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("what may be in the making was deleted: %v", err)
	}
}

// TestNoWayOut: neither a key nor a symbolic link leads out of the folder.
func TestNoWayOut(t *testing.T) {
	s, dir := folder(t)
	outside := filepath.Join(filepath.Dir(dir), "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"../outside/secret", "out/secret", "out/new", "../outside/new"} {
		if err := s.Create(t.Context(), key, []byte("y")); err == nil {
			t.Errorf("create %s", key)
		}
		if _, err := s.Get(t.Context(), key); err == nil {
			t.Errorf("get %s", key)
		}
		if _, err := s.Stat(t.Context(), key); err == nil {
			t.Errorf("stat %s", key)
		}
		if err := s.Remove(t.Context(), key); err == nil {
			t.Errorf("remove %s", key)
		}
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "x" {
		t.Errorf("outside: %q, %v", b, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("outside: %v", entries)
	}
}

// TestUnmountedIsNotEmpty: another folder in the place of ours, as when a disk is
// unmounted, does not turn objects into "not found".
func TestUnmountedIsNotEmpty(t *testing.T) {
	s, dir := folder(t)
	if err := s.Create(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Get(t.Context(), "a/b"); err != nil || string(b) != "x" {
		t.Errorf("get: %q, %v", b, err)
	}
	if err := s.Create(t.Context(), "a/c", nil); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("written into the wrong folder: %v", entries)
	}
}

func TestFolderDeletedByOthers(t *testing.T) {
	s, dir := folder(t)
	if err := s.Create(t.Context(), "a/b/1", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "a/b/2", nil); err == nil {
		t.Error("a deleted folder was not noticed")
	}
	if err := s.Create(t.Context(), "a/b/2", nil); err != nil {
		t.Errorf("create in a folder that was deleted, again: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, tempDir)); err != nil {
		t.Fatal(err)
	}
	s.Create(t.Context(), "a/b/3", nil)
	if err := s.Create(t.Context(), "a/b/3", nil); err != nil {
		t.Errorf("create without %s, again: %v", tempDir, err)
	}
}

func TestCrashInRemove(t *testing.T) {
	s, dir := folder(t)
	if err := s.Create(t.Context(), "a/b", nil); err != nil {
		t.Fatal(err)
	}
	s.fault = func(step) error { return errCrash }
	if err := s.Remove(t.Context(), "a/b"); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if err := reopen(t, dir).Remove(t.Context(), "a/b"); err != nil {
		t.Errorf("remove again: %v", err)
	}
}

func TestOpenNeverCreates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if _, err := Open(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open created the folder: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file was opened as a store")
	}
	if _, err := Create(file); err == nil {
		t.Error("a file was taken for a store")
	}
}

func TestModes(t *testing.T) {
	s, dir := folder(t)
	if err := s.Create(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"": 0o700, "a": 0o700, "a/b": 0o400, tempDir: 0o700} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q: %v, want %v", path, got, want)
		}
	}
}
