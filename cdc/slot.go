package cdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/record"
)

// What can be wrong with a slot (C4: each is an error, and no slot is ever
// re-created by itself).
var (
	// ErrSlotActive: another session holds the slot. A walsender whose peer has
	// died holds it until wal_sender_timeout.
	ErrSlotActive = errors.New("replication slot in use by another session")
	// ErrSlotMissing: there is no slot of that name.
	ErrSlotMissing = errors.New("replication slot does not exist")
	// ErrSlotExists: a slot of that name is there already.
	ErrSlotExists = errors.New("replication slot exists already")
	// ErrSlotLost: the server has removed WAL that the slot needs, or has
	// invalidated it for another reason. What it would have brought is gone.
	ErrSlotLost = errors.New("replication slot is lost")
	// ErrSlotForeign: the slot belongs to another database, plugin or purpose.
	ErrSlotForeign = errors.New("replication slot is not ours")
)

// SQLSTATEs of slots (PostgreSQL, Appendix A).
const (
	objectInUse            = "55006"
	notInPrerequisiteState = "55000"
)

// Plugin is the output plugin of our slots; it is part of PostgreSQL.
const Plugin = "pgoutput"

// SlotState is a row of pg_replication_slots.
type SlotState struct {
	// Plugin and Database are empty for a physical slot.
	Plugin, Database string
	// ActivePID is the process that holds the slot, 0 if none does.
	ActivePID int
	// Confirmed is confirmed_flush_lsn: what comes at or before it is not sent again
	// unless the server crashes. Restart is restart_lsn: from there WAL is kept.
	Confirmed, Restart record.LSN
	// WALStatus is reserved, extended, unreserved or lost.
	WALStatus string
	// Invalidation is why the slot is useless, "" if it is not (PostgreSQL 16: "conflict").
	Invalidation string
	// RetainedBytes is the WAL kept for the slot; SafeBytes what may still be written
	// before it can be lost, -1 without a limit.
	RetainedBytes, SafeBytes int64
}

// err says what keeps the slot from being streamed, nil if nothing does.
func (s *SlotState) err(name, database string) error {
	switch {
	case s == nil:
		return fmt.Errorf("slot %s: %w", name, ErrSlotMissing)
	case s.Plugin != Plugin || s.Database != database:
		return fmt.Errorf("slot %s has plugin %q and database %q, want %s and %q: %w", name, s.Plugin, s.Database, Plugin, database, ErrSlotForeign)
	case s.WALStatus == "lost" || s.Invalidation != "":
		return fmt.Errorf("slot %s is %s (%s): %w", name, s.WALStatus, s.Invalidation, ErrSlotLost)
	case s.Confirmed == 0:
		return fmt.Errorf("slot %s was not finished by the session that created it: %w", name, ErrSlotLost)
	}
	return nil
}

// checkSlotName holds names to what the server takes (slot.c,
// ReplicationSlotValidateName), so that they need no quoting anywhere.
func checkSlotName(name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("slot name %q: want 1 to 63 bytes", name)
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("slot name %q: want only a-z, 0-9 and _", name)
		}
	}
	return nil
}

// Slot reads our slot; nil if there is none.
func (s *Source) Slot(ctx context.Context) (*SlotState, error) {
	slot, _, err := s.slot(ctx)
	return slot, err
}

// OtherSlot reads a slot of the cluster that is not ours; nil if there is none.
func (s *Source) OtherSlot(ctx context.Context, name string) (*SlotState, error) {
	slot, _, err := s.slotNamed(ctx, name)
	return slot, err
}

// slot is Slot, with the name of the database that asked.
func (s *Source) slot(ctx context.Context) (slot *SlotState, database string, err error) {
	return s.slotNamed(ctx, s.cfg.Slot)
}

func (s *Source) slotNamed(ctx context.Context, name string) (slot *SlotState, database string, err error) {
	if err := checkSlotName(name); err != nil {
		return nil, "", err
	}
	invalidation := "NULL::text"
	switch {
	case s.version >= 170000:
		invalidation = "invalidation_reason"
	case s.version >= 160000:
		invalidation = "CASE WHEN conflicting THEN 'conflict' END"
	}
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		rows, err := c.query(ctx, `SELECT current_database(), plugin, database, active_pid, confirmed_flush_lsn, restart_lsn, wal_status, `+invalidation+`,
			pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
				ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::int8, coalesce(safe_wal_size, -1)
			FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, name)
		if err != nil || len(rows) == 0 {
			return err
		}
		r := scan(rows[0])
		database = r.text()
		slot = &SlotState{
			Plugin: r.text(), Database: r.text(), ActivePID: r.int(), Confirmed: r.lsn(), Restart: r.lsn(),
			WALStatus: r.text(), Invalidation: r.text(), RetainedBytes: r.int64(), SafeBytes: r.int64(),
		}
		return r.err
	})
	if err != nil {
		return nil, "", fmt.Errorf("read slot %s: %w", name, err)
	}
	return slot, database, nil
}

// CreateSlot makes our slot and gives its consistent point: every transaction
// that commits after it will be streamed. The publication must be there before.
// It waits for the transactions that are open now, holding neither a lock nor a
// snapshot; if it is cut short, no slot is left behind.
func (s *Source) CreateSlot(ctx context.Context) (record.LSN, error) {
	var at record.LSN
	err := s.walsender(ctx, "slot", func(c *session) error {
		r, err := pglogrepl.CreateReplicationSlot(ctx, c.PgConn, s.cfg.Slot, Plugin, pglogrepl.CreateReplicationSlotOptions{
			Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT",
		})
		if err != nil {
			return slotError(err)
		}
		at, err = record.ParseLSN(r.ConsistentPoint)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("create slot %s: %w", s.cfg.Slot, err)
	}
	return at, nil
}

// DropSlot removes our slot: ErrSlotMissing if there is none, ErrSlotActive, at
// once, if it is in use.
func (s *Source) DropSlot(ctx context.Context) error {
	err := s.walsender(ctx, "slot", func(c *session) error {
		return slotError(pglogrepl.DropReplicationSlot(ctx, c.PgConn, s.cfg.Slot, pglogrepl.DropReplicationSlotOptions{}))
	})
	if err != nil {
		return fmt.Errorf("drop slot %s: %w", s.cfg.Slot, err)
	}
	return nil
}

// walsender runs f on a replication connection of its own.
func (s *Source) walsender(ctx context.Context, purpose string, f func(c *session) error) error {
	if err := checkSlotName(s.cfg.Slot); err != nil {
		return err
	}
	c, err := s.open(ctx, purpose, sessionOptions{Replication: true, Configure: func(cfg *pgconn.Config) {
		cfg.RuntimeParams["lock_timeout"] = "0" // creating a slot waits for open transactions
	}})
	if err != nil {
		return err
	}
	defer c.shut()
	return f(c)
}

// slotError adds our sentinel to what the server said about a slot.
func slotError(err error) error {
	switch code(err) {
	case objectInUse:
		return fmt.Errorf("%w: %w", ErrSlotActive, err)
	case undefinedObject:
		return fmt.Errorf("%w: %w", ErrSlotMissing, err)
	case duplicateObject:
		return fmt.Errorf("%w: %w", ErrSlotExists, err)
	}
	return err
}
