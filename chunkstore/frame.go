package chunkstore

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Compression is how a frame is compressed. It is no part of a chunk's identity.
type Compression byte

// The compressions.
const (
	// Fast: zstd's fastest level, for the log.
	Fast Compression = iota
	// Default: zstd's default level, for bases.
	Default
	// Stored: a valid zstd frame of raw blocks, for tables that hold secrets.
	Stored
)

const (
	lengthSize = 8
	rawBlock   = 128 << 10 // the largest block that zstd allows
	// rawHeader is the header of a Stored frame: magic, descriptor (8-byte content
	// size, a window is declared), window of 128 KiB (RFC 8878 §3.1.1.1).
	rawHeader = "\x28\xb5\x2f\xfd\xc0\x38"
)

// AppendFrame appends the frame of plaintext to dst (layout in the package
// comment). Any other Compression than Fast and Default is Stored.
func AppendFrame(dst, plaintext []byte, c Compression) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, lengthSize)...)
	switch c {
	case Fast:
		dst = fastEncoder().EncodeAll(plaintext, dst)
	case Default:
		dst = defaultEncoder().EncodeAll(plaintext, dst)
	default:
		dst = appendRaw(dst, plaintext)
	}
	n := len(dst) - start
	binary.BigEndian.PutUint64(dst[start:], uint64(n-lengthSize))
	pad := int(padme(uint64(n))) - n
	dst = slices.Grow(dst, pad)[:len(dst)+pad]
	clear(dst[start+n:])
	return dst
}

// OpenFrame appends the plaintext of frame to dst. A plaintext of more than max
// bytes is an error, and so is everything that AppendFrame would not have written
// around the zstd frame; all are [ErrDamaged]. What a frame declares is checked
// before anything is allocated for it.
func OpenFrame(dst, frame []byte, max uint64) ([]byte, error) {
	if len(frame) < lengthSize {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrDamaged, len(frame))
	}
	z := binary.BigEndian.Uint64(frame)
	rest := uint64(len(frame) - lengthSize)
	if z > rest || padme(z+lengthSize) != uint64(len(frame)) {
		return nil, fmt.Errorf("%w: frame of %d bytes declares %d bytes of zstd", ErrDamaged, len(frame), z)
	}
	packed, pad := frame[lengthSize:lengthSize+z], frame[lengthSize+z:]
	for _, b := range pad {
		if b != 0 {
			return nil, fmt.Errorf("%w: padding is not zero", ErrDamaged)
		}
	}
	return unpack(dst, packed, max)
}

// unpack decodes one zstd frame of at most max bytes.
func unpack(dst, packed []byte, max uint64) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, fmt.Errorf("%w: zstd header: %w", ErrDamaged, err)
	}
	if h.Skippable || !h.HasFCS || h.DictionaryID != 0 {
		return nil, fmt.Errorf("%w: zstd frame of another shape", ErrDamaged)
	}
	size := h.FrameContentSize
	// A block of 128 KiB takes at least 4 bytes: what the input cannot hold is not
	// allocated.
	if size > max || size > (uint64(len(packed))/4+1)*rawBlock {
		return nil, fmt.Errorf("%w: frame declares %d bytes of plaintext, allowed are %d", ErrDamaged, size, max)
	}
	start := len(dst)
	dst = slices.Grow(dst, int(size))
	// Capacity is clipped to the declared size: the decoder stops there.
	out, err := decoder().DecodeAll(packed, dst[:start:start+int(size)])
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrDamaged, err)
	}
	if uint64(len(out)-start) != size {
		return nil, fmt.Errorf("%w: zstd frame of %d bytes declares %d", ErrDamaged, len(out)-start, size)
	}
	return dst[:len(out)], nil
}

// appendRaw appends a zstd frame of raw blocks (RFC 8878 §3.1.1): magic,
// descriptor, window, content size, then blocks of at most 128 KiB behind 3-byte
// little-endian headers (bit 0: last; bits 1–2: type 0, raw; above: length).
func appendRaw(dst, plaintext []byte) []byte {
	blocks := len(plaintext)/rawBlock + 1
	dst = slices.Grow(dst, len(rawHeader)+8+3*blocks+len(plaintext))
	dst = append(dst, rawHeader...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(plaintext)))
	for {
		n := min(len(plaintext), rawBlock)
		head := uint32(n) << 3
		if n == len(plaintext) {
			head |= 1
		}
		dst = append(dst, byte(head), byte(head>>8), byte(head>>16))
		dst = append(dst, plaintext[:n]...)
		if plaintext = plaintext[n:]; len(plaintext) == 0 {
			return dst
		}
	}
}

// padme rounds n up to the next Padmé length.
func padme(n uint64) uint64 {
	if n < 2 {
		return n
	}
	e := bits.Len64(n) - 1
	s := bits.Len(uint(e))
	mask := uint64(1)<<(e-s) - 1
	if n > 1<<62 {
		return n // no such length exists; do not wrap around
	}
	return (n + mask) &^ mask
}

// The coders are made once and never change. Each holds a bounded set of states
// and makes callers wait for one, so that memory does not follow the number of
// callers.
var (
	fastEncoder    = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedFastest) })
	defaultEncoder = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.SpeedDefault) })
	decoder        = sync.OnceValue(newDecoder)
)

// window is how far back the encoders look; it bounds their memory.
const window = 2 << 20

// coders bounds how many goroutines compress, or decompress, at one time.
func coders() int { return min(runtime.GOMAXPROCS(0), 4) }

func newEncoder(level zstd.EncoderLevel) *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(coders()),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(window), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true), zstd.WithSingleSegment(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(coders()), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}
