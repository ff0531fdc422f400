package mspf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// scanner reads the CBOR of an archive from a stream, one data item at a time: it
// never holds more than one element, and believes no length before the bytes are there.
type scanner struct {
	r      *bufio.Reader
	buf    []byte
	plain  bool // every head so far was in its shortest form
	offset int64
}

func newScanner(r io.Reader) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, 64<<10), plain: true}
}

func (s *scanner) fail(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", ErrCBOR, s.offset, fmt.Sprintf(format, args...))
}

// ended names the error of a stream that stops inside a data item.
func (s *scanner) ended(err error) error {
	if errors.Is(err, ErrTruncated) {
		return err // the archive ends, not only this file
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return s.fail("the file ends inside a value")
	}
	return err
}

// head reads the head of a data item and appends it to buf. For major type 7, n is the
// value and info says how it is spelled.
func (s *scanner) head() (major, info byte, n uint64, err error) {
	b, err := s.r.ReadByte()
	if err != nil {
		return 0, 0, 0, s.ended(err)
	}
	s.buf = append(s.buf, b)
	s.offset++
	major, info = b>>5, b&31
	switch {
	case info < 24:
		return major, info, uint64(info), nil
	case info > 27:
		return 0, 0, 0, s.fail("a length that is indefinite or reserved")
	}
	var long [8]byte
	size := 1 << (info - 24)
	if _, err := io.ReadFull(s.r, long[8-size:]); err != nil {
		return 0, 0, 0, s.ended(err)
	}
	s.buf = append(s.buf, long[8-size:]...)
	s.offset += int64(size)
	n = binary.BigEndian.Uint64(long[:])
	if major != majorSimple {
		least := []uint64{24, 1 << 8, 1 << 16, 1 << 32}[info-24]
		s.plain = s.plain && n >= least
	}
	return major, info, n, nil
}

// count reads the head of a map or an array and gives how many entries it has.
func (s *scanner) count(major byte, what string) (uint64, error) {
	s.buf = s.buf[:0]
	m, _, n, err := s.head()
	if err != nil {
		return 0, err
	}
	if m != major {
		return 0, s.fail("not %s", what)
	}
	return n, nil
}

// maxKey bounds the keys of the outer map: ids have at most 255 bytes.
const maxKey = 4096

// key reads a text key.
func (s *scanner) key() (string, error) {
	s.buf = s.buf[:0]
	m, _, n, err := s.head()
	switch {
	case err != nil:
		return "", err
	case m != majorText || n > maxKey:
		return "", s.fail("a key that is not text of at most %d bytes", maxKey)
	}
	start := len(s.buf)
	if err := s.take(n); err != nil {
		return "", err
	}
	return string(s.buf[start:]), nil
}

// take appends n bytes to buf.
func (s *scanner) take(n uint64) error {
	if n > maxElement || len(s.buf)+int(n) > maxElement {
		return s.fail("a value is %v: more than %d bytes", ErrTooLarge, maxElement)
	}
	for n > 0 {
		step := min(n, 64<<10) // a length is not believed before its bytes are there
		at := len(s.buf)
		s.buf = append(s.buf, make([]byte, step)...)
		if _, err := io.ReadFull(s.r, s.buf[at:]); err != nil {
			return s.ended(err)
		}
		s.offset += int64(step)
		n -= step
	}
	return nil
}

// maxValues bounds the parts of one element: a byte of CBOR can become a hundred in memory.
const maxValues = 8 << 20

// value reads one whole data item; the bytes are valid until the next call.
func (s *scanner) value() ([]byte, error) {
	s.buf = s.buf[:0]
	values := 0
	left := []uint64{1} // by depth: how many data items are still to come
	for len(left) > 0 {
		if left[len(left)-1] == 0 {
			left = left[:len(left)-1]
			continue
		}
		left[len(left)-1]--
		if len(s.buf) > maxElement {
			return nil, s.fail("a value is %v: more than %d bytes", ErrTooLarge, maxElement)
		}
		if values++; values > maxValues {
			return nil, s.fail("a value of more than %d parts", maxValues)
		}
		major, info, n, err := s.head()
		if err != nil {
			return nil, err
		}
		switch major {
		case majorArray, majorMap:
			if n > 1<<32 {
				return nil, s.fail("%d entries", n)
			}
			if major == majorMap {
				n *= 2
			}
			if left = append(left, n); len(left) > maxDepth+1 {
				return nil, s.fail("nested deeper than %d", maxDepth)
			}
		default:
			if err := s.scalar(major, info, n); err != nil {
				return nil, err
			}
		}
	}
	return s.buf, nil
}

// scalar takes what follows the head of a data item that has no parts.
func (s *scanner) scalar(major, info byte, n uint64) error {
	switch major {
	case majorUint, majorNegint:
		return nil
	case majorText:
		return s.take(n)
	case majorTag:
		if n != 2 && n != 3 {
			return s.fail("tag %d: only large integers are tagged", n)
		}
		m, _, size, err := s.head()
		if err != nil {
			return err
		}
		if m != majorBytes || size > 4096 {
			return s.fail("a large integer that is none")
		}
		return s.take(size)
	case majorSimple:
		if n >= 20 && n <= 22 && info < 24 || info >= 25 {
			return nil
		}
		return s.fail("a simple value other than false, true and null")
	}
	return s.fail("a byte string")
}

// end says that nothing follows.
func (s *scanner) end() error {
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err != nil {
			return err
		}
		return s.fail("something follows the map")
	}
	return nil
}
