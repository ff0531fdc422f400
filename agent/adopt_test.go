package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/cdc"
	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
)

func (b *bench) lineages() []history.LineageID {
	b.t.Helper()
	all, err := b.repo.Lineages(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

func (b *bench) comment() string {
	b.t.Helper()
	return b.db.Query(b.t, "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()")[0][0]
}

// TestAdoptCutShort: an adoption that ended after its first entry, before the state
// directory names it, is gone on with; a plain start forgets one that had not begun.
func TestAdoptCutShort(t *testing.T) {
	b := newBench(t, testpg.Shared(t, 18), nil, "CREATE TABLE k (id int PRIMARY KEY)")
	b.attach()
	old, err := Lineage(b.o.State)
	if err != nil {
		t.Fatal(err)
	}
	adopt := func() history.LineageID {
		b.o.Adopt = true
		stop := b.run()
		testpg.WaitFor(t, 2*time.Minute, "the adoption", func() bool {
			id, err := Lineage(b.o.State)
			return err == nil && id != old
		})
		stop()
		b.o.Adopt = false
		id, err := Lineage(b.o.State)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	id := adopt()
	// As a crash between the entry and the state leaves it.
	if err := writeLineage(b.o.State, adoptingFile, id); err != nil {
		t.Fatal(err)
	}
	if err := saveLineage(b.o.State, old); err != nil {
		t.Fatal(err)
	}
	if again := adopt(); again != id || len(b.lineages()) != 2 {
		t.Errorf("the adoption that was cut short left %v, and %s is followed instead of %s", b.lineages(), again, id)
	}
	// As a crash before the entry leaves it.
	if err := writeLineage(b.o.State, adoptingFile, history.LineageID{Source: id.Source, Lineage: old.Lineage}); err != nil {
		t.Fatal(err)
	}
	stop := b.run()
	b.waitReady()
	stop()
	if _, err := readLineage(b.o.State, adoptingFile); !errors.Is(err, ErrNotAttached) {
		t.Errorf("a plain start keeps an adoption that had not begun: %v", err)
	}
}

// TestTrace: what a restore left in the comment is the parent, for run --adopt and
// for attach on another host; without the right to comment it stays and is not taken
// for new; one of another repository says nothing; a comment of others stays.
func TestTrace(t *testing.T) {
	c := testpg.Shared(t, 18)
	b := newBench(t, c, nil, "CREATE TABLE k (id int PRIMARY KEY)")
	b.attach()
	source, err := Lineage(b.o.State)
	if err != nil {
		t.Fatal(err)
	}
	first := history.Parent{ID: source, At: b.view().Durable}
	set := func(p history.Parent, text string) {
		b.db.Exec(t, "COMMENT ON DATABASE "+b.db.Name+" IS '"+history.WithTrace(text, p)+"'")
	}
	role := "adopts_" + b.db.Name
	role = role[:min(len(role), 60)]
	c.Role(t, role, "REPLICATION")
	b.db.Exec(t, "ALTER TABLE k OWNER TO "+role, "GRANT CREATE ON DATABASE "+b.db.Name+" TO "+role, "ALTER PUBLICATION "+b.db.Name+" OWNER TO "+role)
	b.o.Source.DSN = b.db.As(role)

	parentAfter := func() *history.Parent {
		t.Helper()
		before, err := Lineage(b.o.State)
		if err != nil && !errors.Is(err, ErrNotAttached) {
			t.Fatal(err)
		}
		b.o.Adopt = true
		stop := b.run()
		testpg.WaitFor(t, 2*time.Minute, "the adoption", func() bool {
			id, err := Lineage(b.o.State)
			return err == nil && id != before
		})
		stop()
		b.o.Adopt = false
		return b.view().Epochs[0].Parent
	}
	set(first, "mine")
	if p := parentAfter(); p == nil || *p != first {
		t.Errorf("the parent is %+v, the trace says %+v", p, first)
	}
	if c := b.comment(); c != history.WithTrace("mine", first) {
		t.Errorf("somebody who may not comment left %q", c)
	}
	second, err := Lineage(b.o.State)
	if err != nil {
		t.Fatal(err)
	}
	if p := parentAfter(); p == nil || p.ID != second {
		t.Errorf("a trace that was read already is taken for new: %+v, want %s", p, second)
	}
	if next, err := Lineage(b.o.State); err != nil {
		t.Fatal(err)
	} else if p := parentAfter(); p == nil || p.ID != next {
		t.Errorf("a trace that was read two adoptions ago is taken for new: %+v, want %s", p, next)
	}
	b.o.Source.DSN = b.db.DSN
	third, err := Lineage(b.o.State)
	if err != nil {
		t.Fatal(err)
	}
	foreign := first
	foreign.ID.SystemID++
	set(foreign, "mine")
	if p := parentAfter(); p == nil || p.ID != third {
		t.Errorf("the trace of another repository: %+v, want %s", p, third)
	}

	// Another host, which has no state: attach.
	other := newBench(t, c, nil, "CREATE TABLE k (id int PRIMARY KEY)")
	o := b.o
	o.Source.DSN, o.Source.Slot, o.Source.Publication, o.State = other.db.DSN, other.db.Name, other.db.Name, t.TempDir()
	if err := SaveSecrets(o.State, b.operator); err != nil {
		t.Fatal(err)
	}
	other.db.Exec(t, "COMMENT ON DATABASE "+other.db.Name+" IS '"+history.WithTrace("theirs", first)+"'")
	if _, err := Attach(t.Context(), b.repo, b.agentSecrets(), o, false); err != nil {
		t.Fatal(err)
	}
	log, err := OpenLog(t.Context(), b.repo, b.operator, o.State)
	if err != nil {
		t.Fatal(err)
	}
	v, err := log.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p := v.Epochs[0].Parent; p == nil || *p != first {
		t.Errorf("attach: the parent is %+v, the trace says %+v", p, first)
	}
	if c := other.comment(); c != "theirs" {
		t.Errorf("attach left %q", c)
	}
}

// TestSlotOfAnother: a lost slot of another database is not ours to drop.
func TestSlotOfAnother(t *testing.T) {
	slot := &cdc.SlotState{Plugin: "pgoutput", Database: "old", WALStatus: "lost"}
	if err := ownSlot(slot, "lifeboat", "new"); !errors.Is(err, cdc.ErrSlotForeign) || !strings.Contains(err.Error(), "`slot: lifeboat_2`") {
		t.Errorf("%v", err)
	}
	if err := ownSlot(slot, "lifeboat", "old"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"lifeboat": "lifeboat_2", "lifeboat_2": "lifeboat_3", "a9": "a10"} {
		if got := otherSlot(name); got != want {
			t.Errorf("beside %s: %s, want %s", name, got, want)
		}
	}
}
