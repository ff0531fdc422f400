package s3server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Fault is how the line treats one request.
type Fault string

// The faults.
const (
	// None: the request passes.
	None Fault = ""
	// Refuse: an error of the given status, nothing reaches the server.
	Refuse Fault = "refuse"
	// RefuseAfter: the server does it, and the client gets the error.
	RefuseAfter Fault = "refuse after"
	// ErrorInside: the server does nothing, the client gets 200 with an S3 error in the body.
	ErrorInside Fault = "200 with an error"
	// LostReply: the server does it, the connection ends without a reply.
	LostReply Fault = "lost reply"
	// CutRequest: half of the body reaches the server, then both connections are reset.
	CutRequest Fault = "cut request"
	// CutReply: half of the reply's body reaches the client, then a reset.
	CutReply Fault = "cut reply"
	// WrongReply: one bit of the reply's body is wrong.
	WrongReply Fault = "wrong reply"
	// Hang: nothing reaches the server, no reply comes, the connection stays.
	Hang Fault = "hang"
	// HangReply: the reply stops in the middle of its body, the connection stays.
	HangReply Fault = "hang reply"
	// Twice: the request is sent twice, the client gets the second reply.
	Twice Fault = "twice"
)

// Do is a fault and what belongs to it.
type Do struct {
	Fault  Fault
	Status int    // Refuse, RefuseAfter
	Code   string // S3's error code for them
}

// Proxy passes HTTP requests on to a server and treats some of them badly. Signatures
// survive, because the client's Host header is kept.
type Proxy struct {
	// Addr is host:port.
	Addr string

	listener net.Listener
	to       *url.URL
	passOn   *http.Transport
	stop     chan struct{}

	mu    sync.Mutex
	plan  func(*http.Request) Do
	count map[string]int // requests by method
	delay time.Duration  // per request
}

// NewProxy starts one in front of a server.
func NewProxy(addr string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		Addr: l.Addr().String(), listener: l, to: &url.URL{Scheme: "http", Host: addr},
		passOn: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}, stop: make(chan struct{}), count: map[string]int{},
	}
	srv := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go func() {
		_ = srv.Serve(l)
	}()
	go func() {
		<-p.stop
		_ = srv.Close()
	}()
	return p, nil
}

// Close ends it and all its connections.
func (p *Proxy) Close() {
	close(p.stop)
	p.passOn.CloseIdleConnections()
}

// Plan asks f about each request from here on; nil lets all pass.
func (p *Proxy) Plan(f func(*http.Request) Do) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan, p.count = f, map[string]int{}
}

// Delay holds each request that long before it is passed on.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Count is how many requests of a method came since Plan.
func (p *Proxy) Count(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[method]
}

func (p *Proxy) next(r *http.Request) (Do, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count[r.Method]++
	if p.plan == nil {
		return Do{}, p.delay
	}
	return p.plan(r), p.delay
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	do, delay := p.next(r)
	if !p.rest(r.Context(), delay) {
		return
	}
	switch do.Fault {
	case None:
		proxy := httputil.ReverseProxy{Transport: p.passOn, Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = p.to.Scheme, p.to.Host, pr.In.Host
		}}
		proxy.ServeHTTP(w, r)
	case Refuse:
		_, _ = io.Copy(io.Discard, r.Body)
		refuse(w, do)
	case ErrorInside:
		_, _ = io.Copy(io.Discard, r.Body)
		refuse(w, Do{Status: http.StatusOK, Code: "InternalError"})
	case Hang:
		p.rest(r.Context(), time.Hour)
		reset(w)
	case CutRequest:
		_, _ = p.forward(r, true)
		reset(w)
	default:
		p.after(w, r, do)
	}
}

// after is the faults that come when the server has done its part.
func (p *Proxy) after(w http.ResponseWriter, r *http.Request, do Do) {
	resp, err := p.forward(r, false)
	if err == nil && do.Fault == Twice {
		resp, err = p.forward(r, false)
	}
	if err != nil || do.Fault == LostReply {
		reset(w)
		return
	}
	if do.Fault == RefuseAfter {
		refuse(w, do)
		return
	}
	data := resp.body
	if do.Fault == WrongReply && len(data) > 0 {
		data[len(data)/2] ^= 1
	}
	for k, v := range resp.head {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.status)
	if do.Fault == CutReply || do.Fault == HangReply {
		_, _ = w.Write(data[:len(data)/2])
		_ = http.NewResponseController(w).Flush()
		if do.Fault == HangReply {
			p.rest(r.Context(), time.Hour)
		}
		reset(w)
		return
	}
	_, _ = w.Write(data)
}

// reply is a whole one.
type reply struct {
	status int
	head   http.Header
	body   []byte
}

// forward sends the request, or its first half, and reads the whole reply. It may be
// called twice.
func (p *Proxy) forward(r *http.Request, half bool) (*reply, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	var body io.Reader = bytes.NewReader(data)
	if half {
		body = io.MultiReader(bytes.NewReader(data[:len(data)/2]), broken{})
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.to.String()+r.URL.RequestURI(), body)
	if err != nil {
		return nil, err
	}
	out.Header, out.Host, out.ContentLength = r.Header.Clone(), r.Host, r.ContentLength
	resp, err := p.passOn.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return &reply{resp.StatusCode, resp.Header, got}, err
}

// broken is where a request's body ends too early.
type broken struct{}

var errBroken = errors.New("the line broke")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func refuse(w http.ResponseWriter, do Do) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(do.Status)
	fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>made by the test's proxy</Message></Error>", do.Code)
}

// reset ends the client's connection without another word.
func reset(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the reply has begun: the server closes
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// rest waits, unless the client or the proxy ends.
func (p *Proxy) rest(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-p.stop:
	}
	return false
}
