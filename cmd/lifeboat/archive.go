package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"lifeboat.im/lifeboat/mspf"
)

const inspectHelp = `Print what an archive holds: the server, the restore point, every item with its
counts, and what is not carried. The archive is read to its end and held against its
own integrity item; ` + "`lifeboat verify FILE`" + ` checks every event as well.

FILE is a directory or a tar, plain or compressed. An encrypted one takes the
identity that opens it (--key). No key and no password hash is printed.`

// archiveFlags are those of every command that reads an archive.
type archiveFlags struct {
	unknown    []string
	incomplete bool
}

func (f *archiveFlags) on(cmd *cobra.Command) {
	f.unknownOn(cmd)
	cmd.Flags().BoolVar(&f.incomplete, "allow-incomplete", false, "read an archive without an integrity item: cut off, or of another writer")
}

// archiveFacts is what inspect and verify print of an archive; never a secret.
type archiveFacts struct {
	File       string                   `json:"file"`
	ServerName string                   `json:"server_name"`
	SigningKey bool                     `json:"signing_key"` // whether it is inside
	Archive    *mspf.Archive            `json:"archive,omitempty"`
	Items      map[string]mspf.ItemSize `json:"items"`
	Skipped    []string                 `json:"skipped"`
	Complete   bool                     `json:"complete"` // the integrity item is there and right
	SHA256     string                   `json:"sha256,omitempty"`
	Report     *mspf.Report             `json:"report,omitempty"`
	Events     int64                    `json:"events_checked,omitempty"`
	Signatures int64                    `json:"signatures_checked,omitempty"`
	Findings   []archiveFinding         `json:"findings,omitempty"`
}

type archiveFinding struct {
	Code   string   `json:"code"`
	Item   string   `json:"item"`
	Text   string   `json:"text"`
	Count  int64    `json:"count"`
	First  []string `json:"first"`
	Notice bool     `json:"notice,omitempty"`
}

// unknownOn is for what reads only archives that are whole.
func (f *archiveFlags) unknownOn(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.unknown, "accept-unknown", nil, "pass over an m.* item that this version does not know (exact name; may be repeated)")
}

func inspectCommand(a *app) *cobra.Command {
	var flags archiveFlags
	cmd := &cobra.Command{
		Use: "inspect FILE", Short: "Print what an archive holds", Long: inspectHelp,
		Example: "  lifeboat inspect server.tar.zst.age --key lifeboat.key\n  lifeboat inspect server.tar --json", Args: args(1, 1, "the file or the folder of an archive"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.archiveOptions(cmd.Context(), "inspect", flags)
			if err != nil {
				return err
			}
			out, err := mspf.Inspect(cmd.Context(), args[0], o)
			if err != nil {
				return err
			}
			return a.printArchive(facts(args[0], out))
		},
	}
	flags.on(cmd)
	return cmd
}

// isArchive tells a file or a folder that holds an archive from a repository.
func isArchive(name string) bool {
	info, err := os.Stat(name)
	if err != nil || strings.Contains(name, "://") {
		return false
	}
	if !info.IsDir() {
		return true
	}
	_, err = os.Stat(filepath.Join(name, "manifest.mspf.json"))
	return err == nil
}

func (a *app) archiveOptions(ctx context.Context, why string, f archiveFlags) (mspf.ReadOptions, error) {
	o := mspf.ReadOptions{AcceptUnknown: f.unknown, AllowIncomplete: f.incomplete}
	if a.keyFile() == "" {
		return o, nil
	}
	var ids []age.Identity
	ids, err := a.identities(ctx, why)
	o.Identities = ids
	return o, err
}

func (a *app) verifyArchive(ctx context.Context, file string, f archiveFlags) error {
	o, err := a.archiveOptions(ctx, "verify", f)
	if err != nil {
		return err
	}
	v, err := mspf.Verify(ctx, file, o)
	if err != nil {
		return err
	}
	p := facts(file, &v.Outcome)
	p.Events, p.Signatures, p.Findings = v.Events, v.Signed, []archiveFinding{}
	for _, x := range v.Findings {
		p.Findings = append(p.Findings, archiveFinding(x))
	}
	if err := a.printArchive(p); err != nil {
		return err
	}
	for _, x := range p.Findings {
		state := "WRONG"
		if x.Notice {
			state = "notice"
		}
		a.fact("%-6s  %s: %s (%s, such as %s)", state, x.Item, x.Text, count(x.Count, "time", "times"), printable(x.First[0]))
	}
	a.fact("%s and %s of this server checked.", count(p.Events, "event", "events"), count(p.Signatures, "signature", "signatures"))
	if !v.OK() {
		return verdict{exitDamaged, "something is wrong in the archive: make another one, or import it knowing what is lost"}
	}
	a.fact("Whole.")
	return nil
}

func facts(file string, o *mspf.Outcome) archiveFacts {
	return archiveFacts{
		File: file, ServerName: o.Core.ServerName, SigningKey: o.Core.SigningKey != "", Archive: o.Archive, Items: o.Items,
		Skipped: append([]string{}, o.Skipped...), Complete: o.Complete, SHA256: o.SHA256, Report: o.Report,
	}
}

func (a *app) printArchive(p archiveFacts) error {
	if done, err := a.printJSON(p); done {
		return err
	}
	a.fact("Server        %s (%s)", printable(p.ServerName), choose(p.SigningKey, "with its signing key", "without its signing key"))
	if x := p.Archive; x != nil {
		a.fact("Made by       %s %s from %s %s", printable(x.Tool), printable(x.ToolVersion), printable(x.Source.Software), printable(x.Source.Version))
		at := "no commit is known" // a restore point before the first one that was seen
		if x.Point.Time != 0 {
			at = moment(time.UnixMilli(x.Point.Time))
		}
		a.fact("Restore point %s%s", at, prefixed(", lsn:", printable(x.Point.LSN)))
		for _, table := range slices.Sorted(maps.Keys(x.Point.Gaps)) {
			a.fact("Not exact     %s: %s", printable(table), printable(x.Point.Gaps[table]))
		}
		for _, filter := range x.Filters {
			a.fact("Left out      %s", printable(filter))
		}
	}
	rows := [][]string{{"ITEM", "ELEMENTS", "FILES", "SIZE"}}
	for _, item := range slices.Sorted(maps.Keys(p.Items)) {
		s := p.Items[item]
		rows = append(rows, []string{printable(item), strconv.FormatInt(s.Elements, 10), strconv.FormatInt(s.Files, 10), mib(s.Bytes)})
	}
	a.table(rows)
	for _, item := range p.Skipped {
		a.fact("Passed over   %s: this version does not know it", item)
	}
	if r := p.Report; r != nil {
		a.fact("%s", choose(r.Complete, "Nothing of the server is missing.", "Not carried, or not whole:"))
		for _, l := range r.Losses {
			a.fact("  %s%s: %s, %d: %s", printable(l.Item), prefixed(" ", printable(l.Key)), printable(string(l.State)), l.Count, printable(l.Reason))
		}
	}
	if !p.Complete {
		a.fact("There is no integrity item: nothing says that the archive is whole.")
	} else {
		a.fact("Integrity     sha256:%s", p.SHA256)
	}
	return nil
}

// printable keeps what an archive says from moving the terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func choose(which bool, yes, no string) string {
	if which {
		return yes
	}
	return no
}

// archiveOutcomes are the rows of [outcomes] for archives.
func archiveOutcomes() []outcome {
	rows := []outcome{
		{mspf.ErrVersion, exitFailed, "Install a newer version of Lifeboat."},
		{mspf.ErrUnknownItem, exitRefused, "Nothing was read. Name each item with --accept-unknown to go on without it."},
		{mspf.ErrEncrypted, exitWrongKey, "Give the identity that opens it with --key FILE."},
		{mspf.ErrForm, exitUsage, "docs/format-mspf.md says what an archive looks like."},
		{mspf.ErrExists, exitRefused, "Name another file."},
		{mspf.ErrPlaintext, exitUsage, ""},
		{mspf.ErrName, exitUsage, ""},
	}
	for _, err := range []error{
		mspf.ErrIntegrity, mspf.ErrBomb, mspf.ErrPath, mspf.ErrLink, mspf.ErrDuplicate, mspf.ErrTrailing, mspf.ErrOrder, mspf.ErrOwner,
		mspf.ErrManifest, mspf.ErrDocument, mspf.ErrCBOR, mspf.ErrTooLarge,
	} {
		rows = append(rows, outcome{err, exitDamaged, "Take another copy of the archive, or make it again."})
	}
	return append(rows, outcome{mspf.ErrTruncated, exitDamaged, "Take another copy of the archive; --allow-incomplete reads one of a writer that makes no integrity item."})
}
