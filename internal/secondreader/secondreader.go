// Package secondreader holds docs/reader/store_reader.py, which shares no line with the
// program, against it: on every repository in a folder that the tests make.
package secondreader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore/fs"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

// Run runs the second reader on a repository: words are `points`, `verify` or `table`
// with what they take. identity is the file of an age identity, empty for a repository
// in plain text.
func Run(t testing.TB, dir, identity string, words ...string) (string, error) {
	t.Helper()
	reader, lib := testpg.SecondReader(t)
	args := []string{"-B", filepath.Join(reader, "store_reader.py")}
	if identity != "" {
		args = append(args, "--key", identity)
	}
	cmd := exec.Command("python3", append(append(args, dir), words...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+lib)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Hold compares the two at the end of a test that has not failed, if it made a repository
// in the folder: both find the same lineages and points, and both find the repository
// whole, or neither.
func Hold(t testing.TB, dir, identity string) {
	t.Helper()
	if t.Failed() || t.Skipped() {
		return
	}
	if _, err := os.Stat(filepath.Join(dir, "lifeboat.json")); errors.Is(err, os.ErrNotExist) {
		return // none, or not in a folder
	}
	if !testpg.HasSecondReader(t) {
		t.Log("the second reader was not asked: make tools brings what it needs")
		return
	}
	want, whole, exact, err := ours(context.Background(), dir, identity)
	if err != nil {
		t.Errorf("open %s for the second reader: %v", dir, err)
		return
	}
	if !whole {
		if out, err := Run(t, dir, identity, "verify"); err == nil {
			t.Errorf("the repository is damaged, and the second reader finds it whole:\n%s", out)
		}
		return
	}
	out, err := Run(t, dir, identity, "points")
	if have := firstLines(out); err != nil || have != want {
		t.Errorf("the second reader has the points\n%swant\n%s%v", have, want, err)
	}
	if !exact {
		return // its verify reads the newest state of all tables, and one of them is not exact
	}
	if out, err := Run(t, dir, identity, "verify"); err != nil {
		t.Errorf("the second reader: %v\n%s", err, out)
	}
}

// ours is what the program says.
func ours(ctx context.Context, dir, identity string) (points string, whole, exact bool, err error) {
	b, err := fs.Open(dir)
	if err != nil {
		return "", false, false, err
	}
	r, err := history.Open(ctx, b)
	if err != nil {
		return "", false, false, err
	}
	var ids []age.Identity
	if identity != "" {
		file, err := os.Open(identity)
		if err != nil {
			return "", false, false, err
		}
		defer file.Close()
		if ids, err = age.ParseIdentities(file); err != nil {
			return "", false, false, err
		}
	}
	s, err := r.Unlock(ctx, ids...)
	if err != nil {
		return "", false, false, err
	}
	report, err := history.Verify(ctx, r, s, history.VerifyOptions{})
	if err != nil || len(report.Damage) > 0 {
		return "", false, false, err
	}
	lineages, err := r.Lineages(ctx)
	if err != nil {
		return "", false, false, err
	}
	exact = true
	for _, id := range lineages {
		v, err := r.Log(s, id, nil).Load(ctx)
		if err != nil {
			return "", false, false, err
		}
		restorable := "restorable"
		if !v.Ready {
			restorable = "not restorable yet,"
		}
		points += fmt.Sprintf("%s: %s from %s to %s\n", id, restorable, v.First, v.Durable)
		for _, i := range v.Incompletes {
			exact = exact && !i.Covers(v.Durable)
		}
	}
	return points, true, exact, nil
}

// firstLines are those of the lineages, up to their counts.
func firstLines(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if head, _, ok := strings.Cut(line, ";"); ok && !strings.HasPrefix(line, " ") {
			fmt.Fprintln(&b, head)
		}
	}
	return b.String()
}
