package synapse

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Part is one thing that makes up the homeserver.
type Part struct {
	Name, Path string
	// Inside: the backup holds it.
	Inside bool
	// Why says what the part is worth and, when it is outside, why; Mend what to do
	// meanwhile.
	Why, Mend string
}

// notYet is why files are outside.
const notYet = "this version follows the database only; files come later"

// Inventory lists what the homeserver is made of and what of it the backup holds.
func (h *Homeserver) Inventory() []Part {
	parts := []Part{{
		Name: "database", Path: h.Database, Inside: true,
		Why: "users, rooms, events, device keys, what is known of media",
	}, {
		Name: "media store", Path: h.MediaStore,
		Why:  "uploads exist nowhere else, and without them clients get 404; " + notYet,
		Mend: h.mendMedia(),
	}}
	if len(h.Providers) > 0 {
		parts = append(parts, Part{
			Name: "media storage", Path: strings.Join(h.Providers, ", "),
			Why:  "media may lie there only (media_storage_providers); " + notYet,
			Mend: "back up what the provider stores with its own tools: versions of the bucket, or a copy of the folder",
		})
	}
	parts = append(parts, h.keyPart(), Part{
		Name: "configuration", Path: strings.Join(h.Files, ", "),
		Why:  "the password pepper in it cannot be replaced: without it no password works; server_name never changes; " + notYet,
		Mend: "copy " + spaced(append(slices.Clone(h.Files), slices.Sorted(maps.Values(h.Secrets))...)) + " to another host, encrypted, and again after each change",
	})
	if len(h.AppServices) > 0 {
		parts = append(parts, Part{
			Name: "bridges", Path: strings.Join(h.AppServices, ", "),
			Why:  "the registrations hold the tokens by which bridges and homeserver know each other, and each bridge has a database of its own; " + notYet,
			Mend: "copy " + spaced(h.AppServices) + " with the configuration; back up each bridge's database too",
		})
	}
	if h.MAS != "" {
		parts = append(parts, Part{
			Name: "authentication service", Path: h.MAS,
			Why:  "with the Matrix Authentication Service, passwords and sessions are in its own database; this version follows one database",
			Mend: "a second lifeboat.yaml with source: its database and profile: generic; keep its configuration (secrets.encryption, secrets.keys); restore it to the same time as the homeserver, or a little later",
		})
	}
	return parts
}

func (h *Homeserver) mendMedia() string {
	folders := "local_content and local_thumbnails"
	if h.DynamicThumbnails {
		folders = "local_content"
	}
	return fmt.Sprintf("copy %s of %s with a tool for files (restic, rsync), after the rows: files are written before their row and never change", folders, h.MediaStore)
}

func (h *Homeserver) keyPart() Part {
	p := Part{
		Name: "signing key", Path: h.SigningKey,
		Why:  "it is the server's identity towards others: without it old events cannot be verified unless its public half is in old_signing_keys; " + notYet,
		Mend: "copy " + h.SigningKey + " once to another host, encrypted",
	}
	if h.SigningKey == "" {
		p.Path, p.Mend = "in the configuration (signing_key)", "it is copied with the configuration"
	}
	return p
}

func spaced(files []string) string { return strings.Join(files, " ") }
