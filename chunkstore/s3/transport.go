package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// errReply is a reply that says "done" and shows that nothing is known to be done.
var errReply = errors.New("the server's reply is no answer")

// transport carries requests, and looks at the replies that the library takes for
// success.
type transport struct{ base *http.Transport }

func newTransport(t Timeouts, ca []byte) (*transport, error) {
	dial := (&net.Dialer{Timeout: t.Connect}).DialContext
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &conn{Conn: c, idle: t.Idle, now: time.Now}, nil
		},
		TLSHandshakeTimeout:   t.Connect,
		ResponseHeaderTimeout: t.Reply,
		IdleConnTimeout:       t.Idle / 2, // sooner than conn ends it, and than a server does
		MaxIdleConnsPerHost:   32,
		DisableCompression:    true, // bytes as they are stored
	}
	base.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, errors.New("the CA file holds no certificate in PEM form")
		}
		base.TLSClientConfig.RootCAs = pool
	}
	return &transport{base: base}, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return resp, err
	}
	switch req.Method {
	case http.MethodPut:
		if err := checkPut(resp); err != nil {
			return nil, err
		}
	case http.MethodGet:
		if req.URL.Query().Has("list-type") {
			err = checkList(resp)
		} else if resp.Header.Get("ETag") == "" { // objects always have one (S3 API, GetObject)
			err = fmt.Errorf("%w: an object without an ETag", errReply)
		}
		if err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp, nil
}

// checkPut reads the whole reply to a PUT: S3 says 200 before it is done for some
// requests and puts an error into the body then, and what stands between may say 200 to
// everything.
func checkPut(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	switch {
	case err != nil:
		return err
	case bytes.Contains(body, []byte("<Error>")):
		return fmt.Errorf("%w: 200 with an error in it: %.300s", errReply, body)
	case resp.Header.Get("ETag") == "":
		return fmt.Errorf("%w: 200 without an ETag", errReply)
	}
	resp.Body = http.NoBody
	return nil
}

// maxListing bounds the reply to one List request, in bytes: 1,000 keys of at most 1,024
// bytes, each three times as long in its URL encoding, and what S3 says of them.
const maxListing = 8 << 20

// checkList reads a listing to its end. The library would take half of one, or an error
// where a listing should be, for a listing without objects.
func checkList(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxListing))
	if err != nil {
		return err
	}
	if !bytes.Contains(body, []byte("<ListBucketResult")) || !bytes.HasSuffix(bytes.TrimSpace(body), []byte("</ListBucketResult>")) {
		return fmt.Errorf("%w: no listing, or not all of it: %.300s", errReply, body)
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// conn ends when nothing moves for idle, in either direction: a peer that is gone, or
// holds the line without a word.
type conn struct {
	net.Conn
	idle time.Duration
	now  func() time.Time
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	if err := c.moved(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements [net.Conn]. Each piece that the kernel takes counts, for reading too:
// the reader waits for the reply while a slow upload goes on.
func (c *conn) Write(p []byte) (n int, err error) {
	for first := true; err == nil && (first || len(p) > 0); first = false {
		if err = c.moved(); err != nil {
			return n, err
		}
		var m int
		m, err = c.Conn.Write(p[:min(len(p), 64<<10)])
		n, p = n+m, p[m:]
	}
	return n, err
}

func (c *conn) moved() error { return c.SetDeadline(c.now().Add(c.idle)) }
