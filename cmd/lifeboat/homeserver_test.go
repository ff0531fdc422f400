package main

import (
	"path/filepath"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/synapse"
)

// A media store or a signing key that is not where homeserver.yaml says is named as
// such; one that is there is not.
func TestInventoryNamesWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	h := &synapse.Homeserver{Path: "homeserver.yaml", MediaStore: dir, SigningKey: filepath.Join(dir, "sining.key")}
	for _, f := range inventory(h, true) {
		if got, want := strings.Contains(f.Why, "NOT THERE"), f.Name == "signing key"; got != want {
			t.Errorf("%s: %s", f.Name, f.Why)
		}
	}
	h.MediaStore, h.SigningKey = filepath.Join(dir, "media"), ""
	for _, f := range inventory(h, true) {
		if got, want := strings.Contains(f.Why, "NOT THERE"), f.Name == "media store"; got != want {
			t.Errorf("%s: %s", f.Name, f.Why)
		}
	}
}
