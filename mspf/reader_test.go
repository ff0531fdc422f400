package mspf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The independent reader is asked about every archive that the tests of this package
// made, in one process at their end: its verdict has to be ours.
var asked struct {
	dir   string
	cases []readerCase
}

type readerCase struct {
	Path string `json:"path"`
	OK   bool   `json:"ok"`
	test string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "mspf-reader-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	asked.dir = dir
	code := m.Run()
	if code == 0 {
		code = askReader()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const driver = `
import contextlib, io, json, sys
sys.path.insert(0, "../docs/reader")
sys.dont_write_bytecode = True
import mspf_reader
for case in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        codes = [mspf_reader.main([command, case["path"]]) for command in ("check", "list")]
    print(json.dumps({"ok": codes[0] == 0, "out": out.getvalue()[-300:]}))
`

func askReader() int {
	if len(asked.cases) == 0 {
		return 0
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		fmt.Fprintln(os.Stderr, "python3 is missing: the independent reader was not asked")
		if os.Getenv("LIFEBOAT_REQUIRE") == "all" {
			return 1
		}
		return 0
	}
	in, err := json.Marshal(asked.cases)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(python, "-c", driver)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "independent reader:", err)
		return 1
	}
	dec, code := json.NewDecoder(bytes.NewReader(out)), 0
	for _, c := range asked.cases {
		var got struct {
			OK  bool
			Out string
		}
		if err := dec.Decode(&got); err != nil || got.OK != c.OK {
			fmt.Fprintf(os.Stderr, "%s: the independent reader takes the archive: %v; it should be %v: %s %v\n", c.test, got.OK, c.OK, got.Out, err)
			code = 1
		}
	}
	return code
}

// ask copies an archive for the independent reader. Before Python 3.14 it cannot unpack
// zstd, so that layer is taken off.
func ask(t testing.TB, path string, ok bool) {
	t.Helper()
	if _, fuzzing := t.(*testing.F); fuzzing {
		return
	}
	to := filepath.Join(asked.dir, fmt.Sprint(len(asked.cases)))
	info, err := os.Stat(path)
	must(t, err)
	switch {
	case info.IsDir():
		must(t, os.CopyFS(to, os.DirFS(path)))
	case strings.HasSuffix(path, ".zst"):
		z, err := zstd.NewReader(bytes.NewReader(read(t, path)))
		must(t, err)
		defer z.Close()
		b, err := io.ReadAll(z)
		must(t, err)
		must(t, os.WriteFile(to, b, 0o600))
	default:
		must(t, os.WriteFile(to, read(t, path), 0o600))
	}
	asked.cases = append(asked.cases, readerCase{to, ok, t.Name()})
}

// What MSC2783 alone does not say is not the independent reader's business: it knows
// no room versions.
func readerAccepts(codes []string) bool {
	return !slices.ContainsFunc(codes, func(c string) bool { return c == CodeNoRoom || c == CodeEncoding || c == CodeMeta })
}

func TestReaderIsShort(t *testing.T) {
	if n := bytes.Count(read(t, "../docs/reader/mspf_reader.py"), []byte("\n")); n > 300 {
		t.Errorf("%d lines, at most 300", n)
	}
}
