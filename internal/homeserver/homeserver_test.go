package homeserver

import (
	"path/filepath"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// boot starts a homeserver that ends with the test.
func boot(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

func options(t *testing.T) Options {
	t.Helper()
	root, err := testpg.Repository()
	if err != nil {
		t.Fatal(err)
	}
	install, err := Find(root)
	testpg.Need(t, "Synapse", err == nil, "tools")
	return Options{Dir: filepath.Join(t.TempDir(), "homeserver"), Install: install, DSN: testpg.Shared(t, testpg.Newest).Database(t).DSN}
}

func TestBoot(t *testing.T) {
	o := options(t)
	s := boot(t, o)
	ctx := t.Context()
	alice, err := s.Register(ctx, "alice", "a secret", true)
	if err != nil {
		t.Fatal(err)
	}
	room, err := alice.CreateRoom(ctx, Room{Name: "A room", Public: true, Alias: "hall"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := alice.Say(ctx, room, "hello")
	if err != nil {
		t.Fatal(err)
	}
	u, err := alice.Sync(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(u.Rooms.Join[room].Timeline.Events); n == 0 || u.Next == "" {
		t.Errorf("a sync gave %d events and the token %q", n, u.Next)
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}

	again := boot(t, o)
	alice = alice.On(again)
	events, err := alice.Messages(ctx, room, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) == 0 || events[0].EventID != id || events[0].Body() != "hello" {
		t.Errorf("after the second boot the room holds %+v, want the message %s", events, id)
	}
	if _, err := again.Login(ctx, "alice", "a secret", ""); err != nil {
		t.Errorf("login: %v", err)
	}
	if err := alice.DeleteRoom(ctx, room, true); err != nil {
		t.Errorf("delete the room: %v", err)
	}
	if _, err := alice.Messages(ctx, room, 1); Code(err) != "M_FORBIDDEN" {
		t.Errorf("the deleted room answers %v", err)
	}
	for _, e := range again.Errors() {
		t.Errorf("the log: %s", e)
	}
	for _, f := range append(s.Faults(), again.Faults()...) {
		t.Errorf("fault: %s", f)
	}
	again.Kill()
	if again.Running() {
		t.Error("it runs after Kill")
	}
	testpg.WaitFor(t, time.Second, "the port to be free", func() bool {
		_, err := alice.Sync(ctx, "", 0)
		return err != nil
	})
}
