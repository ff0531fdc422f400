package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/internal/s3server"
)

// first lets the first n requests of a method meet a fault.
func first(n int, method string, do s3server.Do) func(*http.Request) s3server.Do {
	var met atomic.Int64
	return func(r *http.Request) s3server.Do {
		if r.Method == method && met.Add(1) <= int64(n) {
			return do
		}
		return s3server.Do{}
	}
}

// impatient are time-outs under which a server that hangs is soon given up.
func impatient() Timeouts {
	return Timeouts{
		Connect: time.Second, Reply: 500 * time.Millisecond, Idle: 700 * time.Millisecond,
		Total: 3 * time.Second, Rate: 1 << 20, Retry: 2 * time.Second,
	}
}

// createFaults are all ways in which a PUT can go wrong, the request's and the reply's.
var createFaults = []struct {
	name string
	n    int
	do   s3server.Do
	puts int // how many PUTs it takes when nothing was there
}{
	{"412 for nothing", 1, s3server.Do{Fault: s3server.Refuse, Status: 412, Code: "PreconditionFailed"}, 2},
	{"409", 2, s3server.Do{Fault: s3server.Refuse, Status: 409, Code: "ConditionalRequestConflict"}, 3},
	{"409 after storing", 1, s3server.Do{Fault: s3server.RefuseAfter, Status: 409, Code: "ConditionalRequestConflict"}, 1},
	{"503", 2, s3server.Do{Fault: s3server.Refuse, Status: 503, Code: "SlowDown"}, 3},
	{"503 after storing", 1, s3server.Do{Fault: s3server.RefuseAfter, Status: 503, Code: "SlowDown"}, 1},
	{"500 after storing", 1, s3server.Do{Fault: s3server.RefuseAfter, Status: 500, Code: "InternalError"}, 1},
	{"damaged on the way", 1, s3server.Do{Fault: s3server.Refuse, Status: 400, Code: "BadDigest"}, 2},
	{"200 with an error in it", 1, s3server.Do{Fault: s3server.ErrorInside}, 2},
	{"lost reply", 1, s3server.Do{Fault: s3server.LostReply}, 1},
	{"reset in the middle of the body", 1, s3server.Do{Fault: s3server.CutRequest}, 2},
	{"sent twice on the way", 1, s3server.Do{Fault: s3server.Twice}, 1},
	{"no reply and no end", 1, s3server.Do{Fault: s3server.Hang}, 2},
}

// Nothing lost, nothing twice: whatever happens to a create, it returns nil and its
// object is there once, or somebody else's was there first and stays as it is.
func TestCreateThroughFaults(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	for _, c := range createFaults {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := proxy(t, srv)
			s := at(t, p.Addr, func(o *Options) { o.Timeouts.Reply, o.Timeouts.Idle = time.Second, 2*time.Second })
			s.askFirst = math.MaxInt // the PUT itself is to fail
			mine, other := pattern(300_000, 1), pattern(300_000, 2)
			p.Plan(first(c.n, http.MethodPut, c.do))
			if err := s.Create(t.Context(), "log/a/1", mine); err != nil {
				t.Fatalf("create: %v (%s)", err, methods(p))
			}
			if p.Count(http.MethodPut) != c.puts {
				t.Errorf("%s, want %d PUTs", methods(p), c.puts)
			}
			p.Plan(first(c.n, http.MethodPut, c.do))
			if err := s.Create(t.Context(), "log/a/1", other); !errors.Is(err, chunkstore.ErrExists) {
				t.Errorf("create where another's object is: %v, want %v", err, chunkstore.ErrExists)
			}
			p.Plan(nil)
			holds(t, s, "log/a/1", mine)
			lists(t, s, "", "log/a/1")
		})
	}
}

func holds(t *testing.T, s *Store, key string, want []byte) {
	t.Helper()
	if got, err := s.Get(t.Context(), key); err != nil || !bytes.Equal(got, want) {
		t.Errorf("get %s: %d bytes, %v; want the %d stored", key, len(got), err, len(want))
	}
}

func lists(t *testing.T, s *Store, prefix string, want ...string) {
	t.Helper()
	var got []string
	err := s.List(t.Context(), prefix, func(i chunkstore.Info) error { got = append(got, i.Key); return nil })
	if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("list %q: %v, %v, want %v", prefix, got, err, want)
	}
}

// Two writers of one number whose replies are lost: one wins, and each knows which.
func TestLostRepliesInARace(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	p := proxy(t, srv)
	s := at(t, p.Addr, nil)
	var n atomic.Int64
	p.Plan(func(r *http.Request) s3server.Do {
		if r.Method == http.MethodPut && n.Add(1)%2 == 1 {
			return s3server.Do{Fault: s3server.LostReply}
		}
		return s3server.Do{}
	})
	for round := range 10 {
		key := fmt.Sprintf("log/race/%d", round)
		won := make(chan byte, 4)
		errs := make(chan error, 4)
		for i := range byte(4) {
			go func() {
				err := s.Create(t.Context(), key, pattern(2000, i))
				if err == nil {
					won <- i
				} else if errors.Is(err, chunkstore.ErrExists) {
					err = nil
				}
				errs <- err
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if len(won) != 1 {
			t.Fatalf("round %d: %d creators were told that they had won", round, len(won))
		}
		holds(t, s, key, pattern(2000, <-won))
	}
}

func TestReadsThroughFaults(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	data := pattern(500_000, 3)
	for _, c := range []struct {
		name string
		do   s3server.Do
	}{
		{"503", s3server.Do{Fault: s3server.Refuse, Status: 503, Code: "SlowDown"}},
		{"200 with an error in it", s3server.Do{Fault: s3server.ErrorInside}},
		{"lost reply", s3server.Do{Fault: s3server.LostReply}},
		{"cut reply", s3server.Do{Fault: s3server.CutReply}},
		{"wrong reply", s3server.Do{Fault: s3server.WrongReply}},
		{"no reply and no end", s3server.Do{Fault: s3server.Hang}},
		{"half a reply and no end", s3server.Do{Fault: s3server.HangReply}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := proxy(t, srv)
			s := at(t, p.Addr, func(o *Options) { o.Timeouts.Reply, o.Timeouts.Idle = time.Second, time.Second })
			var keys []string
			for i := range 5 {
				keys = append(keys, fmt.Sprintf("chunk/%d", i))
				if err := s.Create(t.Context(), keys[i], data); err != nil {
					t.Fatal(err)
				}
			}
			p.Plan(first(1, http.MethodGet, c.do))
			holds(t, s, "chunk/0", data)
			p.Plan(first(1, http.MethodHead, c.do))
			if info, err := s.Stat(t.Context(), "chunk/1"); err != nil || info.Size != int64(len(data)) {
				t.Errorf("stat: %+v, %v", info, err)
			}
			if c.do.Fault != s3server.WrongReply { // a listing has no checksum; names are verified where they are used
				s.page = 2
				p.Plan(first(2, http.MethodGet, c.do))
				lists(t, s, "chunk/", keys...)
			}
			p.Plan(first(1, http.MethodDelete, c.do))
			if err := s.Remove(t.Context(), "chunk/4"); err != nil {
				t.Errorf("remove: %v", err)
			}
			p.Plan(nil)
			lists(t, s, "", keys[:4]...)
		})
	}
}

// What was cut off is fetched from there on, of the same object only.
func TestGetGoesOn(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	p := proxy(t, srv)
	s := at(t, p.Addr, nil)
	old, fresh := pattern(400_000, 1), pattern(300_000, 2)
	if err := s.Create(t.Context(), "k", old); err != nil {
		t.Fatal(err)
	}
	var asked []string
	cut := first(1, http.MethodGet, s3server.Do{Fault: s3server.CutReply})
	p.Plan(func(r *http.Request) s3server.Do {
		asked = append(asked, r.Header.Get("Range")+" "+r.Header.Get("If-Match"))
		return cut(r)
	})
	holds(t, s, "k", old)
	if len(asked) != 2 || !strings.HasPrefix(asked[1], "bytes=") || len(asked[1]) < 40 {
		t.Errorf("asked for %q, want a range of the same ETag second", asked)
	}
	direct := at(t, srv.Addr, func(o *Options) { o.Location.Prefix = s.at.Prefix })
	cut = first(1, http.MethodGet, s3server.Do{Fault: s3server.CutReply})
	p.Plan(func(r *http.Request) s3server.Do {
		do := cut(r)
		if do.Fault == s3server.None && r.Method == http.MethodGet && r.Header.Get("Range") != "" {
			if err := errors.Join(direct.Remove(t.Context(), "k"), direct.Create(t.Context(), "k", fresh)); err != nil {
				t.Error(err)
			}
		}
		return do
	})
	holds(t, s, "k", fresh)
}

func TestDamageIsSaid(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.VersityGW))
	s := at(t, p.Addr, nil)
	if err := s.Create(t.Context(), "k", pattern(1000, 1)); err != nil {
		t.Fatal(err)
	}
	p.Plan(first(100, http.MethodGet, s3server.Do{Fault: s3server.WrongReply}))
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, chunkstore.ErrDamaged) || p.Count(http.MethodGet) != 2 {
		t.Errorf("get: %v after %s; want %v after two", err, methods(p), chunkstore.ErrDamaged)
	}
}

// A server that does nothing but fail: no operation lasts longer than the time-outs say.
func TestNothingHangs(t *testing.T) {
	srv := shared.server(t, s3server.VersityGW)
	for _, do := range []s3server.Do{
		{Fault: s3server.Refuse, Status: 503, Code: "SlowDown"},
		{Fault: s3server.Hang},
		{Fault: s3server.LostReply},
		{Fault: s3server.CutRequest},
		{Fault: s3server.HangReply},
		{Fault: s3server.ErrorInside},
	} {
		t.Run(string(do.Fault), func(t *testing.T) {
			t.Parallel()
			p := proxy(t, srv)
			s := at(t, p.Addr, func(o *Options) { o.Timeouts = impatient() })
			if err := s.Create(t.Context(), "there", pattern(100_000, 1)); err != nil {
				t.Fatal(err)
			}
			p.Plan(func(*http.Request) s3server.Do { return do })
			together(t, s, func(t *testing.T, name string, err error) {
				if do.Fault == s3server.HangReply && (name == "stat" || name == "create") { // no body to hang in
					return
				}
				if !errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v, want %v", name, err, ErrUnavailable)
				}
			})
		})
	}
}

// together runs all operations at once, and looks at how long each took and what check
// says of its error.
func together(t *testing.T, s *Store, check func(t *testing.T, name string, err error)) {
	t.Helper()
	most := s.timeouts.Retry + 2*s.timeouts.Total + 30*time.Second // 30: other tests run too
	var wg sync.WaitGroup
	for name, op := range operations(s) {
		wg.Go(func() {
			began := time.Now()
			err := op(t.Context())
			if took := time.Since(began); took > most {
				t.Errorf("%s took %v, at most %v", name, took, most)
			}
			check(t, name, err)
		})
	}
	wg.Wait()
}

func operations(s *Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"create": func(ctx context.Context) error { return s.Create(ctx, "new", pattern(100_000, 2)) },
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "there"); return err },
		"stat":   func(ctx context.Context) error { _, err := s.Stat(ctx, "there"); return err },
		"list":   func(ctx context.Context) error { return s.List(ctx, "", func(chunkstore.Info) error { return nil }) },
	}
}

// A peer that accepts and then says and reads nothing, one that sends a byte now and
// then for ever, and one that is not there.
func TestHalfOpenAndSlow(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	slow := &http.Server{Handler: http.HandlerFunc(trickle)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = slow.Serve(l) }()
	t.Cleanup(func() { slow.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for name, addr := range map[string]string{"silent": silent.Addr().String(), "slow": l.Addr().String(), "gone": gone.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := at(t, addr, func(o *Options) { o.Timeouts = impatient() })
			together(t, s, func(t *testing.T, op string, err error) {
				if !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s: %v, want %v", op, err, ErrUnavailable)
				}
			})
		})
	}
}

// trickle answers with a byte every 50 ms, of an object or a listing that has no end.
func trickle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"abc"`)
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("Content-Length", "100000")
	if r.Method == http.MethodHead {
		<-r.Context().Done()
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := w.Write([]byte("<"))
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		if err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

func TestWhoeverCancelsIsHeard(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.VersityGW))
	s := at(t, p.Addr, nil)
	for name, op := range operations(s) {
		ctx, cancel := context.WithCancel(t.Context())
		p.Plan(func(*http.Request) s3server.Do {
			cancel()
			return s3server.Do{Fault: s3server.Hang}
		})
		began := time.Now()
		if err := op(ctx); !errors.Is(err, context.Canceled) || time.Since(began) > 20*time.Second { // a reply is waited for longer
			t.Errorf("%s: %v after %v, want %v at once", name, err, time.Since(began), context.Canceled)
		}
	}
}

// A clear word is not asked for again.
func TestRefusals(t *testing.T) {
	p := proxy(t, shared.server(t, s3server.VersityGW))
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{403, "AccessDenied", ErrDenied},
		{403, "SignatureDoesNotMatch", ErrDenied},
		{404, "NoSuchBucket", ErrNoBucket},
		{400, "InvalidArgument", nil},
		{409, "ObjectParentIsFile", nil},
		{501, "NotImplemented", nil},
	} {
		p.Plan(func(*http.Request) s3server.Do {
			return s3server.Do{Fault: s3server.Refuse, Status: c.status, Code: c.code}
		})
		err := at(t, p.Addr, nil).Create(t.Context(), "k", []byte("x"))
		if err == nil || c.want != nil && !errors.Is(err, c.want) || errors.Is(err, ErrUnavailable) || errors.Is(err, chunkstore.ErrExists) {
			t.Errorf("%d %s: %v, want %v", c.status, c.code, err, c.want)
		}
		if p.Count(http.MethodPut) != 1 || p.Count(http.MethodHead) != 0 {
			t.Errorf("%d %s: %s, want one PUT", c.status, c.code, methods(p))
		}
		if c.want != ErrNoBucket && !strings.Contains(fmt.Sprint(err), c.code) {
			t.Errorf("%d %s is not said: %v", c.status, c.code, err)
		}
	}
}
