package history

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

const (
	configKey   = "lifeboat.json"
	clearKey    = "keys/0.clear"
	keysPrefix  = "keys/"
	logPrefix   = "log/"
	formatMagic = 1 // the format version that this program writes and reads
)

// Repository is an open repository: its configuration was read and checked.
type Repository struct {
	b      chunkstore.Backend
	config Config
	raw    []byte
}

// Config is lifeboat.json: clear, written once, its SHA-256 is in the secrets.
type Config struct {
	Format       int    `json:"format"`
	Repository   string `json:"repository"` // 32 hex digits
	Plaintext    bool   `json:"plaintext"`
	SingleWriter bool   `json:"single_writer"`
}

// CreateOptions of a new repository.
type CreateOptions struct {
	// Recipients of the operators: age1…, ssh-ed25519 …, ssh-rsa …. At least one,
	// unless Plaintext.
	Recipients []string
	// Plaintext: the secrets lie in clear in the repository; every command says so.
	Plaintext bool
	// SingleWriter: the backend cannot create-if-absent; one agent only, by promise.
	SingleWriter bool
}

// Create makes a repository: lifeboat.json, then the secrets. A crash between the
// two leaves a repository that nobody can unlock and that holds nothing; Create
// on it says ErrRepositoryExists.
func Create(ctx context.Context, b chunkstore.Backend, o CreateOptions) (*Repository, *Secrets, error) {
	if !o.Plaintext && len(o.Recipients) == 0 {
		return nil, nil, errors.New("create repository: no recipient, and not asked for plaintext")
	}
	if _, err := parseRecipients(o.Recipients); err != nil {
		return nil, nil, fmt.Errorf("create repository: %w", err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, nil, fmt.Errorf("create repository: %w", err)
	}
	keys, err := chunkstore.NewKeys()
	if err != nil {
		return nil, nil, fmt.Errorf("create repository: %w", err)
	}
	s := &Secrets{
		Chunk: keys, Digest: chunkstore.NewSecret(), Prune: chunkstore.NewSecret(),
		Recipient: id.Recipient().String(), Identity: id.String(), Recipients: slices.Clone(o.Recipients),
	}
	_, _ = rand.Read(s.Repository[:]) // never fails since Go 1.24
	c := Config{
		Format: formatMagic, Repository: hex.EncodeToString(s.Repository[:]),
		Plaintext: o.Plaintext, SingleWriter: o.SingleWriter,
	}
	raw, err := c.marshal()
	if err != nil {
		return nil, nil, fmt.Errorf("create repository: %w", err)
	}
	s.Config = sha256.Sum256(raw)
	if err := b.Create(ctx, configKey, raw); err != nil {
		if errors.Is(err, chunkstore.ErrExists) {
			return nil, nil, fmt.Errorf("create %s: %w", configKey, ErrRepositoryExists)
		}
		return nil, nil, fmt.Errorf("create %s: %w", configKey, err)
	}
	r := &Repository{b: b, config: c, raw: raw}
	if o.Plaintext {
		data, err := s.Marshal()
		if err != nil {
			return nil, nil, err
		}
		if err := b.Create(ctx, clearKey, data); err != nil {
			return nil, nil, fmt.Errorf("create %s: %w", clearKey, err)
		}
		return r, s, nil
	}
	if err := r.writeKeys(ctx, s, 1); err != nil {
		return nil, nil, err
	}
	return r, s, nil
}

// Open reads lifeboat.json. It never creates anything (H6).
func Open(ctx context.Context, b chunkstore.Backend) (*Repository, error) {
	raw, err := b.Get(ctx, configKey)
	if errors.Is(err, chunkstore.ErrNotFound) {
		return nil, fmt.Errorf("get %s: %w", configKey, ErrNoRepository)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", configKey, err)
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", configKey, err)
	}
	return &Repository{b: b, config: c, raw: raw}, nil
}

func (c Config) marshal() ([]byte, error) {
	raw, err := json.MarshalIndent(c, "", "  ")
	return append(raw, '\n'), err
}

func parseConfig(raw []byte) (Config, error) {
	var version struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(raw, &version); err != nil || version.Format == nil {
		return Config{}, fmt.Errorf("no format version: %w", record.ErrCorrupt)
	}
	if *version.Format != formatMagic {
		return Config{}, fmt.Errorf("format %d: %w", *version.Format, record.ErrVersion)
	}
	var c Config
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, errors.Join(err, record.ErrCorrupt)
	}
	again, err := c.marshal()
	if err != nil || !bytes.Equal(again, raw) {
		return Config{}, fmt.Errorf("not as it was written: %w", record.ErrCorrupt)
	}
	return c, nil
}

// Config gives what lifeboat.json says.
func (r *Repository) Config() Config { return r.config }

// Backend gives the backend that the repository lies in.
func (r *Repository) Backend() chunkstore.Backend { return r.b }

// Unlock opens the newest keys/<n>.age with any of the identities; a plaintext
// repository needs none. ErrWrongKey when none fits.
func (r *Repository) Unlock(ctx context.Context, ids ...age.Identity) (*Secrets, error) {
	key := clearKey
	if !r.config.Plaintext {
		numbers, err := r.keyNumbers(ctx)
		if err != nil {
			return nil, err
		}
		if len(numbers) == 0 {
			return nil, fmt.Errorf("no object under %s: %w", keysPrefix, chunkstore.ErrDamaged)
		}
		key = keysKey(numbers[len(numbers)-1])
	}
	return r.unlock(ctx, key, ids)
}

func (r *Repository) unlock(ctx context.Context, key string, ids []age.Identity) (*Secrets, error) {
	data, err := r.b.Get(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	if !r.config.Plaintext {
		if len(ids) == 0 {
			return nil, fmt.Errorf("open %s: no identity: %w", key, ErrWrongKey)
		}
		if data, err = openAge(data, ids); err != nil {
			return nil, fmt.Errorf("open %s: %w", key, err)
		}
	}
	s, err := ParseSecrets(data)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	if err := r.check(s); err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return s, nil
}

// check holds secrets against the configuration that was read in clear.
func (r *Repository) check(s *Secrets) error {
	if hex.EncodeToString(s.Repository[:]) != r.config.Repository {
		return fmt.Errorf("the secrets are those of repository %x: %w", s.Repository, ErrWrongKey)
	}
	if s.Config != sha256.Sum256(r.raw) {
		return fmt.Errorf("%s is not what was written: %w", configKey, chunkstore.ErrDamaged)
	}
	return nil
}

func openAge(data []byte, ids []age.Identity) ([]byte, error) {
	rd, err := age.Decrypt(bytes.NewReader(data), ids...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrWrongKey // age's own words say the same twice
	}
	if err != nil {
		return nil, errors.Join(err, chunkstore.ErrDamaged)
	}
	out, err := io.ReadAll(io.LimitReader(rd, 1<<20))
	if err != nil {
		return nil, errors.Join(err, chunkstore.ErrDamaged)
	}
	return out, nil
}

// SetRecipients wraps the secrets to another set of operators: a new keys/<n+1>.age
// first, then the older ones go, which needs a chunkstore.Remover. A crash in
// between leaves both, and the newer one counts. The secrets themselves do not
// change: who opened them before keeps them.
func (r *Repository) SetRecipients(ctx context.Context, s *Secrets, recipients []string) error {
	if r.config.Plaintext {
		return errors.New("set recipients: the repository is not encrypted")
	}
	if !s.CanRead() {
		return fmt.Errorf("set recipients: %w", ErrNoKey)
	}
	rm, ok := r.b.(chunkstore.Remover)
	if !ok {
		return errors.New("set recipients: the older keys cannot be removed from this store under this identity")
	}
	numbers, err := r.keyNumbers(ctx)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("no object under %s: %w", keysPrefix, chunkstore.ErrDamaged)
	}
	c := *s
	c.Recipients = slices.Clone(recipients)
	if err := r.writeKeys(ctx, &c, numbers[len(numbers)-1]+1); err != nil {
		return err
	}
	s.Recipients = c.Recipients
	for _, n := range numbers {
		if err := rm.Remove(ctx, keysKey(n)); err != nil {
			return fmt.Errorf("remove %s: %w", keysKey(n), err)
		}
	}
	return nil
}

func keysKey(n uint64) string { return fmt.Sprintf("%s%d.age", keysPrefix, n) }

// keyNumbers lists keys/, ascending by number.
func (r *Repository) keyNumbers(ctx context.Context) ([]uint64, error) {
	var out []uint64
	err := r.b.List(ctx, keysPrefix, func(i chunkstore.Info) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(i.Key, keysPrefix), ".age")
		n, err := strconv.ParseUint(name, 10, 63)
		if ok && err == nil && keysKey(n) == i.Key {
			out = append(out, n)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", keysPrefix, err)
	}
	slices.Sort(out)
	return out, nil
}

func (r *Repository) writeKeys(ctx context.Context, s *Secrets, n uint64) error {
	to, err := parseRecipients(s.Recipients)
	if err != nil {
		return fmt.Errorf("write %s: %w", keysKey(n), err)
	}
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	if data, err = sealAge(data, to); err != nil {
		return fmt.Errorf("write %s: %w", keysKey(n), err)
	}
	if err := r.b.Create(ctx, keysKey(n), data); err != nil {
		return fmt.Errorf("create %s: %w", keysKey(n), err)
	}
	return nil
}

func sealAge(data []byte, to []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func parseRecipients(list []string) ([]age.Recipient, error) {
	out := make([]age.Recipient, 0, len(list))
	for _, s := range list {
		var r age.Recipient
		var err error
		switch {
		case strings.HasPrefix(s, "ssh-"):
			r, err = agessh.ParseRecipient(s)
		default:
			r, err = age.ParseX25519Recipient(s)
		}
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", s, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Lineages lists the logs of the repository, ascending by id. It is a listing: a
// hint, of logs whose first entry is known to be there.
func (r *Repository) Lineages(ctx context.Context) ([]LineageID, error) {
	var out []LineageID
	err := r.b.List(ctx, logPrefix, func(i chunkstore.Info) error {
		name, rest, _ := strings.Cut(strings.TrimPrefix(i.Key, logPrefix), "/")
		id, err := ParseLineageID(name)
		if err != nil || rest != "0000000000/0000000000" {
			return nil // not an object of ours: verify names it
		}
		out = append(out, id)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", logPrefix, err)
	}
	return out, nil
}

// Log gives access to one log. keys holds epoch keys of this host; nil when
// there are none and s.Identity is to be used.
func (r *Repository) Log(s *Secrets, id LineageID, keys EpochKeys) *Log {
	return newLog(r, s, id, keys)
}
