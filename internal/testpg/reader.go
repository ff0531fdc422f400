package testpg

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// storeDriver asks the second reader for the digest of each table, as "high low count".
const storeDriver = `
import json, sys
ask = json.load(sys.stdin)
sys.path[:0] = [ask["reader"], ask["lib"]]
sys.dont_write_bytecode = True
import store_reader
repo = store_reader.Repository(ask["repository"], ask["key"])
log = store_reader.Log(repo, ask["lineage"])
high, low = ask["at"].split("/")
out = {}
for name in ask["tables"]:
    try:
        relation, lines = log.table(name, int(high, 16) << 32 | int(low, 16))
        total = count = 0
        for line in lines:
            total, count = total + store_reader.line_digest(repo, relation, line), count + 1
        total %= 1 << 128
        out[name] = "%d %d %d" % (total >> 64, total & (1 << 64) - 1, count)
    except store_reader.Broken as e:
        out[name] = str(e)
json.dump(out, sys.stdout)
`

// SecondReader gives the folder of the second readers, and that of the Python packages
// that they need.
func SecondReader(t testing.TB) (reader, lib string) {
	t.Helper()
	reader, lib, ok := secondReader(t)
	Need(t, "Python's package cryptography", ok, "tools")
	return reader, lib
}

// HasSecondReader says whether it can run here; where everything is required it fails
// the test instead of saying no.
func HasSecondReader(t testing.TB) bool {
	t.Helper()
	_, _, ok := secondReader(t)
	if !ok && os.Getenv("LIFEBOAT_REQUIRE") == "all" {
		SecondReader(t)
	}
	return ok
}

func secondReader(t testing.TB) (reader, lib string, ok bool) {
	t.Helper()
	root, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	lib = filepath.Join(root, ".tools", "synapse")
	_, err = os.Stat(filepath.Join(lib, "cryptography"))
	return filepath.Join(root, "docs", "reader"), lib, err == nil
}

// ReadStore has the second reader of the store, which shares no code with the program,
// read tables at a commit, and holds their digests ("high low count") against those of
// a restore. key is the file of an age identity; lineage is "<source>.<lineage>".
func ReadStore(t testing.TB, repository, key, lineage, at string, want map[string]string) {
	t.Helper()
	reader, lib := SecondReader(t)
	tables := make([]string, 0, len(want))
	for name := range want {
		tables = append(tables, name)
	}
	ask, err := json.Marshal(map[string]any{
		"reader": reader, "lib": lib, "repository": repository, "key": key, "lineage": lineage, "at": at, "tables": tables,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", "-c", storeDriver)
	cmd.Stdin = strings.NewReader(string(ask))
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("the second reader at %s: %v\n%s", at, err, complaint.String())
		return
	}
	var got map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for name, digest := range want {
		if got[name] != digest {
			t.Errorf("at %s the second reader has of %s: %s, the restore: %s", at, name, got[name], digest)
		}
	}
}
