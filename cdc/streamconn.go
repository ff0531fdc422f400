package cdc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.im/lifeboat/internal/calm"
)

// streamPins differ from the pins of other sessions: a walsender waits as long as
// we make it wait. The server's TCP user timeout would end a stream whose reader
// is slower than the source (a closed window counts); wal_sender_timeout is what
// tells it of our death.
func streamPins() map[string]string {
	return map[string]string{
		"lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "tcp_user_timeout": "0",
	}
}

// streamChecks are read back before streaming, beside those of session.verify.
func streamChecks(version int, encoding string) map[string]string {
	m := map[string]string{
		"client_encoding": encoding, // equal to the server's: no conversion, which could fail for ever
		"lock_timeout":    "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0",
		"statement_timeout": "0", "standard_conforming_strings": "on",
	}
	if version >= 170000 {
		m["transaction_timeout"] = "0"
	}
	return m
}

// clientOnly are the encodings that no database can have and whose bytes are not
// ASCII-safe (documentation, "Supported Character Sets").
func clientOnly(encoding string) bool {
	return slices.Contains([]string{"BIG5", "GB18030", "GBK", "JOHAB", "SJIS", "SHIFT_JIS_2004", "UHC"}, encoding)
}

// readBuffer is what one read of the socket can bring.
const readBuffer = 1 << 20

// meter watches what is read from the server.
type meter struct {
	r       io.Reader
	bytes   atomic.Int64
	waiting atomic.Bool // a read is under way: silence is the server's
}

func (m *meter) Read(p []byte) (int, error) {
	m.waiting.Store(true)
	n, err := m.r.Read(p)
	m.waiting.Store(false)
	m.bytes.Add(int64(n))
	return n, err
}

// openStream opens the session of a stream and sees to its settings; timeout is
// wal_sender_timeout.
func (s *Source) openStream(ctx context.Context) (c *session, m *meter, timeout time.Duration, err error) {
	if clientOnly(s.encoding) {
		return nil, nil, 0, fmt.Errorf("open stream: the database's encoding %s is not ASCII-safe", s.encoding)
	}
	c, err = s.open(ctx, "stream", sessionOptions{Replication: true, Raw: true, Configure: func(cfg *pgconn.Config) {
		maps.Copy(cfg.RuntimeParams, streamPins())
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
		}}
		cfg.DialFunc = calm.Dial(d.DialContext)
		cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
			m = &meter{r: r}
			return pgproto3.NewFrontend(bufio.NewReaderSize(m, readBuffer), w)
		}
	}})
	if err != nil {
		return nil, nil, 0, err
	}
	if timeout, err = s.checkStream(ctx, c); err != nil {
		c.shut()
		return nil, nil, 0, fmt.Errorf("open stream: %w", err)
	}
	return c, m, timeout, nil
}

// checkStream reads the settings back over the walsender itself: a pooler, or a
// later ALTER ROLE, may have its own idea of them.
func (s *Source) checkStream(ctx context.Context, c *session) (time.Duration, error) {
	if err := c.verify(ctx); err != nil {
		return 0, err
	}
	checks := streamChecks(s.version, s.encoding)
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		have, err := c.show(ctx, name)
		if err != nil {
			return 0, err
		}
		if have != checks[name] {
			return 0, fmt.Errorf("setting %s is %q, want %q", name, have, checks[name])
		}
	}
	have, err := c.show(ctx, "wal_sender_timeout")
	if err != nil {
		return 0, err
	}
	return parseDuration(have)
}

// show reads one setting; it works in a walsender too.
func (c *session) show(ctx context.Context, name string) (string, error) {
	rows, err := c.simple(ctx, "SHOW "+name)
	if err != nil {
		return "", fmt.Errorf("show %s: %w", name, err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("show %s: no answer", name)
	}
	return string(rows[0][0]), nil
}

// parseDuration reads a time as SHOW prints it: "0", "90s", "1min", "500ms", "2h", "1d".
func parseDuration(s string) (time.Duration, error) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, err := strconv.ParseInt(s[:i], 10, 32)
	unit, ok := map[string]time.Duration{
		"": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[s[i:]]
	if err != nil || !ok {
		return 0, fmt.Errorf("read the time %q", s)
	}
	return time.Duration(n) * unit, nil
}
