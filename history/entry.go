package history

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/record"
)

// Kind says what an entry is; the byte stands in its clear header.
type Kind byte

// The kinds of entries.
const (
	KindEpoch      Kind = 'e'
	KindEnd        Kind = 'x'
	KindSegment    Kind = 's'
	KindBase       Kind = 'b'
	KindHistory    Kind = 'h'
	KindCheckpoint Kind = 'c'
	KindNote       Kind = 'n'
)

var kindNames = map[Kind]string{
	KindEpoch: "epoch", KindEnd: "end", KindSegment: "segment", KindBase: "base",
	KindHistory: "history", KindCheckpoint: "checkpoint", KindNote: "note",
}

// String gives the kind's name.
func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("entry kind %#02x", byte(k))
}

// The clear header, integers big-endian:
//
//	0    8  magic LIFEBLOG
//	8    1  format version 1
//	9    1  kind
//	10   8  source: system identifier
//	18   4  source: database oid
//	22   8  lineage
//	30   8  epoch
//	38   8  seq
//	46  32  salt
//	78  32  SHA-256 of the previous entry's whole object; zeros in epoch 0, seq 0
//	110  4  length of sealed part 1, tag included
//	114  4  length of sealed part 2, tag included
//	118     sealed part 1, sealed part 2, trailer (32)
const (
	entryMagic   = "LIFEBLOG"
	entryVersion = 1
	headerSize   = 118
	saltSize     = 32
	tagSize      = 16
	trailerSize  = sha256.Size
	// maxPart1 and maxBody bound what a reader decompresses, maxEntry what it takes.
	maxPart1 = 64 << 20
	maxBody  = 256 << 20
	maxEntry = 1 << 30
)

// header is the clear part of an entry.
type header struct {
	kind         Kind
	id           LineageID
	at           Position
	salt         [saltSize]byte
	prev         entryHash
	part1, part2 uint32 // sealed lengths
}

func (h *header) append(dst []byte) []byte {
	dst = append(dst, entryMagic...)
	dst = append(dst, entryVersion, byte(h.kind))
	dst = binary.BigEndian.AppendUint64(dst, h.id.SystemID)
	dst = binary.BigEndian.AppendUint32(dst, h.id.Database)
	dst = append(dst, h.id.Lineage[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.at.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, h.at.Seq)
	dst = append(dst, h.salt[:]...)
	dst = append(dst, h.prev[:]...)
	dst = binary.BigEndian.AppendUint32(dst, h.part1)
	return binary.BigEndian.AppendUint32(dst, h.part2)
}

// parseHeader reads the clear header and checks that the object has exactly the
// lengths that it declares.
func parseHeader(b []byte) (header, error) {
	var h header
	if len(b) < headerSize+2*tagSize+trailerSize || string(b[:8]) != entryMagic {
		return h, fmt.Errorf("not an entry of a log: %w", record.ErrCorrupt)
	}
	if b[8] != entryVersion {
		return h, fmt.Errorf("entry version %d: %w", b[8], record.ErrVersion)
	}
	h.kind = Kind(b[9])
	if _, ok := kindNames[h.kind]; !ok {
		return h, fmt.Errorf("%s: %w", h.kind, record.ErrCorrupt)
	}
	h.id.SystemID = binary.BigEndian.Uint64(b[10:])
	h.id.Database = binary.BigEndian.Uint32(b[18:])
	copy(h.id.Lineage[:], b[22:30])
	h.at = Position{Epoch: binary.BigEndian.Uint64(b[30:]), Seq: binary.BigEndian.Uint64(b[38:])}
	copy(h.salt[:], b[46:])
	copy(h.prev[:], b[78:])
	h.part1, h.part2 = binary.BigEndian.Uint32(b[110:]), binary.BigEndian.Uint32(b[114:])
	if h.part1 < tagSize || h.part2 < tagSize ||
		uint64(len(b)) != headerSize+uint64(h.part1)+uint64(h.part2)+trailerSize {
		return h, fmt.Errorf("entry of %d bytes declares parts of %d and %d: %w", len(b), h.part1, h.part2, record.ErrCorrupt)
	}
	return h, nil
}

// partAEAD gives AES-256-GCM under the key of one part: HKDF-SHA-256(K, salt ‖
// part, "lifeboat/1/entry"). The key seals one plaintext only, so its nonce is 0.
func partAEAD(k chunkstore.Secret, salt [saltSize]byte, part byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, k[:], append(salt[:len(salt):len(salt)], part), "lifeboat/1/entry", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

var zeroNonce [12]byte // read only

// entry is one object of the log, part 1 opened.
type entry struct {
	header
	sum  Summary
	hash entryHash
	raw  []byte // the whole object; nil when only part 1 is kept
	size int64  // of the object
}

// sealer holds what part 1 and the trailer need.
type sealer struct {
	seal    chunkstore.Secret
	trailer chunkstore.Secret
}

func newSealer(k chunkstore.Secret) sealer {
	return sealer{seal: k, trailer: k.Subkey("log-trailer")}
}

func (s *sealer) mac(key string, object []byte) []byte {
	m := hmac.New(sha256.New, s.trailer[:])
	m.Write([]byte(key))
	m.Write(object)
	return m.Sum(nil)
}

// build makes the object of an entry under a fresh salt. body is the plaintext of
// part 2 (frames), sealed under bodyKey. What was sealed is opened and compared
// before anyone sends it.
func (s *sealer) build(h header, sum *Summary, body []byte, bodyKey chunkstore.Secret) (*entry, error) {
	plain, err := record.Marshal(sum)
	if err != nil {
		return nil, fmt.Errorf("build entry: %w", err)
	}
	if len(plain) > maxPart1 || len(body) > maxBody {
		return nil, fmt.Errorf("build entry: parts of %d and %d bytes are too large", len(plain), len(body))
	}
	part1 := chunkstore.AppendFrame(nil, plain, chunkstore.Fast)
	_, _ = rand.Read(h.salt[:]) // never fails since Go 1.24
	h.part1, h.part2 = uint32(len(part1)+tagSize), uint32(len(body)+tagSize)
	b := make([]byte, 0, headerSize+len(part1)+len(body)+2*tagSize+trailerSize)
	b = h.append(b)
	a, err := partAEAD(s.seal, h.salt, 1)
	if err != nil {
		return nil, fmt.Errorf("build entry: %w", err)
	}
	b = a.Seal(b, zeroNonce[:], part1, b[:headerSize])
	if a, err = partAEAD(bodyKey, h.salt, 2); err != nil {
		return nil, fmt.Errorf("build entry: %w", err)
	}
	b = a.Seal(b, zeroNonce[:], body, b)
	b = append(b, s.mac(h.id.key(h.at), b)...)
	e, err := s.open(h.id, h.at, b)
	if err != nil {
		return nil, fmt.Errorf("build entry: it does not open again: %w", err)
	}
	again, err := e.openBody(bodyKey)
	if err != nil || string(again) != string(body) {
		return nil, fmt.Errorf("build entry: its body does not open again: %w", errors.Join(err, record.ErrCorrupt))
	}
	return e, nil
}

// open verifies an object as the entry of this place and opens its part 1.
func (s *sealer) open(id LineageID, at Position, b []byte) (*entry, error) {
	key := id.key(at)
	if len(b) > maxEntry {
		return nil, damaged(key, "%d bytes are too many for an entry", len(b))
	}
	h, err := parseHeader(b)
	if err != nil {
		if errors.Is(err, record.ErrVersion) {
			return nil, fmt.Errorf("open %s: %w", key, err)
		}
		return nil, damaged(key, "%w", err)
	}
	body := b[:len(b)-trailerSize]
	if !hmac.Equal(s.mac(key, body), b[len(body):]) {
		return nil, damaged(key, "the trailer does not match")
	}
	if h.id != id || h.at != at {
		return nil, damaged(key, "it is the entry %s", h.id.key(h.at))
	}
	a, err := partAEAD(s.seal, h.salt, 1)
	if err != nil {
		return nil, err
	}
	frame, err := a.Open(nil, zeroNonce[:], b[headerSize:headerSize+h.part1], b[:headerSize])
	if err != nil {
		return nil, damaged(key, "part 1 does not open")
	}
	plain, err := chunkstore.OpenFrame(nil, frame, maxPart1)
	if err != nil {
		return nil, damaged(key, "%w", err)
	}
	e := &entry{header: h, hash: sha256.Sum256(b), raw: b, size: int64(len(b))}
	if e.sum, err = parseSummary(h.kind, plain); err != nil {
		return nil, damaged(key, "%w", err)
	}
	return e, nil
}

// openBody decrypts part 2, the frames of the body.
func (e *entry) openBody(k chunkstore.Secret) ([]byte, error) {
	a, err := partAEAD(k, e.salt, 2)
	if err != nil {
		return nil, err
	}
	n := headerSize + e.part1
	b, err := a.Open(nil, zeroNonce[:], e.raw[n:n+e.part2], e.raw[:n])
	if err != nil {
		return nil, damaged(e.id.key(e.at), "the body does not open under the key of epoch %d", e.keyEpoch())
	}
	return b, nil
}

// keyEpoch says whose key seals the body.
func (e *entry) keyEpoch() uint64 {
	if e.sum.History != nil {
		return e.sum.History.KeyEpoch
	}
	return e.at.Epoch
}

// damaged names an object that is not what was stored.
func damaged(key, format string, a ...any) error {
	return fmt.Errorf("%s: %w: %w", key, fmt.Errorf(format, a...), chunkstore.ErrDamaged)
}

// appendPart appends one frame of a body, preceded by its length.
func appendPart(dst, plain []byte, c chunkstore.Compression) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = chunkstore.AppendFrame(dst, plain, c)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// splitParts opens all frames of a body.
func splitParts(b []byte) ([][]byte, error) {
	var out [][]byte
	left := uint64(maxBody)
	for len(b) > 0 {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, fmt.Errorf("a frame that is longer than its body: %w", record.ErrCorrupt)
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		p, err := chunkstore.OpenFrame([]byte{}, b[4:n], left)
		if err != nil {
			return nil, err
		}
		left -= uint64(len(p))
		out = append(out, p)
		b = b[n:]
	}
	return out, nil
}
