package synapseproof

import (
	"lifeboat.im/lifeboat/restore"
	"lifeboat.im/lifeboat/synapse"
)

// accident finds the purge of a room, as `find --room ID --deletes` does, and gives
// the restore target before the first of its commits. Nothing else of the room's life
// may be taken for it.
func (l *lab) accident(room string) (before string) {
	l.t.Helper()
	all, err := restore.Find(l.t.Context(), l.view(), restore.FindOptions{Element: synapse.Room, ID: room})
	if err != nil {
		l.t.Fatal(err)
	}
	found, err := restore.Find(l.t.Context(), l.view(), restore.FindOptions{Element: synapse.Room, ID: room, Deletes: true})
	if err != nil {
		l.t.Fatal(err)
	}
	if len(found) < 2 || len(found) >= len(all) {
		l.t.Fatalf("%d of %d commits of the room lost rows: a purge is several, and messages lose none", len(found), len(all))
	}
	run := found[0].Run
	tables := 0
	for _, f := range found {
		if f.Run == nil || f.Run != run {
			l.t.Errorf("commit %s is not part of the accident: %+v", f.Commit.End, f)
		}
		tables = max(tables, len(f.Tables))
	}
	oldest := found[len(found)-1]
	if run.Commits != len(found) || run.Before != oldest.Before {
		l.t.Errorf("the accident is %+v, its oldest commit %+v", run, oldest.Commit)
	}
	if tables < 10 {
		l.t.Errorf("the largest of its commits touched %d tables, a purge touches more", tables)
	}
	return run.Before
}

// conversation has the room live: replies to one message from several sides at once
// make it fork and join again, which replaces rows.
func (l *lab) conversation(room string, texts ...string) (last string) {
	l.t.Helper()
	ctx := l.t.Context()
	done := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := l.admin.Say(ctx, room, "at once")
			done <- err
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			l.t.Fatal(err)
		}
	}
	for _, text := range texts {
		id, err := l.admin.Say(ctx, room, text)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := l.admin.Receipt(ctx, room, "m.read", id, ""); err != nil {
			l.t.Fatal(err)
		}
		last = id
	}
	return last
}
