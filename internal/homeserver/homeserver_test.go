package homeserver

import (
	"os"
	"path/filepath"
	"strings"
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
	testpg.WaitFor(t, 2*time.Minute, "the port to be free", func() bool {
		_, err := alice.Sync(ctx, "", 0)
		return err != nil
	})
}

// TestWorkers: every process answers, requests go where they belong, and all end.
func TestWorkers(t *testing.T) {
	o := options(t)
	testpg.Need(t, "Valkey", o.Install.Redis != "", "tools")
	o.Workers = true
	s := boot(t, o)
	ctx := t.Context()
	alice, err := s.Register(ctx, "alice", "a secret", true)
	if err != nil {
		t.Fatal(err)
	}
	room, err := alice.CreateRoom(ctx, Room{Name: "A room", Public: true})
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
	if events := u.Rooms.Join[room].Timeline.Events; len(events) == 0 || events[len(events)-1].EventID != id {
		t.Errorf("the generic worker's sync ends with %+v, want %s", events, id)
	}
	for name, want := range map[string]string{
		persister + ".log": "/_synapse/replication/", generic + ".log": "/createRoom", "homeserver.log": "/register",
	} {
		text, err := os.ReadFile(filepath.Join(o.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not name %s", name, want)
		}
	}
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	for _, e := range s.Errors() {
		t.Errorf("the log holds %s", e)
	}
}
