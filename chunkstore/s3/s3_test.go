package s3

import (
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/s3server"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]Location{
		"s3://s3.example.net/backups/matrix":       {Endpoint: "s3.example.net", Bucket: "backups", Prefix: "matrix"},
		"s3://s3.example.net:9000/backups":         {Endpoint: "s3.example.net:9000", Bucket: "backups"},
		"s3://s3.example.net/backups/a/b/":         {Endpoint: "s3.example.net", Bucket: "backups", Prefix: "a/b"},
		"s3+http://127.0.0.1:9000/backups/matrix":  {Endpoint: "127.0.0.1:9000", Plain: true, Bucket: "backups", Prefix: "matrix"},
		"s3+http://[::1]:9000/backups":             {Endpoint: "[::1]:9000", Plain: true, Bucket: "backups"},
		"s3://s3.eu-central-1.amazonaws.com/b.c-d": {Endpoint: "s3.eu-central-1.amazonaws.com", Bucket: "b.c-d"},
	} {
		l, err := ParseURL(in)
		if err != nil || l != want {
			t.Errorf("%s: %+v, %v; want %+v", in, l, err, want)
		}
		if again, err := ParseURL(l.String()); err != nil || again != l {
			t.Errorf("%s printed as %s, which reads as %+v, %v", in, l, again, err)
		}
	}
	for _, in := range []string{
		"", "s3://", "s3:///bucket", "s3://host", "s3://host/", "s3://host/ab", "s3://host/b_*_d", "s3://host/bucket/a//b", "s3://host/bucket/.a",
		"s3+http://s3.example.net/backups", "s3+http://10.0.0.1/backups", "http://127.0.0.1/backups", "s3://host/bucket?x=y", "s3://host/bucket#x",
		"s3://KEY:SECRETSECRET@host/bucket", "s3://KEY:SECRETSECRET@ho st/bucket", "s3://host/bucket/ä",
	} {
		_, err := ParseURL(in)
		if !errors.Is(err, ErrURL) {
			t.Errorf("%s: %v, want %v", in, err, ErrURL)
		}
		if strings.Contains(fmt.Sprint(err), "SECRETSECRET") {
			t.Errorf("the error prints the secret: %v", err)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	const text = "hunter2hunter2"
	l, err := ParseURL("s3+http://127.0.0.1:1/backups")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Location: l, AccessKey: "id", SecretKey: text, SessionToken: text}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "o", o, "s", o.SecretKey)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", o, o, o, o.SecretKey, o.SecretKey, o.SecretKey), log.String()} {
		if strings.Contains(s, text) || strings.Contains(s, fmt.Sprintf("%x", text)) {
			t.Errorf("printed: %s", s)
		}
	}
	if _, err := Open(Options{Location: l}); !errors.Is(err, ErrNoKey) {
		t.Errorf("open without keys: %v, want %v", err, ErrNoKey)
	}
}

// A server behind TLS with a certificate of its own.
func TestCA(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	to := &url.URL{Scheme: "http", Host: srv.Addr}
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}})
	defer front.Close()
	secure := func(ca []byte) *Store {
		return at(t, front.Listener.Addr().String(), func(o *Options) { o.Location.Plain, o.CA = false, ca })
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	s := secure(ca)
	data := pattern(3<<20, 1)
	if err := s.Create(t.Context(), "k", data); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "k", data)
	lists(t, s, "", "k")
	began := time.Now()
	if err := secure(nil).Create(t.Context(), "k", data); err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") || time.Since(began) > 30*time.Second {
		t.Errorf("create at a server whose certificate nobody knows: %v after %v", err, time.Since(began))
	}
	if _, err := Open(Options{Location: s.at, AccessKey: "a", SecretKey: "b", CA: []byte("no PEM")}); err == nil {
		t.Error("a CA file without a certificate was taken")
	}
}

func TestUploadLimit(t *testing.T) {
	srv := shared.server(t, s3server.GoFakeS3)
	s := at(t, srv.Addr, func(o *Options) { o.UploadLimit = 512 << 10 })
	began := time.Now()
	errs := make(chan error)
	for i := range 4 {
		go func() { errs <- s.Create(t.Context(), fmt.Sprintf("k%d", i), pattern(100<<10, byte(i))) }()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	// 400 KiB, the first piece of 32 KiB at once.
	if took, least := time.Since(began), 700*time.Millisecond; took < least {
		t.Errorf("400 KiB took %v at 512 KiB a second, want %v at least", took, least)
	}
}

// What is there already is not sent again.
func TestLargeObjectsAreAskedForFirst(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.VersityGW))
	s := at(t, p.Addr, nil)
	for size, heads := range map[int]int{1000: 0, 1 << 20: 1} {
		key := fmt.Sprintf("k%d", size)
		p.Plan(nil)
		if err := s.Create(t.Context(), key, pattern(size, 1)); err != nil || p.Count(http.MethodHead) != heads || p.Count(http.MethodPut) != 1 {
			t.Errorf("create %d bytes: %v, %s; want %d HEAD", size, err, methods(p), heads)
		}
		p.Plan(nil)
		if err := s.Create(t.Context(), key, pattern(size, 1)); !errors.Is(err, chunkstore.ErrExists) || p.Count(http.MethodPut) != 1-heads {
			t.Errorf("create %d bytes again: %v, %s", size, err, methods(p))
		}
	}
}

// A repository whose owner promised to be alone, on a server that knows no conditions.
func TestSingleWriter(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.VersityGW))
	p.Plan(func(r *http.Request) s3server.Do {
		if r.Header.Get("If-None-Match") != "" {
			return s3server.Do{Fault: s3server.Refuse, Status: 501, Code: "NotImplemented"}
		}
		return s3server.Do{}
	})
	s := at(t, p.Addr, nil)
	if err := s.Create(t.Context(), "k", []byte("a")); err == nil {
		t.Fatal("the proxy lets conditions pass")
	}
	if checks, err := chunkstore.Probe(t.Context(), s); err != nil || !errors.Is(chunkstore.Unsafe(checks), chunkstore.ErrUnsafe) {
		t.Errorf("probe: %v, %v, want %v", checks, err, chunkstore.ErrUnsafe)
	}
	one := s.SingleWriter()
	if err := one.Create(t.Context(), "k", []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := one.Create(t.Context(), "k", []byte("b")); !errors.Is(err, chunkstore.ErrExists) {
		t.Errorf("create again: %v, want %v", err, chunkstore.ErrExists)
	}
	holds(t, one, "k", []byte("a"))
}

// Objects that another program copied into the bucket carry no checksum of ours, and
// what somebody else keeps there is not seen.
func TestForeignObjects(t *testing.T) {
	s := at(t, shared.server(t, s3server.VersityGW).Addr, nil)
	w := newWrite(s.full("copied"), pattern(1000, 1), true)
	w.opts.UserMetadata = nil
	if err := s.put(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{s.full("with space"), s.full("folder/"), s.full(".hidden"), "elsewhere"} {
		if err := s.put(t.Context(), newWrite(name, nil, true)); err != nil && name != "elsewhere" {
			t.Fatal(err)
		}
	}
	holds(t, s, "copied", pattern(1000, 1))
	lists(t, s, "", "copied")
}
