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
// calmBytes (SO_RCVLOWAT, socket(7); TCP alone knows it), and we look by ourselves
// every calmFor; when nothing comes for longer we wait as everybody does, and are
// woken by one byte.
type conn struct {
	net.Conn
	raw  syscall.RawConn
	low  int // 0: the kernel cannot be told
	rest time.Duration
}

// dial opens a connection, as [net.Dialer.DialContext] does.
type dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial gives a dial whose TCP and Unix connections are calm; others are as they
// are. Deadlines work as before; a connection is read by one goroutine.
func Dial(d dial) dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		out := &conn{Conn: c}
		switch c.(type) {
		case *net.TCPConn:
			out.low = 1
		case *net.UnixConn:
		default:
			return c, nil
		}
		if out.raw, err = c.(syscall.Conn).SyscallConn(); err != nil {
			return c, nil
		}
		return out, nil
	}
}

// Rest lets a connection of [Dial] rest for d whenever all that had come was read,
// before it looks again; 0 ends that. A busy peer then wakes its reader a few times
// a second and not for each thing that it sends, and when the buffers are full it
// has a rest as well. Only who reads may call it. It looks through TLS, and does
// nothing to other connections.
func Rest(c net.Conn, d time.Duration) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*conn); ok {
		c.rest = d
	}
}

// Read implements io.Reader.
func (c *conn) Read(p []byte) (int, error) {
	tries, pause := calmTries, calmFor
	if c.rest > 0 {
		tries, pause = 2, c.rest
	}
	for i := range tries {
		if n, err := c.try(p); n > 0 || err != nil {
			return n, err
		}
		if err := c.wakeAt(calmBytes); err != nil {
			return 0, err
		}
		if c.rest > 0 && i == tries-1 {
			break
		}
		t := time.NewTimer(pause)
		<-t.C
	}
	if err := c.wakeAt(1); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
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
		return 0, &net.OpError{Op: "read", Net: c.RemoteAddr().Network(), Addr: c.RemoteAddr(), Err: failed}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *conn) wakeAt(low int) error {
	if c.low == low || c.low == 0 {
		return nil
	}
	c.low = low
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, low)
	})
	return errors.Join(err, failed)
}
