package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// MaxSize bounds the plaintext of one chunk, in bytes.
const MaxSize = 32 << 20

// Store puts chunks into a backend and gets them back. It is safe for concurrent
// use. It keeps no chunk: a Put that runs holds about three times its plaintext,
// a Get twice, so memory is bounded by how many the callers let run.
type Store struct {
	backend Backend
	keys    Keys
	trailer Secret // K_trailer
	scratch sync.Pool
	names   names
	// tamper, in tests, damages what was sealed before it is opened again.
	tamper func(object []byte)
}

// New returns the store of b's chunks under k. Without k.Name and k.Chunk it can
// scrub only.
func New(b Backend, k Keys) *Store {
	return &Store{backend: b, keys: k, trailer: k.Seal.Subkey("trailer"), names: newNames()}
}

// Backend is where the chunks lie.
func (s *Store) Backend() Backend { return s.backend }

// Name is the name of r's chunk.
func (s *Store) Name(r Ref) Name { return s.name(r.Gen, r.D) }

// Put is what a Put did.
type Put struct {
	Ref  Ref
	Name Name
	// Stored is the size of the object in bytes.
	Stored int64
	// New says that this call created it; otherwise it was there and is whole.
	New bool
}

// Put makes sure that a chunk of this kind and plaintext is in the store, whole
// and durable, under a name that is not condemned, and says which.
//
// After an error the chunk may be there; another Put finds it. Nothing is wrong
// with doing the same Put twice, or at once (S1).
func (s *Store) Put(ctx context.Context, kind Kind, plaintext []byte, c Compression) (Put, error) {
	if !kind.known() {
		return Put{}, fmt.Errorf("put chunk: %v is unknown", kind)
	}
	if len(plaintext) > MaxSize {
		return Put{}, fmt.Errorf("put chunk: %d bytes, at most %d", len(plaintext), MaxSize)
	}
	w := s.take()
	defer s.give(w)
	w.kind, w.plaintext, w.compression, w.object = kind, plaintext, c, w.object[:0]
	w.ref = Ref{D: digest(kind, plaintext), Size: uint64(len(plaintext))}
	for {
		w.ref.Gen = s.names.generation(w.ref.D, s.name)
		p, err := s.putAs(ctx, s.Name(w.ref), w)
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
			return p, err
		}
		// What lies at the name is not what it should be. Bytes at a name never change
		// (S3), so the content gets another name. The damaged object stays for verify
		// to report, and is an orphan once nothing names it.
		s.names.replace(w.ref.D, w.ref.Gen)
	}
}

// putAs stores what w holds under the name n. [ErrDamaged] and [ErrVersion] speak
// of an object that was there before.
func (s *Store) putAs(ctx context.Context, n Name, w *work) (Put, error) {
	p := Put{Ref: w.ref, Name: n}
	if s.names.isTrusted(n) {
		info, err := s.backend.Stat(ctx, n.Key())
		switch {
		case err == nil && info.Size >= int64(minObject):
			p.Stored = info.Size
			return p, nil
		case err != nil && !errors.Is(err, ErrNotFound):
			return Put{}, fmt.Errorf("put chunk %s: %w", n, err)
		}
	}
	object, err := s.object(n, w)
	if err != nil {
		return Put{}, fmt.Errorf("put chunk %s: %w", n, err)
	}
	err = s.backend.Create(ctx, n.Key(), object)
	// A crash before this point leaves nothing or, after the create, an orphan that
	// the next Put of the same content finds and uses; prune counts it out when no
	// entry has named it for 7 days. The caller writes the entry only after Put
	// returned nil.
	switch {
	case err == nil:
		p.Stored, p.New = int64(len(object)), true
		return p, nil
	case errors.Is(err, ErrExists):
		return s.compare(ctx, p, w)
	}
	return Put{}, fmt.Errorf("put chunk %s: %w", n, err)
}

// compare decides about an object that was there first: it must open to the same
// plaintext.
func (s *Store) compare(ctx context.Context, p Put, w *work) (Put, error) {
	object, err := s.backend.Get(ctx, p.Name.Key())
	if err != nil {
		return Put{}, fmt.Errorf("put chunk %s: read what is there: %w", p.Name, err)
	}
	p.Stored = int64(len(object))
	if err = s.scrub(p.Name, object); err == nil {
		err = s.reopen(w, object, object[sealedAt:])
	}
	if err != nil {
		return Put{}, fmt.Errorf("put chunk %s: what is there: %w", p.Name, err)
	}
	return p, nil
}

// errSelf is S5 at work: what was just sealed does not open to what it was made
// of. Memory or the program is at fault, and nothing is sent.
var errSelf = errors.New("sealed object does not open to its plaintext")

// object returns w's sealed object with the trailer for n, opened and compared
// before anyone sends it (S5).
func (s *Store) object(n Name, w *work) ([]byte, error) {
	first := len(w.object) == 0
	if first {
		w.object = s.seal(w.object, w.kind, w.ref.D, w.plaintext, w.compression)
		w.sealed = len(w.object)
	}
	t := s.trailerOf(n, w.object[:w.sealed])
	w.object = append(w.object[:w.sealed], t[:]...)
	if !first {
		return w.object, nil // only the trailer depends on the name
	}
	if s.tamper != nil {
		s.tamper(w.object)
	}
	w.room = slices.Grow(w.room[:0], len(w.object))
	if err := s.reopen(w, w.object, w.room); err != nil {
		return nil, fmt.Errorf("%w: %v", errSelf, err) // not %w: this is no damage in the store
	}
	return w.object, nil
}

// reopen opens an object, the frame into room, and compares it with w's plaintext,
// which says more than its hash.
func (s *Store) reopen(w *work, object, room []byte) error {
	out, err := s.unseal(w.opened[:0], room[:0], w.kind, w.ref, object)
	if err != nil {
		return err
	}
	w.opened = out
	if !bytes.Equal(out, w.plaintext) {
		return fmt.Errorf("%w: plaintext is another one", ErrDamaged)
	}
	return nil
}

// Get returns the plaintext that r points to, verified (S4). An object that is
// missing is [ErrNotFound], one that is not what it should be [ErrDamaged].
func (s *Store) Get(ctx context.Context, kind Kind, r Ref) ([]byte, error) {
	return s.GetInto(ctx, kind, r, nil)
}

// GetInto is Get into dst's capacity, whose content is lost, error or not; the
// result is dst[:0] with the plaintext appended.
func (s *Store) GetInto(ctx context.Context, kind Kind, r Ref, dst []byte) ([]byte, error) {
	n := s.Name(r)
	if r.Size > MaxSize {
		return nil, fmt.Errorf("get chunk %s: %w: reference to %d bytes", n, ErrDamaged, r.Size)
	}
	object, err := s.backend.Get(ctx, n.Key())
	if err != nil {
		return nil, fmt.Errorf("get chunk %s: %w", n, err)
	}
	out, err := s.open(dst, n, kind, r, object)
	if err != nil {
		return nil, fmt.Errorf("get chunk %s: %w", n, err)
	}
	return out, nil
}

// Scrub fetches a chunk and verifies its trailer: all that is possible, and all
// that is needed to find damage, without being able to read it.
func (s *Store) Scrub(ctx context.Context, n Name) error {
	object, err := s.backend.Get(ctx, n.Key())
	if err != nil {
		return fmt.Errorf("scrub chunk %s: %w", n, err)
	}
	if err := s.scrub(n, object); err != nil {
		return fmt.Errorf("scrub chunk %s: %w", n, err)
	}
	return nil
}

// work is one Put and its buffers.
type work struct {
	kind        Kind
	plaintext   []byte // the caller's
	compression Compression
	ref         Ref

	object []byte // the sealed object, then its trailer
	sealed int    // its length without the trailer
	room   []byte // where the frame is opened
	opened []byte // where the plaintext is opened
}

// keep bounds the buffers that stay for the next Put.
const keep = 4 << 20

func (s *Store) take() *work {
	if w, ok := s.scratch.Get().(*work); ok {
		return w
	}
	return new(work)
}

func (s *Store) give(w *work) {
	w.plaintext = nil
	if cap(w.object)+cap(w.room)+cap(w.opened) > keep {
		return
	}
	s.scratch.Put(w)
}
