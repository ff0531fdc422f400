package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"lifeboat.im/lifeboat/history"
)

// maxKeyFile bounds what is read as a file of identities.
const maxKeyFile = 1 << 20

// keyFile gives the file with the operator's identity, "" when none was named.
func (a *app) keyFile() string {
	if a.flags.key != "" {
		return a.flags.key
	}
	return a.env("LIFEBOAT_KEY_FILE")
}

// identities reads the operator's identities. why says what they are needed for.
func (a *app) identities(ctx context.Context, why string) ([]age.Identity, error) {
	file := a.keyFile()
	if file == "" {
		return nil, usagef("%s needs the operator's identity: give --key FILE or set LIFEBOAT_KEY_FILE (the file that `lifeboat init` wrote)", why)
	}
	b, err := readKeyFile(file)
	if err != nil {
		return nil, err
	}
	ids, err := a.parseIdentities(ctx, file, b)
	if err != nil && !errors.As(err, new(usageError)) && !errors.Is(err, history.ErrWrongKey) && ctx.Err() == nil {
		return nil, usagef("%s is not a file of age identities: %v; give the file that `lifeboat init` wrote", file, err)
	}
	return ids, err
}

func readKeyFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usagef("read the operator's identity: %v; give the right file with --key", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, usagef("read the operator's identity: %v", err)
	}
	if len(b) > maxKeyFile {
		return nil, usagef("%s is too large for a file of identities", file)
	}
	return b, nil
}

// parseIdentities reads an age identity file (several identities, one a line), the
// same sealed with a passphrase, or an OpenSSH private key.
func (a *app) parseIdentities(ctx context.Context, file string, b []byte) ([]age.Identity, error) {
	switch {
	case bytes.HasPrefix(b, []byte("age-encryption.org/")):
		return a.openIdentities(ctx, file, bytes.NewReader(b))
	case bytes.HasPrefix(b, []byte(armor.Header)):
		return a.openIdentities(ctx, file, armor.NewReader(bytes.NewReader(b)))
	case bytes.HasPrefix(b, []byte("-----BEGIN")):
		id, err := a.sshIdentity(ctx, file, b)
		if err != nil {
			return nil, err
		}
		return []age.Identity{id}, nil
	}
	return age.ParseIdentities(bytes.NewReader(b))
}

func (a *app) openIdentities(ctx context.Context, file string, sealed io.Reader) ([]age.Identity, error) {
	phrase, err := a.passphrase(ctx, file)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(string(phrase))
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(sealed, id)
	if err != nil {
		return nil, fmt.Errorf("open %s: the passphrase does not fit, or the file is damaged: %w", file, history.ErrWrongKey)
	}
	return age.ParseIdentities(io.LimitReader(r, maxKeyFile))
}

func (a *app) sshIdentity(ctx context.Context, file string, b []byte) (age.Identity, error) {
	id, err := agessh.ParseIdentity(b)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return id, err
	}
	if locked.PublicKey == nil {
		return nil, errors.New("an old form of a locked ssh key; `ssh-keygen -p -f FILE` rewrites it")
	}
	return agessh.NewEncryptedSSHIdentity(locked.PublicKey, b, func() ([]byte, error) { return a.passphrase(ctx, file) })
}

// passphrase asks on the terminal, without an echo.
func (a *app) passphrase(ctx context.Context, file string) ([]byte, error) {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, usagef("%s is locked with a passphrase, which is asked for on a terminal only", file)
	}
	state, err := term.GetState(int(in.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.err, "Passphrase of %s: ", file)
	type answer struct {
		b   []byte
		err error
	}
	got := make(chan answer, 1)
	go func() {
		b, err := term.ReadPassword(int(in.Fd()))
		got <- answer{b, err}
	}()
	defer fmt.Fprintln(a.err)
	select {
	case <-ctx.Done():
		_ = term.Restore(int(in.Fd()), state)
		return nil, ctx.Err()
	case r := <-got:
		return r.b, r.err
	}
}

// recipientOf gives the public half of an identity, "" for kinds that have none to show.
func recipientOf(id age.Identity) string {
	switch id := id.(type) {
	case *age.X25519Identity:
		return id.Recipient().String()
	case *age.HybridIdentity:
		return id.Recipient().String()
	}
	return ""
}

// secretLines gives the lines of an age identity file that hold identities.
func secretLines(b []byte) []string {
	var out []string
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "AGE-SECRET-KEY-") {
			out = append(out, l)
		}
	}
	return out
}

// checkRecipient refuses what nobody could open.
func checkRecipient(s string) error {
	_, err := parseRecipient(s)
	return err
}

func parseRecipient(s string) (age.Recipient, error) {
	var r age.Recipient
	var err error
	if strings.HasPrefix(s, "ssh-") {
		r, err = agessh.ParseRecipient(s)
	} else {
		var all []age.Recipient
		if all, err = age.ParseRecipients(strings.NewReader(s)); len(all) > 0 {
			r = all[0]
		}
	}
	if err != nil {
		return nil, usagef("%q is not a recipient: want age1… (from `age-keygen`) or an ssh-ed25519 or ssh-rsa public key", s)
	}
	return r, nil
}
