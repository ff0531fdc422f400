package cdc

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// TestStreamOutlivesASlowHandler: neither a slow start of Run nor a handler that
// stands still for several wal_sender_timeouts loses the stream, and all rows come.
func TestStreamOutlivesASlowHandler(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "ALTER DATABASE "+d.Name+" SET wal_sender_timeout = '1500ms'", "CREATE TABLE t (i int, s text)")
	d.Exec(t, "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g") // more than sockets hold
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(4 * time.Second)
	h, first := &tape{}, true
	h.hold = func() {
		if first {
			first = false
			<-time.After(4 * time.Second)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- st.Run(ctx, h) }()
	wait(t, "the transaction", func() bool { return len(h.all()) == 1 })
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(h.all()[0].rows); n != 20000 {
		t.Errorf("%d rows", n)
	}
}

// failing is a Handler that fails at the first row.
type failing struct{ tape }

var errHandler = errors.New("the handler's own error")

func (*failing) Row(uint32, record.Op, *Row) error { return errHandler }

// TestRunEnds: an error of the handler ends Run, and so does a context that is
// done while the server has much to send.
func TestRunEnds(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "CREATE TABLE t (i int, s text)")
	d.Exec(t, "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) g")
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Run(t.Context(), &failing{}); !errors.Is(err, errHandler) {
		t.Error(err)
	}
	if st, err = s.Stream(t.Context(), StreamOptions{Wait: -1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &tape{hold: cancel}
	begin := time.Now()
	if err := st.Run(ctx, h); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(begin); took > time.Minute { // it waits for nobody longer than two seconds
		t.Errorf("ending took %s", took)
	}
	st.Close()
}

// TestSilentServer: a walsender that stands still is noticed.
func TestSilentServer(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "ALTER DATABASE "+d.Name+" SET wal_sender_timeout = '4s'")
	st, err := s.Stream(t.Context(), StreamOptions{Silence: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	pid := int(st.conn.PID())
	end := make(chan error, 1)
	go func() { end <- st.Run(t.Context(), &tape{}) }()
	// While it lives it answers when asked, for longer than Silence.
	select {
	case err := <-end:
		t.Fatal(err)
	case <-time.After(5 * time.Second):
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	select {
	case err := <-end:
		if !errors.Is(err, ErrSilent) {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("not noticed")
	}
}

// TestMissingPublication: a publication that is not there is a fatal error on
// every version; PostgreSQL 18 only warns and leaves the rows out.
func TestMissingPublication(t *testing.T) {
	for _, major := range []int{15, 18} {
		d := testpg.Shared(t, major).Database(t)
		s := ready(t, d, "CREATE TABLE t (i int)")
		d.Exec(t, "DROP PUBLICATION "+ident(odd), "INSERT INTO t VALUES (1)")
		st, err := s.Stream(t.Context(), StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		end := make(chan error, 1)
		go func() { end <- st.Run(t.Context(), &tape{}) }()
		select {
		case err := <-end:
			if !errors.Is(err, ErrPublicationMissing) {
				t.Errorf("%d: %v", major, err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%d: not noticed", major)
		}
	}
}

// TestServerCanShutDown: a server that shuts down waits until all it has sent is
// confirmed. Asked says when, and a user who heeds it lets the server go.
func TestServerCanShutDown(t *testing.T) {
	c := testpg.Start(t, 18, nil)
	d := c.Database(t)
	s := ready(t, d, "CREATE TABLE t (i int)")
	h := &obedient{}
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.st = st
	d.Exec(t, "INSERT INTO t VALUES (1)", "CHECKPOINT")
	end := make(chan error, 1)
	go func() { end <- st.Run(t.Context(), h) }()
	wait(t, "the transaction", func() bool { return len(h.all()) == 1 })
	c.Stop(t)
	if strings.Contains(c.Log(100), "immediate shutdown") { // what Stop asks for when it has waited too long
		t.Error("the server did not end by itself")
	}
	if err := <-end; err == nil || errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if h.asked == 0 {
		t.Error("the server did not ask")
	}
	c.Restart(t, "fast") // clean-up needs it
}

// obedient confirms when it is asked to, and only then.
type obedient struct {
	tape
	asked int
}

func (h *obedient) Idle(l record.LSN) error {
	if h.st.Asked() {
		h.asked++
		h.st.Confirm(l)
	}
	return h.tape.Idle(l)
}

// TestHugeValue: a value of 200 MB, 400 MB in hex, passes, and nothing of its size
// stays.
func TestHugeValue(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "CREATE TABLE h (i int, b bytea)")
	d.Exec(t, "INSERT INTO h VALUES (1, decode(repeat('ab', 200000000), 'hex'))", "INSERT INTO h VALUES (2, 'x')")
	h := &sizes{}
	st, stop := play(t, s, h, StreamOptions{})
	wait(t, "both rows", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.txs) == 2
	})
	if fmt.Sprint(h.n) != "[400000005 7]" {
		t.Errorf("lines of %v bytes", h.n)
	}
	wait(t, "the memory to go", func() bool {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc < 50<<20
	})
	_ = st
	_ = stop()
}

// sizes keeps the length of each line only.
type sizes struct {
	tape
	n []int
}

func (h *sizes) Row(_ uint32, _ record.Op, r *Row) error {
	line, _ := r.AppendNew(make([]byte, 0, r.Size()+8))
	if i := strings.IndexByte(string(line[:8]), '\t'); i < 0 {
		return errors.New("no tab in " + strconv.Quote(string(line[:8])))
	}
	h.n = append(h.n, len(line))
	return nil
}
