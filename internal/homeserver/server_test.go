package homeserver

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a test calls healthy must be able to be ill.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	text := `2026-01-02 03:04:05,678 INFO synapse.app main: an ERROR that is none
2026-01-02 03:04:05,679 ERROR synapse.util.metrics main: Metric named x already registered
2026-01-02 03:04:05,680 ERROR synapse.http.server GET-1: Failed handle request
Traceback (most recent call last):
  File "x.py", line 1
2026-01-02 03:04:05,681 WARNING synapse.x main: no
2026-01-02 03:04:05,682 CRITICAL synapse.x main: the end
`
	for name, content := range map[string]string{logFile: text, "worker.log": "2026-01-02 03:04:05,680 ERROR synapse.x -: of a worker\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{options: Options{Dir: dir}}
	got := s.Errors()
	want := []string{"Failed handle request\nTraceback", "the end", "of a worker"}
	if len(got) != len(want) {
		t.Fatalf("%d errors, want %d: %q", len(got), len(want), got)
	}
	for i, w := range want {
		if !strings.Contains(got[i], w) {
			t.Errorf("error %d is %q, want %q in it", i, got[i], w)
		}
	}
}

func TestFaults(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errcode":"M_FORBIDDEN","error":"no"}`))
			return
		}
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte("a page"))
	}))
	defer h.Close()
	s := &Server{port: h.Listener.Addr().(*net.TCPAddr).Port, http: h.Client()}
	c := &Client{server: s}
	if err := c.Do(t.Context(), http.MethodGet, "/no", nil, nil); Code(err) != "M_FORBIDDEN" || len(s.Faults()) != 0 {
		t.Errorf("403 gave %v and the faults %q", err, s.Faults())
	}
	if err := c.Do(t.Context(), http.MethodGet, "/any", nil, nil); err == nil || !slices.Equal(s.Faults(), []string{"GET /any: 502  a page"}) {
		t.Errorf("502 gave %v and the faults %q", err, s.Faults())
	}
}

func TestDatabase(t *testing.T) {
	d, err := database("postgres://me:a%20b@127.0.0.1:5433/mine?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	args := d["args"].(map[string]any)
	for k, want := range map[string]any{
		"user": "me", "password": "a b", "host": "127.0.0.1", "port": 5433, "dbname": "mine", "sslmode": "disable",
	} {
		if args[k] != want {
			t.Errorf("%s is %v, want %v", k, args[k], want)
		}
	}
	if _, err := database("host=127.0.0.1 dbname=mine"); err == nil {
		t.Error("keywords were taken for an address")
	}
}
