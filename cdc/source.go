package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/record"
)

// What a caller may act on. Each is wrapped with the table or object it is about.
var (
	// ErrBusy: a lock was not to be had without standing in somebody's way. Nothing
	// was changed; try again later.
	ErrBusy = errors.New("in use, try again later")
	// ErrYield: our session was ended because somebody waited for it. Nothing was
	// changed; try again later.
	ErrYield = errors.New("ended because another session waited for us")
	// ErrChanged: the table or its types changed while they were read; read again.
	ErrChanged = errors.New("changed while it was read")
	// ErrGone: the table does not exist any more.
	ErrGone = errors.New("does not exist any more")
	// ErrSnapshotTooOld: a transaction that began before CopyOptions.NotBefore is
	// still open, so no copy counts yet (protocol §4). The text names it.
	ErrSnapshotTooOld = errors.New("an older transaction is still open")
	// ErrTooLong: the copy ran longer than CopyOptions.Max.
	ErrTooLong = errors.New("copy ran longer than allowed")
	// ErrNotCapturable: the table cannot enter the publication; Table.Reason says why.
	ErrNotCapturable = errors.New("cannot be captured")
	// ErrPublication: the publication is missing, or is not one that we would make.
	ErrPublication = errors.New("publication is not ours")
)

// Config says which database, and under which names.
type Config struct {
	// DSN is a libpq connection string or URL. A password in it never reaches a log
	// or a command line.
	DSN string
	// Slot and Publication default to "lifeboat".
	Slot, Publication string
	// Log defaults to no log.
	Log *slog.Logger
	// Profile names what tables feed; nil: every table is generic.
	Profile Profile
	// Minimal forces identity minimal with the reason that it returns; nil or "":
	// decide alone.
	Minimal func(schema, table string) (why string)
	// Quiet is how long the schema must have been unchanged before a dump (default
	// 10 s).
	Quiet time.Duration
}

// Profile names the archive item that a table feeds, the columns that name an
// element of it, and whether its rows hold secrets.
type Profile func(schema, table string) (item string, subject []string, secret bool)

// Source is one database at its server. It is safe for concurrent use; calls that
// only ask take turns on one control session.
type Source struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	parsed *pgconn.Config

	// Facts of the server, read once when Connect succeeds.
	version  int
	encoding string
	deadlock time.Duration // deadlock_timeout

	mu      sync.Mutex
	control *session // nil after it broke; use through ask

	attach  sync.Mutex // one change of identities or the publication at a time
	timed   sync.Mutex // guards waited
	waited  map[uint32]time.Time
	watcher *watcher
	quiet   quietness
	huge    hugeTables
}

// Connect opens the control session and reads what never changes while a server
// runs. The caller closes the Source.
func Connect(ctx context.Context, cfg Config) (*Source, error) {
	if cfg.Slot == "" {
		cfg.Slot = "lifeboat"
	}
	if cfg.Publication == "" {
		cfg.Publication = "lifeboat"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.Quiet == 0 {
		cfg.Quiet = 10 * time.Second
	}
	parsed, err := pgconn.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("read connection string: %w", err)
	}
	s := &Source{cfg: cfg, log: cfg.Log, now: time.Now, parsed: parsed, waited: map[uint32]time.Time{}}
	s.watcher = newWatcher(s)
	if err := s.ask(ctx, s.learn); err != nil {
		return nil, err
	}
	return s, nil
}

// learn reads the facts that do not change while a server runs.
func (s *Source) learn(ctx context.Context, c *session) error {
	r, err := c.one(ctx, `SELECT current_setting('server_version_num'), current_setting('server_encoding'),
		(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout')`)
	if err != nil {
		return fmt.Errorf("read server settings: %w", err)
	}
	s.version, s.encoding = r.int(), r.text()
	s.deadlock = time.Duration(r.int64()) * time.Millisecond
	if r.err != nil {
		return fmt.Errorf("read server settings: %w", r.err)
	}
	if s.version < 140000 {
		return fmt.Errorf("server version %d: PostgreSQL 14 or newer is needed", s.version)
	}
	return nil
}

// Close ends the sessions of the Source. Streams have their own.
func (s *Source) Close(ctx context.Context) error {
	s.watcher.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == nil {
		return nil
	}
	err := s.control.Close(ctx)
	s.control = nil
	return err
}

// ask runs f on the control session, which it opens when there is none.
func (s *Source) ask(ctx context.Context, f func(ctx context.Context, c *session) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control != nil && s.control.IsClosed() {
		s.control = nil
	}
	if s.control == nil {
		c, err := s.open(ctx, "control", sessionOptions{})
		if err != nil {
			return err
		}
		s.control = c
	}
	err := f(ctx, s.control)
	s.control.settle(ctx)
	return err
}

// Identity is what says that this is the same database as last time.
type Identity struct {
	record.Source
	// Timeline is that of the write-ahead log.
	Timeline uint32
	// Version is server_version_num, for example 180006.
	Version int
	// Database is its name, Encoding that of the server.
	Database, Encoding string
	// InRecovery: the server is a standby; it cannot be captured from.
	InRecovery bool
}

// Identify asks who the server is: system identifier and timeline by
// IDENTIFY_SYSTEM on a replication connection, which needs REPLICATION and nothing
// else.
func (s *Source) Identify(ctx context.Context) (Identity, error) {
	id := Identity{Version: s.version, Encoding: s.encoding}
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, `SELECT d.oid, d.datname, pg_catalog.pg_is_in_recovery()
			FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`)
		if err != nil {
			return err
		}
		id.Source.Database, id.Database, id.InRecovery = r.oid(), r.text(), r.bool()
		return r.err
	})
	if err != nil {
		return id, fmt.Errorf("identify the database: %w", err)
	}
	c, err := s.open(ctx, "identify", sessionOptions{Replication: true})
	if err != nil {
		return id, fmt.Errorf("identify the server: %w", err)
	}
	defer c.shut()
	rows, err := c.simple(ctx, "IDENTIFY_SYSTEM")
	if err != nil {
		return id, fmt.Errorf("identify the server: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) < 2 {
		return id, fmt.Errorf("identify the server: an answer of %d rows", len(rows))
	}
	r := scan(rows[0])
	id.SystemID, id.Timeline = r.uint64(), r.oid()
	if r.err != nil {
		return id, fmt.Errorf("identify the server: %w", r.err)
	}
	return id, nil
}

// Positions is where the server is now.
type Positions struct {
	// Insert is at or after every change that Snapshot sees; Flush is durable there.
	Insert, Flush record.LSN
	// Snapshot was taken before Insert was read.
	Snapshot record.Snapshot
	// Horizon is above every transaction that had an id when Snapshot was taken and
	// may still be open: a snapshot whose xmin is at or above it sees them all, or they
	// were rolled back.
	Horizon record.XID
	Time    record.Time
}

// lockedIDs lists the ids of open transactions: each holds a lock of its own id
// until others see it, also while its commit waits for a standby.
const lockedIDs = `(SELECT coalesce(pg_catalog.string_agg(l.transactionid::text, ' '), '') FROM pg_catalog.pg_locks l
	WHERE l.locktype = 'transactionid' AND l.granted)`

// horizon is above the snapshot's xmax and above every open transaction. xmax is one
// above the newest that has ended (GetSnapshotData, src/backend/storage/ipc/procarray.c):
// while nobody ends, an open transaction is at xmax or above it. One that took its
// id before and ended between snapshot and locks is seen by every later snapshot.
func horizon(xmax record.XID, locked string) (record.XID, error) {
	h := xmax
	for f := range strings.FieldsSeq(locked) {
		low, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("read the id of a transaction: %w", err)
		}
		h = max(h, record.Widen(uint32(low), xmax)+1)
	}
	return h, nil
}

// Now reads the server's positions.
func (s *Source) Now(ctx context.Context) (Positions, error) {
	var p Positions
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.one(ctx, `SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_wal_insert_lsn(),
			pg_catalog.pg_current_wal_flush_lsn(),
			(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8 - 946684800000000, `+lockedIDs)
		if err != nil {
			return err
		}
		p.Snapshot, p.Insert, p.Flush, p.Time = r.snapshot(), r.lsn(), r.lsn(), record.Time(r.int64())
		if p.Horizon, err = horizon(p.Snapshot.XMax, r.text()); err != nil {
			return err
		}
		return r.err
	})
	if err != nil {
		return p, fmt.Errorf("read positions: %w", err)
	}
	return p, nil
}
