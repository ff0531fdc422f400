// Package archivetest holds the archives that tests make to all that can object to one:
// [mspf.Verify], which knows the shape of every item, and docs/reader/mspf_reader.py,
// which was written from docs/format-mspf.md alone. It is never part of the program.
//
// The tests of package mspf cannot import it; they ask the same reader by themselves.
package archivetest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf"
)

// Check ends the test when an archive is not one, and fails it for every finding whose
// code is not in expected.
func Check(t testing.TB, path string, o mspf.ReadOptions, expected ...string) *mspf.Verdict {
	t.Helper()
	v, err := mspf.Verify(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Findings {
		if !f.Notice && !slices.Contains(expected, f.Code) {
			t.Errorf("finding: %s %s: %s (%d) %v", f.Code, f.Item, f.Text, f.Count, f.First)
		}
	}
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	switch err := Reader(root, path, o.Identities...); {
	case errors.Is(err, exec.ErrNotFound) && os.Getenv("LIFEBOAT_REQUIRE") != "all":
		t.Logf("python3 is missing: the independent reader was not asked")
	case err != nil:
		t.Error(err)
	}
	return v
}

// Reseal makes the integrity item of a folder anew, after a test changed what is in it.
func Reseal(t testing.TB, dir string) {
	t.Helper()
	name := filepath.Join(dir, mspf.Prefix+"integrity.json")
	sums := mspf.Integrity{Files: map[string]mspf.FileSum{}}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || path == name {
			return err
		}
		text, err := os.ReadFile(path)
		sum := sha256.Sum256(text)
		sums.Files[filepath.ToSlash(strings.TrimPrefix(path, dir+string(filepath.Separator)))] = mspf.FileSum{SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(text))}
		return err
	})
	text, encoding := json.Marshal(sums)
	if err := errors.Join(err, encoding, os.WriteFile(name, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// Reader runs the independent reader of the repository at root on an archive. Without
// python3 the error is [exec.ErrNotFound].
func Reader(root, path string, ids ...age.Identity) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "archivetest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if path, err = bare(path, filepath.Join(dir, "archive"), ids); err != nil {
		return err
	}
	for _, command := range []string{"check", "list"} {
		out, err := exec.Command(python, "-B", filepath.Join(root, "docs", "reader", "mspf_reader.py"), command, path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("the independent reader's %s: %w: %s", command, err, out[max(0, len(out)-500):])
		}
	}
	return nil
}

// bare takes off what Python's standard library cannot undo: age, and before 3.14 zstd.
func bare(path, to string, ids []age.Identity) (string, error) {
	name, encrypted := strings.CutSuffix(path, ".age")
	compressed := strings.HasSuffix(name, ".zst")
	if !encrypted && !compressed {
		return path, nil
	}
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	var r io.Reader = in
	if encrypted {
		if r, err = age.Decrypt(r, ids...); err != nil {
			return "", err
		}
	}
	if compressed {
		z, err := zstd.NewReader(r)
		if err != nil {
			return "", err
		}
		defer z.Close()
		r = z
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, r)
	return to, errors.Join(err, out.Close())
}
