package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/internal/s3server"
	"lifeboat.im/lifeboat/internal/testpg"
)

// lab holds the servers of this package's tests, started when first needed.
type lab struct {
	mu      sync.Mutex
	dir     string
	servers map[s3server.Kind]*s3server.Server
	serial  atomic.Int64
}

var shared = &lab{servers: map[s3server.Kind]*s3server.Server{}}

func TestMain(m *testing.M) { os.Exit(shared.run(m)) }

func (l *lab) run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lifeboat-s3-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l.dir = dir
	defer os.RemoveAll(dir)
	code := m.Run()
	for _, s := range l.servers {
		s.Stop()
	}
	return code
}

// server gives the one of that kind; the test is skipped when it is not installed.
func (l *lab) server(t *testing.T, kind s3server.Kind) *s3server.Server {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.servers[kind]; s != nil {
		return s
	}
	dir, err := os.MkdirTemp(l.dir, string(kind))
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3server.Start(context.WithoutCancel(t.Context()), "../..", kind, dir)
	testpg.Need(t, string(kind), !errors.Is(err, s3server.ErrMissing), "tools")
	if err != nil {
		t.Fatal(err)
	}
	l.servers[kind] = s
	return s
}

// quick are time-outs for tests: everything is near.
func quick() Timeouts {
	return Timeouts{
		Connect: 5 * time.Second, Reply: 20 * time.Second, Idle: 20 * time.Second,
		Total: 30 * time.Second, Rate: 1 << 20, Retry: 20 * time.Second,
	}
}

// at opens an empty place at an address.
func at(t *testing.T, addr string, change func(*Options)) *Store {
	t.Helper()
	l, err := ParseURL(s3server.URL(addr, fmt.Sprintf("t%d/deep", shared.serial.Add(1))))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Location: l, AccessKey: s3server.AccessKey, SecretKey: s3server.SecretKey, Timeouts: quick(),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func both(t *testing.T, f func(t *testing.T, srv *s3server.Server)) {
	for _, kind := range []s3server.Kind{s3server.VersityGW, s3server.GoFakeS3} {
		t.Run(string(kind), func(t *testing.T) { f(t, shared.server(t, kind)) })
	}
}

func TestConformance(t *testing.T) {
	both(t, func(t *testing.T, srv *s3server.Server) {
		storetest.Conformance(t, func(t *testing.T) chunkstore.Backend { return at(t, srv.Addr, nil) })
	})
}

func TestProbe(t *testing.T) {
	both(t, func(t *testing.T, srv *s3server.Server) {
		s := at(t, srv.Addr, nil)
		checks, err := chunkstore.Probe(t.Context(), s)
		if err != nil || chunkstore.Unsafe(checks) != nil {
			t.Errorf("probe: %v, %v", checks, err)
		}
		if !slices.ContainsFunc(checks, func(c chunkstore.Check) bool { return c.Name == "range" }) {
			t.Errorf("probe: %v, want ranges to be tried", checks)
		}
	})
}

// A server whose ranges are other bytes.
func TestProbeCatchesWrongRanges(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.GoFakeS3))
	p.Plan(func(r *http.Request) s3server.Do {
		if r.Header.Get("Range") != "" {
			r.Header.Set("Range", "bytes=1-")
		}
		return s3server.Do{}
	})
	checks, err := chunkstore.Probe(t.Context(), at(t, p.Addr, nil))
	if err == nil && chunkstore.Unsafe(checks) == nil {
		t.Errorf("probe: %v, want a complaint", checks)
	}
}

// A server that does not look at If-None-Match: what stands between takes it away.
func TestProbeCatchesAServerThatIgnoresTheHeader(t *testing.T) {
	// The header is signed, so this one must not look at signatures.
	p := proxy(t, shared.server(t, s3server.GoFakeS3))
	p.Plan(func(r *http.Request) s3server.Do {
		r.Header.Del("If-None-Match")
		return s3server.Do{}
	})
	s := at(t, p.Addr, nil)
	checks, err := chunkstore.Probe(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := chunkstore.Unsafe(checks); !errors.Is(err, chunkstore.ErrUnsafe) {
		t.Errorf("probe: %v, want %v", checks, chunkstore.ErrUnsafe)
	}
}

func proxy(t *testing.T, srv *s3server.Server) *s3server.Proxy {
	t.Helper()
	p, err := s3server.NewProxy(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func pattern(n int, seed byte) []byte {
	b := bytes.Repeat([]byte{seed, 1, 2, 3, 5, 7, 11}, n/7+1)[:n]
	return b
}

// methods lists requests in words for errors.
func methods(p *s3server.Proxy) string {
	var b strings.Builder
	for _, m := range []string{http.MethodPut, http.MethodGet, http.MethodHead, http.MethodDelete} {
		fmt.Fprintf(&b, "%d %s ", p.Count(m), m)
	}
	return b.String()
}
