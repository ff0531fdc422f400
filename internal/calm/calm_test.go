package calm

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair gives both ends of a connection, the first one calm.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err = Dial(new(net.Dialer).DialContext)(context.Background(), "tcp", l.Addr().String())
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
	ours, theirs := pair(t)
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
