package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/sys/unix"

	"lifeboat.im/lifeboat/internal/testpg"
)

// terminal opens a pseudo-terminal: what is written to the first file is typed
// at the second (pts(4)).
func terminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	testpg.Need(t, "/dev/ptmx", err == nil, "mount devpts")
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	return keyboard, screen
}

// lockedKey seals an identity file with a passphrase.
func lockedKey(t *testing.T, id *age.X25519Identity, phrase string) []byte {
	t.Helper()
	r, err := age.NewScryptRecipient(phrase)
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(10)
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(w, "# mine\n%s\n", id); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLockedIdentityAsksOnATerminal(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, t.TempDir(), "locked.key", string(lockedKey(t, id, "correct horse")), 0o600)
	for phrase, want := range map[string]string{"correct horse": id.String(), "wrong horse": ""} {
		keyboard, screen := terminal(t)
		a := testApp(t, nil)
		a.in, a.flags.key = screen, file
		if _, err := keyboard.WriteString(phrase + "\n"); err != nil {
			t.Fatal(err)
		}
		ids, err := a.identities(t.Context(), "test")
		switch {
		case want == "" && exitCode(err) != exitWrongKey:
			t.Errorf("%q: %v", phrase, err)
		case want != "" && (err != nil || len(ids) != 1 || ids[0].(*age.X25519Identity).String() != want):
			t.Errorf("%q: %v %v", phrase, ids, err)
		}
	}
}

func TestIdentityFileOfSeveral(t *testing.T) {
	var b strings.Builder
	for range 3 {
		id, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# one\n%s\n\n", id)
	}
	a := testApp(t, map[string]string{"LIFEBOAT_KEY_FILE": writeFile(t, t.TempDir(), "k", b.String(), 0o600)})
	ids, err := a.identities(t.Context(), "test")
	if err != nil || len(ids) != 3 {
		t.Errorf("%d identities, %v", len(ids), err)
	}
	if n := len(secretLines([]byte(b.String()))); n != 3 {
		t.Errorf("paper would show %d", n)
	}
}
