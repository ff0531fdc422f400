package proof

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/internal/secondreader"
)

// TestSecondReader: the repository that is kept as test data is whole to the second
// reader, encrypted and in plain text; an altered byte in an entry of its open epoch is found.
func TestSecondReader(t *testing.T) {
	dir := t.TempDir()
	if err := exec.CommandContext(t.Context(), "tar", "-xf", "../../history/testdata/pg18.tar", "-C", dir).Run(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "identity")
	whole := func(key string) {
		t.Helper()
		if out, err := secondreader.Run(t, dir, key, "verify"); err != nil || !strings.Contains(out, "4 tables") {
			t.Errorf("%q: %v: %s", key, err, out)
		}
	}
	whole(key)
	entries, err := filepath.Glob(filepath.Join(dir, "log", "*", "0000000003", "*"))
	if err != nil || len(entries) < 5 {
		t.Fatalf("entries %v, %v", entries, err)
	}
	for i, name := range entries {
		if i%3 != 0 {
			continue // each costs a process
		}
		object, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		altered := bytes.Clone(object)
		altered[len(altered)/2] ^= 1
		replace(t, name, altered)
		if out, err := secondreader.Run(t, dir, key, "verify"); err == nil {
			t.Errorf("%s with an altered byte is whole: %s", name, out)
		}
		replace(t, name, object)
	}
	inClear(t, dir, key)
	whole("")
}

// replace overwrites an object, which nothing but a test does.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// inClear leaves the secrets as a plaintext repository has them (docs/format.md §3).
func inClear(t *testing.T, dir, key string) {
	t.Helper()
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	sealed := filepath.Join(dir, "keys", "1.age")
	file, err := os.Open(sealed)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := age.Decrypt(file, id)
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keys", "0.clear"), secrets, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(sealed); err != nil {
		t.Fatal(err)
	}
}
