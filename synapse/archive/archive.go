package archive

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"hash/maphash"
	"iter"

	"lifeboat.im/lifeboat/internal/spill"
	"lifeboat.im/lifeboat/mspf"
)

// Options say what the rows do not.
type Options struct {
	// Archive is where the archive comes from. Its server name is who the homeserver
	// is; EventOrder and Redaction are filled in.
	Archive mspf.Archive
	// SigningKeys are the server's private keys, the one that it signs with first, as
	// signedjson and Synapse spell them; none leaves them out.
	SigningKeys []string
	// OldKeys are public keys that it signed with before, by key id.
	OldKeys map[string]mspf.OldKey
	// Floors are the highest positions handed out until the point, by stream.
	Floors map[string]int64
	// Password says how the hashes of passwords are to be checked; nil: it is not known.
	Password *mspf.Password
	// NoPasswords leaves the hashes of passwords out.
	NoPasswords bool
	// AuthService: accounts are those of a Matrix Authentication Service, which has a
	// database of its own. What Synapse still has of passwords is of the time before it,
	// opens nothing, and stays out of the items for other homeservers.
	AuthService bool
	// AsStored leaves events as they are stored; else what a redaction took back and
	// Synapse still keeps is redacted.
	AsStored bool
	// Memory is about how many bytes the sorters hold; 0 is 96 MiB.
	Memory int64
}

func (o Options) withoutPasswords() bool { return o.NoPasswords || o.AuthService }

// Contents prepares an archive of the rows: what it returns is written with
// [mspf.Write] before the folder is closed. Everything of the database that no item
// carries is in the report, with counts (M3 of package mspf).
//
// The items of the database itself (im.lifeboat.synapse) are the caller's.
func Contents(ctx context.Context, t Tables, d *spill.Dir, o Options) (*mspf.Contents, error) {
	b := newBuilder(ctx, t, d, o)
	c := &mspf.Contents{Core: mspf.Core{ServerName: b.server}, Archive: o.Archive}
	for _, step := range b.steps() {
		if err := step(c); err != nil {
			return nil, fmt.Errorf("prepare an archive: %w", err)
		}
	}
	if err := b.notCarried(); err != nil {
		return nil, fmt.Errorf("prepare an archive: %w", err)
	}
	c.Losses = b.report.losses
	return c, nil
}

func newBuilder(ctx context.Context, t Tables, d *spill.Dir, o Options) *builder {
	b := &builder{
		tables: t, dir: d, o: o, check: ctx.Err, server: o.Archive.ServerName, memory: o.Memory,
		keys: map[string]ed25519.PublicKey{}, report: newReport(), read: map[string]bool{},
		seed: maphash.MakeSeed(), unruly: map[string]bool{},
	}
	if b.memory == 0 {
		b.memory = 96 << 20
	}
	return b
}

// steps read every table that some item is made of.
func (b *builder) steps() []func(*mspf.Contents) error {
	return []func(*mspf.Contents) error{
		b.identity, b.prepareRooms, b.prepareEvents, b.finishRooms, b.prepareStates, b.prepareInvites, b.prepareAccounts,
	}
}

// builder makes the items of one archive.
type builder struct {
	tables  Tables
	dir     *spill.Dir
	o       Options
	check   func() error // of the context
	server  string
	memory  int64
	keys    map[string]ed25519.PublicKey // our own, by key id
	report  *report
	highest int64           // localpart that the server chose
	read    map[string]bool // tables that some item is made of

	rooms   map[string]*room // by id
	facts   *spill.Sorter    // becomes details
	details *spill.Sorted    // what is known of each room, by room
	events  *spill.Sorted    // by room and depth
	refs    *spill.Sorted    // what each names, in the same order
	invites *spill.Sorted    // by room and user
	seed    maphash.Seed     // of the hashes of ids in refs
	unruly  map[string]bool  // rooms that this order does not fit
	gaps    []gap            // events before which something is missing
}

// sorter makes one that takes a share of the memory.
func (b *builder) sorter(share int64) *spill.Sorter { return b.dir.Sorter(b.memory / share) }

// pairs goes through what was sorted, and through the context's end.
func (b *builder) pairs(s *spill.Sorted) iter.Seq2[spill.Pair, error] {
	return func(yield func(spill.Pair, error) bool) {
		for p, err := range s.All() {
			if err == nil {
				err = b.check()
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// groups gives the pairs of one key at a time. The pairs of a group are to be gone
// through before the next one; those that are left are passed over.
func (b *builder) groups(s *spill.Sorted, end func(key []byte) int) iter.Seq2[group, error] {
	return func(yield func(group, error) bool) {
		next, stop := iter.Pull2(b.pairs(s))
		defer stop()
		p, err, ok := next()
		for ok {
			if err != nil {
				yield(group{}, err)
				return
			}
			name := append([]byte(nil), p.Key[:end(p.Key)]...)
			g := group{key: name, pairs: func(each func(spill.Pair, error) bool) {
				for ok && err == nil && end(p.Key) == len(name) && string(p.Key[:len(name)]) == string(name) {
					more := each(p, nil)
					p, err, ok = next()
					if !more {
						return
					}
				}
				if err != nil {
					each(spill.Pair{}, err)
				}
			}}
			if !yield(g, nil) {
				return
			}
			for range g.pairs { // what was not wanted
			}
		}
	}
}

// group is what belongs to one element.
type group struct {
	key   []byte
	pairs iter.Seq2[spill.Pair, error]
}
