package calm

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair gives both ends of a connection, the first one calm.
func pair(t *testing.T) (ours, theirs net.Conn) { return pairOf(t, "tcp", "127.0.0.1:0") }

func pairOf(t *testing.T, network, addr string) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err = Dial(new(net.Dialer).DialContext)(context.Background(), network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestEveryByteComes(t *testing.T) {
	t.Run("tcp", func(t *testing.T) { everyByteComes(t, "tcp", "127.0.0.1:0", 0) })
	t.Run("tcp rested", func(t *testing.T) { everyByteComes(t, "tcp", "127.0.0.1:0", time.Millisecond) })
	t.Run("unix rested", func(t *testing.T) { everyByteComes(t, "unix", filepath.Join(t.TempDir(), "s"), time.Millisecond) })
}

func everyByteComes(t *testing.T, network, addr string, rest time.Duration) {
	ours, theirs := pairOf(t, network, addr)
	Rest(ours, rest)
	sent := make([]byte, 3<<20+7)
	_, _ = rand.Read(sent)
	go func() {
		for b := sent; len(b) > 0; {
			n := min(len(b), 8111)
			if _, err := theirs.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
		theirs.Close()
	}()
	got, err := io.ReadAll(ours)
	if err != nil || string(got) != string(sent) {
		t.Fatalf("%d of %d bytes came, or others: %v", len(got), len(sent), err)
	}
}

// A few bytes after a silence wake the reader, however much it would like to have.
func TestOneByteWakes(t *testing.T) {
	ours, theirs := pair(t)
	for range 3 {
		got := make(chan error)
		go func() {
			_, err := ours.Read(make([]byte, 100))
			got <- err
		}()
		wait := time.NewTimer(20 * time.Millisecond) // the reader has begun to wait
		<-wait.C
		if _, err := theirs.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	ours, _ := pair(t)
	done := make(chan error)
	go func() {
		_, err := ours.Read(make([]byte, 100))
		done <- err
	}()
	_ = ours.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read after its deadline: %v", err)
	}
}

// What comes while the reader rests comes in one read: it is not woken for each.
func TestRest(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		ours, theirs := pairOf(t, network, addr)
		Rest(ours, 300*time.Millisecond)
		got := make(chan int)
		go func() {
			for {
				n, err := ours.Read(make([]byte, 1000))
				if err != nil {
					close(got)
					return
				}
				got <- n
			}
		}()
		tick := time.NewTicker(5 * time.Millisecond)
		const sent = 40
		for range sent {
			<-tick.C
			if _, err := theirs.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		tick.Stop()
		reads, bytes := 0, 0
		for bytes < sent {
			n, ok := <-got
			if !ok {
				t.Fatalf("%s: the connection ended after %d bytes", network, bytes)
			}
			reads, bytes = reads+1, bytes+n
		}
		if reads > sent/4 {
			t.Errorf("%s: %d reads for %d bytes", network, reads, sent)
		}
	}
}

func TestRestLooksThroughTLS(t *testing.T) {
	ours, _ := pair(t)
	over := tls.Client(ours, &tls.Config{ServerName: "db.example.net"})
	for _, d := range []time.Duration{time.Second, 0} {
		if Rest(over, d); ours.(*conn).rest != d {
			t.Errorf("rest is %s, want %s", ours.(*conn).rest, d)
		}
	}
}
