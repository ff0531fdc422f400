package chunkstore

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
)

// The layout of a chunk object; see the package comment.
const (
	magic       = "LIFECHNK"
	version     = 1
	headSize    = len(magic) + 2 // magic, version, kind: the additional data of the AEAD
	nonceSize   = 12
	tagSize     = 16
	trailerSize = sha256.Size
	sealedAt    = headSize + nonceSize
	minObject   = sealedAt + tagSize + trailerSize
)

func head(kind Kind) [headSize]byte {
	var h [headSize]byte
	copy(h[:], magic)
	h[len(magic)] = version
	h[len(magic)+1] = byte(kind)
	return h
}

// name is HMAC(K_name, gen ‖ d).
func (s *Store) name(gen Gen, d [32]byte) Name { return s.keys.Name.mac(gen[:], d[:]) }

// aead is AES-256-GCM under k_enc of d.
func (s *Store) aead(d [32]byte) cipher.AEAD {
	key := s.keys.Chunk.mac([]byte{1}, d[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for other key lengths
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for other block sizes
	}
	return a
}

// nonce depends on the frame, because one d has as many frames as there are
// compressions: equal nonce means equal frame (S6).
func (s *Store) nonce(d [32]byte, frame []byte) [nonceSize]byte {
	key := Secret(s.keys.Chunk.mac([]byte{2}, d[:]))
	sum := key.mac(frame)
	return [nonceSize]byte(sum[:nonceSize])
}

func (s *Store) trailerOf(n Name, object []byte) [trailerSize]byte {
	return s.trailer.mac(n[:], object)
}

// seal appends everything but the trailer to dst, which must be empty. The frame
// is built in its place and sealed over itself.
func (s *Store) seal(dst []byte, kind Kind, d [32]byte, plaintext []byte, c Compression) []byte {
	h := head(kind)
	dst = append(dst, h[:]...)
	dst = append(dst, make([]byte, nonceSize)...)
	dst = AppendFrame(dst, plaintext, c)
	frame := dst[sealedAt:]
	nonce := s.nonce(d, frame)
	copy(dst[headSize:], nonce[:])
	return s.aead(d).Seal(dst[:sealedAt], nonce[:], frame, h[:])
}

// checkHead verifies all that shows without a key: length, magic, version.
func checkHead(object []byte) error {
	switch {
	case len(object) < minObject:
		return fmt.Errorf("%w: %d bytes are too few for a chunk", ErrDamaged, len(object))
	case string(object[:len(magic)]) != magic:
		return fmt.Errorf("%w: no chunk", ErrDamaged)
	case object[len(magic)] != version:
		return fmt.Errorf("%w %d", ErrVersion, object[len(magic)])
	}
	return nil
}

// scrub verifies what shows with K_seal alone.
func (s *Store) scrub(n Name, object []byte) error {
	if err := checkHead(object); err != nil {
		return err
	}
	body := object[:len(object)-trailerSize]
	want := s.trailerOf(n, body)
	if !hmac.Equal(want[:], object[len(body):]) {
		return fmt.Errorf("%w: trailer does not match", ErrDamaged)
	}
	if kind := Kind(object[headSize-1]); !kind.known() {
		return fmt.Errorf("%w: %v", ErrDamaged, kind)
	}
	return nil
}

// unseal appends the plaintext of a scrubbed object to dst. The frame is decrypted
// into room, which may be the sealed bytes themselves. Whether the plaintext is
// that of d is left to the caller.
func (s *Store) unseal(dst, room []byte, kind Kind, r Ref, object []byte) ([]byte, error) {
	if got := Kind(object[headSize-1]); got != kind {
		return nil, fmt.Errorf("%w: kind %v, want %v", ErrDamaged, got, kind)
	}
	nonce := object[headSize:sealedAt]
	sealed := object[sealedAt : len(object)-trailerSize]
	frame, err := s.aead(r.D).Open(room, nonce, sealed, object[:headSize])
	if err != nil {
		return nil, fmt.Errorf("%w: seal does not open", ErrDamaged)
	}
	start, limit := len(dst), r.Size
	if limit == 0 {
		limit = MaxSize
	}
	out, err := OpenFrame(dst, frame, limit)
	if err != nil {
		return nil, err
	}
	if got := uint64(len(out) - start); r.Size != 0 && got != r.Size {
		return nil, fmt.Errorf("%w: %d bytes of plaintext, want %d", ErrDamaged, got, r.Size)
	}
	return out, nil
}

// open verifies and reads an object, which it spoils, into dst[:0] (S4).
func (s *Store) open(dst []byte, n Name, kind Kind, r Ref, object []byte) ([]byte, error) {
	if err := s.scrub(n, object); err != nil {
		return nil, err
	}
	out, err := s.unseal(dst[:0], object[sealedAt:sealedAt], kind, r, object)
	if err != nil {
		return nil, err
	}
	if digest(kind, out) != r.D {
		return nil, fmt.Errorf("%w: plaintext is another one", ErrDamaged)
	}
	return out, nil
}
