package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// What users of a homeserver choose reaches the terminal of its admin: as text.
func TestHostileNamesArePrinted(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	a.printAftercare([]restore.StepReport{{
		Name: "delayed events", Why: "why", Heed: true, Rows: 1, Columns: []string{"type"},
		Details: [][]string{{"m.x\x1b[2J\u009b\nNOTE all is well"}},
	}})
	l := &synapse.Loss{Rooms: []synapse.RoomLoss{{Room: "!r\x1b]0;x\a\u202e:x"}}, Unread: 2}
	a.printLoss(l, true)
	for _, r := range out.String() {
		if r != '\n' && visible(string(r)) != string(r) {
			t.Errorf("the control character %q is printed", r)
		}
	}
	for _, want := range []string{`  m.x\x1b[2J\u009b\nNOTE all is well`, "  room !r", "  not wholly looked into: 2 rows"} {
		if !bytes.Contains(out.Bytes(), []byte(want)) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// JSON is read on a terminal too.
func TestHostileNamesAreEscapedInJSON(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	a.flags.json = true
	want := "\x1b\u009b2J\x7f\u0080é\u00a0"
	if _, err := a.printJSON([]string{want}); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, `"\u001b\u009b2J\u007f\u0080é`) {
		t.Errorf("printed %q", s)
	}
	var back []string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back[0] != want {
		t.Errorf("read back %q: %v", back, err)
	}
}

// The command that find prints restores from the repository that it looked into.
func TestRestoreLine(t *testing.T) {
	a := &app{env: func(string) string { return "" }}
	a.flags.config, a.flags.key = "/etc/my lifeboat.yaml", "it's.key"
	want := `lifeboat restore --config '/etc/my lifeboat.yaml' --at before:lsn:0/1 --key 'it'\''s.key' --to DSN`
	if got := a.restoreLine("before:lsn:0/1", "x", &restore.Branches{}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	want = `lifeboat restore --config '/etc/my lifeboat.yaml' --at 'mark:my $mark' --key 'it'\''s.key' --to DSN`
	if got := a.restoreLine("mark:my $mark", "", &restore.Branches{}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	a.flags.config, a.flags.repo, a.flags.key = "", "s3://h/b/p", ""
	want = "lifeboat restore --repo s3://h/b/p --at latest --key FILE --to DSN"
	if got := a.restoreLine("latest", "x", &restore.Branches{}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A server that does not answer is one line.
func TestFlat(t *testing.T) {
	for in, want := range map[string]string{
		"connect to `x`:\n\ta: refused\n\ta: refused: try again": "connect to `x`: a: refused: try again",
		"connect to `x`:\n\ta: refused\n\tb: refused":            "connect to `x`: a: refused; b: refused",
		"one\nline each": "one\nline each",
	} {
		if got := flat(in); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
