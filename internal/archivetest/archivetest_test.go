package archivetest

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/mspf"
)

// The reader is asked about every form of an archive, and a broken one is refused: a
// check that cannot fail is none.
func TestReader(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	c := mspf.Contents{
		Core:    mspf.Core{ServerName: "example.org"},
		Archive: mspf.Archive{Tool: "test", ServerName: "example.org", Filters: []string{}, Redaction: "none", Media: "none"},
	}
	for _, name := range []string{"folder", "a.tar", "a.tar.gz", "a.tar.zst", "a.tar.age", "a.tar.gz.age", "a.tar.zst.age"} {
		file := filepath.Join(t.TempDir(), name)
		o := mspf.WriteOptions{Plaintext: true}
		if filepath.Ext(name) == ".age" {
			o = mspf.WriteOptions{Recipients: []age.Recipient{id.Recipient()}}
		}
		if _, err := mspf.Write(t.Context(), file, c, o); err != nil {
			t.Fatal(err)
		}
		Check(t, file, mspf.ReadOptions{Identities: []age.Identity{id}})
	}
	broken := filepath.Join(t.TempDir(), "a.tar")
	if _, err := mspf.Write(t.Context(), broken, c, mspf.WriteOptions{Plaintext: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(broken, 2048); err != nil {
		t.Fatal(err)
	}
	if err := Reader(root, broken); err == nil {
		t.Error("half an archive passes")
	}
}
