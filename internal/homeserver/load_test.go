package homeserver

import (
	"context"
	"testing"
	"time"
)

// Every kind of step is taken, and the server bears it.
func TestLoad(t *testing.T) {
	s := boot(t, options(t))
	admin, err := s.Register(t.Context(), "admin", "a secret", true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	r, err := Load{Seed: 1, Purge: 3 * time.Second, Pause: 40 * time.Millisecond}.Run(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps: %v; refused %v; deleted %d rooms", r.Total(), r.Done, r.Refused, len(r.Deleted))
	for _, s := range steps() {
		if r.Done[s.name] == 0 {
			t.Errorf("no %s", s.name)
		}
	}
	for _, kind := range []string{"purge history", "delete room"} {
		if r.Done[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
	for _, f := range append(append(s.Faults(), s.Errors()...), r.Failures...) {
		t.Error(f)
	}
}
