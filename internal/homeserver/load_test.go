package homeserver

import (
	"context"
	"slices"
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	kinds := []string{"purge history", "delete room", "regenerate directory"}
	for _, s := range steps() {
		kinds = append(kinds, s.name)
	}
	missing := func(done map[string]int) []string {
		return slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return done[k] > 0 })
	}
	r, err := Load{
		Seed: 1, Purge: 2 * time.Second, Pause: 40 * time.Millisecond,
		Enough: func(done map[string]int) bool { return len(missing(done)) == 0 },
	}.Run(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps: %v; refused %v; deleted %d rooms", r.Total(), r.Done, r.Refused, len(r.Deleted))
	if m := missing(r.Done); len(m) > 0 {
		t.Errorf("within a minute there was no %v", m)
	}
	for _, f := range append(append(s.Faults(), s.Errors()...), r.Failures...) {
		t.Error(f)
	}
}
