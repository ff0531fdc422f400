package cdc

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestC4_SlotErrors: a missing, foreign, lost or used slot is an error of its own,
// and none of them makes a slot.
func TestC4_SlotErrors(t *testing.T) {
	c := testpg.Shared(t, 18)
	d, other := c.Database(t), c.Database(t)
	d.Exec(t, "CREATE PUBLICATION "+ident(odd)+" FOR ALL TABLES")
	name := "s_" + d.Name
	s := connect(t, d.DSN, name)
	stream := func(want error) {
		t.Helper()
		if st, err := s.Stream(t.Context(), StreamOptions{}); !errors.Is(err, want) {
			t.Errorf("have %v, want %v", err, want)
			if err == nil {
				st.Close()
			}
		}
	}
	if slot, err := s.Slot(t.Context()); slot != nil || err != nil {
		t.Error(slot, err)
	}
	stream(ErrSlotMissing)
	if err := s.DropSlot(t.Context()); !errors.Is(err, ErrSlotMissing) {
		t.Error(err)
	}
	if slot, err := s.Slot(t.Context()); slot != nil || err != nil {
		t.Error("a slot was made", slot, err)
	}

	d.Query(t, "SELECT pg_create_logical_replication_slot('"+name+"', 'test_decoding')")
	stream(ErrSlotForeign)
	if _, err := s.CreateSlot(t.Context()); !errors.Is(err, ErrSlotExists) {
		t.Error(err)
	}
	d.Query(t, "SELECT pg_drop_replication_slot('"+name+"')")
	other.Query(t, "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
	stream(ErrSlotForeign)
	other.Query(t, "SELECT pg_drop_replication_slot('"+name+"')")
	d.Query(t, "SELECT pg_create_physical_replication_slot('"+name+"')")
	stream(ErrSlotForeign)
	d.Query(t, "SELECT pg_drop_replication_slot('"+name+"')")

	at, err := s.CreateSlot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot, err := s.Slot(t.Context())
	if err != nil || slot.Confirmed != at || slot.Plugin != "pgoutput" || slot.Database != d.Name || slot.WALStatus != "reserved" ||
		slot.Restart == 0 || slot.Restart > at || slot.SafeBytes != -1 || slot.RetainedBytes < 0 || slot.ActivePID != 0 {
		t.Errorf("created at %s: %+v, %v", at, slot, err)
	}
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Identify(t.Context())
	if sys := st.System(); err != nil || sys.SystemID != id.SystemID || sys.Timeline != id.Timeline || sys.Database != d.Name || sys.Flush < at {
		t.Errorf("system %+v, identity %+v, %v", sys, id, err)
	}
	stream(ErrSlotActive)
	if err := s.DropSlot(t.Context()); !errors.Is(err, ErrSlotActive) {
		t.Error(err)
	}
	st.Close()
	testpg.WaitFor(t, 2*time.Minute, "the slot to be free", func() bool {
		slot, err := s.Slot(t.Context())
		return err == nil && slot.ActivePID == 0
	})
	if err := s.DropSlot(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "Upper", "a-b", "a; DROP", strings.Repeat("a", 64)} {
		s.cfg.Slot = name
		if name == "" {
			s.cfg.Slot = "ü"
		}
		if _, err := s.Slot(t.Context()); err == nil {
			t.Errorf("slot name %q", s.cfg.Slot)
		}
		if _, err := s.CreateSlot(t.Context()); err == nil {
			t.Errorf("slot name %q", s.cfg.Slot)
		}
	}
}

// TestC4_LostSlot: a slot whose WAL was removed is named so, and no waiting helps.
func TestC4_LostSlot(t *testing.T) {
	for _, major := range []int{15, 18} {
		c := testpg.Start(t, major, map[string]string{"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"})
		d := c.Database(t)
		s := ready(t, d, "CREATE TABLE t (i int)")
		for range 6 {
			d.Exec(t, "INSERT INTO t SELECT 1", "SELECT pg_switch_wal()", "CHECKPOINT")
		}
		slot, err := s.Slot(t.Context())
		if err != nil || slot.WALStatus != "lost" {
			t.Fatalf("%+v, %v", slot, err)
		}
		if _, err := s.Stream(t.Context(), StreamOptions{Wait: -1}); !errors.Is(err, ErrSlotLost) {
			t.Errorf("%d: %v", major, err)
		}
	}
}

// TestStreamWaitsForTheSlot: with Wait, a stream follows another as soon as that
// lets go.
func TestStreamWaitsForTheSlot(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d)
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		st, err := s.Stream(context.Background(), StreamOptions{Wait: -1})
		if err == nil {
			st.Close()
		}
		second <- err
	}()
	st.Close()
	if err := <-second; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	st, err = s.Stream(t.Context(), StreamOptions{Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := s.Stream(ctx, StreamOptions{Wait: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestReportInterval(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		0: 10 * time.Second, time.Minute: 10 * time.Second, 8 * time.Second: 2 * time.Second, time.Millisecond: time.Millisecond,
	} {
		if got := reportInterval(timeout); got != want {
			t.Errorf("timeout %s: %s, want %s", timeout, got, want)
		}
	}
	for in, want := range map[string]time.Duration{"0": 0, "90s": 90 * time.Second, "1min": time.Minute, "500ms": time.Second / 2, "2h": 2 * time.Hour, "1d": 24 * time.Hour} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "s", "1x", "99999999999s"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%q: %s", in, got)
		}
	}
}
