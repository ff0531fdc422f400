package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lifeboat.im/lifeboat/internal/testpg"
)

// manager is systemd's end of sd_notify(3): a datagram socket.
type manager struct {
	mu     sync.Mutex
	states []string
}

// listen opens the socket below dir and gives its path; it is closed with the test.
func (m *manager) listen(dir string) (path string, closed func(), err error) {
	path = filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return "", nil, err
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.states = append(m.states, string(b[:n]))
			m.mu.Unlock()
		}
	}()
	return path, func() { c.Close() }, nil
}

func (m *manager) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.states)
}

// inOrder reports whether want are among have, in their order.
func inOrder(have, want []string) bool {
	for _, s := range have {
		if len(want) > 0 && s == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

func listenCommand(ts *testscript.TestScript, _ bool, args []string) {
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	m := &manager{}
	// The path of a socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "lifeboat-notify-")
	ts.Check(err)
	path, closed, err := m.listen(dir)
	ts.Check(err)
	ts.Defer(func() { closed(); os.RemoveAll(dir) })
	scriptDatabases(ts).manager = m
	ts.Setenv("NOTIFY_SOCKET", path)
	ts.Setenv("WATCHDOG_USEC", strconv.Itoa(seconds*1e6))
}

func toldCommand(ts *testscript.TestScript, _ bool, args []string) {
	m := scriptDatabases(ts).manager
	defer func() { ts.Logf("told: %q", m.told()) }()
	if len(args) == 0 && len(m.told()) > 0 {
		ts.Fatalf("something was told")
	}
	testpg.WaitFor(scriptDatabases(ts).t, 2*time.Minute, "to be told", func() bool { return inOrder(m.told(), args) })
}

// TestNotifier: the watchdog is told at most eight times within its interval, by
// progress alone, and nothing when there is none.
func TestNotifier(t *testing.T) {
	m := &manager{}
	path, closed, err := m.listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer closed()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "8000000")
	now := time.Unix(1e9, 0)
	n := newNotifier(func() time.Time { return now })
	n.ready()
	for range 31 { // 3 s, a tenth each
		n.progress()
		now = now.Add(100 * time.Millisecond)
	}
	n.stopping()
	want := []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"}
	testpg.WaitFor(t, 2*time.Minute, "the last word", func() bool { return slices.Contains(m.told(), "STOPPING=1") })
	if have := m.told(); !slices.Equal(have, want) {
		t.Errorf("told %q, want %q", have, want)
	}

	t.Setenv("WATCHDOG_USEC", "")
	n = newNotifier(func() time.Time { return now })
	n.progress()
	n.ready()
	testpg.WaitFor(t, 2*time.Minute, "ready", func() bool { return len(m.told()) > len(want) })
	if have := m.told()[len(want):]; !slices.Equal(have, []string{"READY=1"}) {
		t.Errorf("told %q without a watchdog, want READY=1", have)
	}
}
