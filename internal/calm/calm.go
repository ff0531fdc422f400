// Package calm reads PostgreSQL's streams without being woken for each message.
package calm

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

const (
	// calmBytes is how much must have come before the kernel wakes us.
	calmBytes = 256 << 10
	// calmFor is how long we let come what comes, calmTries how often.
	calmFor   = time.Millisecond
	calmTries = 3
)

// conn is a connection on which much is read. PostgreSQL sends 8 KiB at a time
// (PQ_SEND_BUFFER_SIZE, src/backend/libpq/pqcomm.c), a walsender each row by
// itself, and a reader that waits is woken each time: more work, for both sides,
// than the bytes themselves. So the kernel is told not to wake us for less than
// calmBytes (SO_RCVLOWAT, socket(7)), and we look by ourselves every calmFor; when
// nothing comes for longer we wait as everybody does, and are woken by one byte.
type conn struct {
	*net.TCPConn
	raw syscall.RawConn
	low int
}

// dial opens a connection, as [net.Dialer.DialContext] does.
type dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial gives a dial whose TCP connections are calm; others are as they are.
// Deadlines work as before; a connection is read by one goroutine.
func Dial(d dial) dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			return c, nil
		}
		raw, err := tcp.SyscallConn()
		if err != nil {
			return c, nil
		}
		return &conn{TCPConn: tcp, raw: raw, low: 1}, nil
	}
}

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	for range calmTries {
		if n, err := c.try(p); n > 0 || err != nil {
			return n, err
		}
		if err := c.wakeAt(calmBytes); err != nil {
			return 0, err
		}
		t := time.NewTimer(calmFor)
		<-t.C
	}
	if err := c.wakeAt(1); err != nil {
		return 0, err
	}
	return c.TCPConn.Read(p)
}

// try reads what is there; 0 when nothing is. A deadline that has passed is an
// error here too.
func (c *conn) try(p []byte) (n int, err error) {
	var failed error
	err = c.raw.Read(func(fd uintptr) bool {
		n, failed = syscall.Read(int(fd), p)
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failed, syscall.EAGAIN), errors.Is(failed, syscall.EINTR):
		return 0, nil
	case failed != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: failed}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *conn) wakeAt(low int) error {
	if c.low == low {
		return nil
	}
	c.low = low
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, low)
	})
	return errors.Join(err, failed)
}
