package cdc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lifeboat.im/lifeboat/record"
)

// settlePoll is how often Settle looks.
const settlePoll = 50 * time.Millisecond

// Settle waits until a follower of our slot has received every commit that had
// ended at or before lsn when lsn was read as the insert position, and gives the
// position that stands for it: lsn, or in an idle database a lower one.
//
// An insert position may lie beyond the last flushed record for as long as nobody
// commits: pages that a reader pruned leave WAL that only the next commit or
// checkpoint flushes (PostgreSQL src/backend/access/transam/xlog.c,
// XLogBackgroundFlush: an incomplete page is flushed for asynchronous commits
// only, within three wal_writer_delay). So once that time has passed since lsn was
// read and the slot's walsender waits for more WAL, no commit can lie between what
// was received and lsn.
//
// since is when lsn was read, received the follower's position.
func (s *Source) Settle(ctx context.Context, lsn record.LSN, since time.Time, received func() (record.LSN, error)) (record.LSN, error) {
	var quiet time.Duration
	for {
		at, err := received()
		if err != nil {
			return 0, err
		}
		if at >= lsn {
			return lsn, nil
		}
		if quiet == 0 {
			if quiet, err = s.flushDelay(ctx); err != nil {
				return 0, err
			}
		}
		if s.now().Sub(since) > quiet {
			sent, caughtUp, err := s.caughtUp(ctx)
			if err != nil {
				return 0, err
			}
			if at, err = received(); err != nil {
				return 0, err
			}
			if caughtUp && at >= sent {
				return min(at, lsn), nil
			}
		}
		t := time.NewTimer(settlePoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return 0, fmt.Errorf("wait for %s, received %s: %w", lsn, at, ctx.Err())
		case <-t.C:
		}
	}
}

// flushDelay is by when an asynchronous commit is flushed at the latest, and some.
func (s *Source) flushDelay(ctx context.Context) (d time.Duration, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, "SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_writer_delay'")
		if err != nil {
			return err
		}
		d = 3*time.Duration(r.int64())*time.Millisecond + 100*time.Millisecond
		return r.err
	})
	if err != nil {
		return 0, fmt.Errorf("read wal_writer_delay: %w", err)
	}
	return d, nil
}

// caughtUp asks how far our slot's walsender has sent and whether it waits for WAL.
func (s *Source) caughtUp(ctx context.Context) (sent record.LSN, waits bool, err error) {
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		rows, err := c.query(ctx, `SELECT r.sent_lsn, coalesce(a.wait_event, '') FROM pg_catalog.pg_replication_slots s
			JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
			WHERE s.slot_name = $1 AND r.sent_lsn IS NOT NULL`, s.cfg.Slot)
		if err != nil || len(rows) == 0 {
			return err
		}
		r := scan(rows[0])
		sent = r.lsn()
		waits = strings.EqualFold(r.text(), "WalSenderWaitForWal")
		return r.err
	})
	if err != nil {
		return 0, false, fmt.Errorf("read the walsender's position: %w", err)
	}
	return sent, waits, nil
}
