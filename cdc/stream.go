package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.im/lifeboat/internal/calm"
	"lifeboat.im/lifeboat/record"
)

var (
	// ErrPublicationMissing: the publication did not exist at some place of the
	// stream, so the server sends nothing of what happened there (PostgreSQL 18 says
	// it by a warning and goes on; to us it is a hole).
	ErrPublicationMissing = errors.New("publication does not exist at this place of the stream")
	// ErrUndecodable: the server cannot decode its own log from where the slot begins. A
	// transaction that rewrote or made a table while the slot was being made, and ended
	// before it was, is unknown to what decodes (PostgreSQL 18.6: xact_decode in
	// decode.c passes over what ends before SNAPBUILD_FULL_SNAPSHOT), and rows for the
	// table's new file have no table. A slot that begins later has not that hole.
	ErrUndecodable = errors.New("the server cannot decode its log from where the slot begins")
	// ErrStreamEnded: the server ended the stream, for example because it shuts down.
	ErrStreamEnded = errors.New("the server ended the stream")
	// ErrConfirm: a position was confirmed that the server has not sent.
	ErrConfirm = errors.New("confirmed what was not received")
	// ErrSilent: the server sent nothing for StreamOptions.Silence although it was
	// asked to.
	ErrSilent = errors.New("the server is silent")
)

// StreamOptions says how a stream begins.
type StreamOptions struct {
	// Near is a recent pg_snapshot_xmax, for widening transaction ids.
	Near record.XID
	// Wait is how long to try again while another session holds the slot; negative:
	// twice wal_sender_timeout, by when a walsender whose peer has died is gone. 0
	// gives ErrSlotActive at once.
	Wait time.Duration
	// Silence is how long the server may send nothing while it is being asked for an
	// answer; 0: the greater of five minutes and twice wal_sender_timeout.
	Silence time.Duration
	// Rest is how long what was sent may lie unread while the stream keeps up: it is
	// then read, and the walsender woken to send more, a few times a second and not
	// for each commit. 0: it is read at once.
	Rest time.Duration
}

// System is what IDENTIFY_SYSTEM said on the stream's own connection.
type System struct {
	SystemID uint64
	Timeline uint32
	// Flush is the server's flush position: no durable position of ours can be above.
	Flush    record.LSN
	Database string
}

// Stream is a replication stream that holds our slot. Its feedback runs from the
// beginning, so that the server keeps it while its user prepares for Run; it ends
// with Run or Close.
type Stream struct {
	conn   *session
	meter  *meter
	log    *slog.Logger
	now    func() time.Time
	walk   *walker
	system System

	slot      record.LSN    // confirmed_flush_lsn when the slot was acquired
	near      atomic.Uint64 // newest xid known
	confirmed atomic.Uint64 // last Confirm
	sent      atomic.Uint64 // greatest position that may be confirmed
	received  atomic.Uint64
	asked     atomic.Uint64 // position at which the server last waited for us

	rest     time.Duration // StreamOptions.Rest
	resting  bool          // between transactions
	rests    time.Duration // what the connection was told
	feedback feedback
}

// Stream acquires the slot by START_REPLICATION at 0/0, which begins at the
// slot's confirmed position; PostgreSQL lets one consumer in, so nobody else can
// hold it from here on. Nothing is confirmed before Confirm is called.
func (s *Source) Stream(ctx context.Context, o StreamOptions) (*Stream, error) {
	slot, database, err := s.slot(ctx)
	if err != nil {
		return nil, err
	}
	if err := slot.err(s.cfg.Slot, database); err != nil {
		return nil, err
	}
	begin := s.now()
	for tries := 0; ; tries++ {
		st, timeout, err := s.acquire(ctx, o)
		if err == nil {
			return st, nil
		}
		wait := o.Wait
		if wait < 0 {
			wait = 2 * timeout
		}
		if !errors.Is(err, ErrSlotActive) || s.now().Sub(begin) >= wait {
			return nil, fmt.Errorf("stream slot %s: %w", s.cfg.Slot, err)
		}
		if tries == 0 {
			s.log.Info("slot is in use, trying again every second", "slot", s.cfg.Slot, "wait", wait)
		}
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("stream slot %s: %w", s.cfg.Slot, ctx.Err())
		case <-t.C:
		}
	}
}

// acquire tries once; timeout is wal_sender_timeout, also with an error.
func (s *Source) acquire(ctx context.Context, o StreamOptions) (st *Stream, timeout time.Duration, err error) {
	conn, m, timeout, err := s.openStream(ctx)
	if err != nil {
		return nil, timeout, err
	}
	st = &Stream{conn: conn, meter: m, log: s.log, now: s.now, rest: o.Rest}
	defer func() {
		if err != nil {
			conn.shut()
		}
	}()
	st.near.Store(uint64(o.Near))
	st.walk = newWalker(&st.near, &st.sent)
	sys, err := pglogrepl.IdentifySystem(ctx, conn.PgConn)
	if err != nil {
		return nil, timeout, fmt.Errorf("identify system: %w", err)
	}
	st.system = System{Timeline: uint32(sys.Timeline), Flush: record.LSN(sys.XLogPos), Database: sys.DBName}
	if _, err := fmt.Sscan(sys.SystemID, &st.system.SystemID); err != nil {
		return nil, timeout, fmt.Errorf("identify system: %w", err)
	}
	err = pglogrepl.StartReplication(ctx, conn.PgConn, s.cfg.Slot, 0, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication, PluginArgs: pluginArgs(s.cfg.Publication, s.version),
	})
	if err != nil {
		if slot, database, e := s.slot(ctx); e == nil && slot.err(s.cfg.Slot, database) != nil {
			err = fmt.Errorf("%w: %w", slot.err(s.cfg.Slot, database), err) // lost or dropped since we looked
		}
		return nil, timeout, fmt.Errorf("start replication: %w", slotError(err))
	}
	// Only now, holding the slot, does its position stand still.
	slot, database, err := s.slot(ctx)
	if err == nil {
		err = slot.err(s.cfg.Slot, database)
	}
	if err != nil {
		return nil, timeout, err
	}
	st.slot = slot.Confirmed
	st.confirmed.Store(uint64(slot.Confirmed))
	st.received.Store(uint64(slot.Confirmed))
	st.sent.Store(max(uint64(slot.Confirmed), uint64(st.system.Flush)))
	silence := o.Silence
	if silence == 0 {
		silence = max(5*time.Minute, 2*timeout)
	}
	st.startFeedback(timeout, silence)
	return st, timeout, nil
}

// pluginArgs are the options of pgoutput. The publication's name is an identifier
// within a string literal, and both have their own quotes. The default origin,
// any, is said aloud where it can be: rows that a subscription of the source's
// brought are changes as well.
func pluginArgs(publication string, version int) []string {
	args := []string{"proto_version '1'", "publication_names " + literal(ident(publication))}
	if version >= 160000 {
		args = append(args, "origin 'any'")
	}
	return args
}

// System says what server this is, as seen from the stream's connection.
func (st *Stream) System() System { return st.system }

// Begins is the slot's confirmed position when it was acquired: the stream brings
// every transaction that ends after it.
func (st *Stream) Begins() record.LSN { return st.slot }

// Received is the end of the newest complete commit, or the position of a newer
// keepalive that came while no transaction was open: everything up to it has been
// handed to the Handler. It never decreases.
func (st *Stream) Received() record.LSN { return record.LSN(st.received.Load()) }

// SetNear makes a newer pg_snapshot_xmax known. Safe for concurrent use.
func (st *Stream) SetNear(x record.XID) { raise(&st.near, uint64(x)) }

// SetColumns says which columns of a table's messages make its lines, in order,
// as indexes into StreamRelation.Columns; all of them until then. Only a Handler
// may call it, from within a call.
func (st *Stream) SetColumns(oid uint32, keep []int) { st.walk.setColumns(oid, keep) }

// Asked reports that the server waits for everything that it has sent to be
// confirmed: it asked for an answer while the position it names is not confirmed
// yet. A server that shuts down does so, and waits for as long as that takes; so a
// user who has nothing pending should make Received durable and confirm it now.
func (st *Stream) Asked() bool { return st.asked.Load() > st.confirmed.Load() }

// Run reads the stream and calls h until ctx is done, h gives an error, or the
// stream breaks; it always returns why. When ctx is done the server still gets
// the last Confirm. A Stream runs once.
func (st *Stream) Run(ctx context.Context, h Handler) error {
	stop := context.AfterFunc(ctx, func() { st.feedback.fail(context.Cause(ctx)) })
	err := st.read(h)
	stop()
	switch cause := st.feedback.cause(); {
	case ctx.Err() != nil:
		st.feedback.fail(ctx.Err()) // so that nobody else sets the deadline after this
		st.finish()
		err = fmt.Errorf("stream: %w", ctx.Err())
	case cause != nil: // the read was broken off for it
		err = fmt.Errorf("stream: %w", cause)
	case err != nil:
		err = fmt.Errorf("stream: %w", err)
	}
	st.Close()
	return err
}

// read is the loop of Run; it has no context: a deadline in the past ends it.
func (st *Stream) read(h Handler) error {
	front := st.conn.Frontend()
	defer calm.Rest(st.conn.Conn(), 0)
	for {
		msg, err := front.Receive()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if err := st.copyData(m.Data, h); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return streamError(pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse:
			pg := pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(m))
			if pg.Code == notInPrerequisiteState || pg.Code == undefinedObject {
				return fmt.Errorf("%w: %w", ErrPublicationMissing, pg)
			}
			st.log.Warn("notice from the stream", "code", pg.Code, "message", pg.Message, "detail", pg.Detail)
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			return ErrStreamEnded
		case *pgproto3.ParameterStatus: // a reload of the configuration; ours are set by us
		default:
			return fmt.Errorf("message %T: %w", msg, ErrProtocol)
		}
	}
}

// Bytes before the payload of an XLogData message, and the length of a keepalive
// (documentation, "Streaming Replication Protocol").
const (
	xlogHeader = 25
	keepalive  = 18
)

// copyData takes one message of the stream.
func (st *Stream) copyData(b []byte, h Handler) error {
	switch {
	case len(b) >= xlogHeader && b[0] == 'w':
		open := st.walk.open
		if err := st.walk.message(record.LSN(binary.BigEndian.Uint64(b[1:])), b[xlogHeader:], h); err != nil {
			return err
		}
		switch {
		case !open && st.walk.open: // what it holds up waits for its end: no rest within
			st.restFor(0)
		case open && !st.walk.open:
			raise(&st.received, uint64(st.walk.end))
			st.pace(time.Duration(int64(binary.BigEndian.Uint64(b[17:]))-int64(st.walk.at)) * time.Microsecond)
		}
		return nil
	case len(b) == keepalive && b[0] == 'k':
		end := binary.BigEndian.Uint64(b[1:])
		if !st.walk.open {
			raise(&st.sent, end)
		}
		if b[keepalive-1] != 0 {
			raise(&st.asked, end)
			st.feedback.poke()
		}
		if st.walk.open {
			return nil
		}
		raise(&st.received, end)
		return h.Idle(st.Received())
	case len(b) == 0:
		return fmt.Errorf("an empty message: %w", ErrProtocol)
	}
	return fmt.Errorf("message %q of %d bytes: %w", b[0], len(b), ErrProtocol)
}

// pace lets the reader rest while the stream keeps up; lag is how long after its
// commit the server sent a transaction, by its own clock.
func (st *Stream) pace(lag time.Duration) {
	switch {
	case lag <= st.rest:
		st.resting = true
	case lag > 3*st.rest:
		st.resting = false
	}
	if st.resting {
		st.restFor(st.rest)
	}
}

func (st *Stream) restFor(d time.Duration) {
	if st.rests != d {
		st.rests = d
		calm.Rest(st.conn.Conn(), d)
	}
}

// streamError adds our sentinel to what the server said within the stream.
func streamError(err error) error {
	switch {
	case code(err) == undefinedObject: // before PostgreSQL 18
		return fmt.Errorf("%w: %w", ErrPublicationMissing, err)
	case code(err) == internalError && strings.Contains(err.Error(), "could not map file"): // filenode, since 16 filenumber; never translated
		return fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	return err
}

// Close ends the stream without a word to the server; after Run it does nothing.
func (st *Stream) Close() {
	st.feedback.stop()
	st.conn.shut()
}

// finish tells the server the last Confirm and takes leave: it waits, shortly, for
// the end of what is on its way, or the server might not read our word.
func (st *Stream) finish() {
	st.feedback.stop()
	_ = st.conn.Conn().SetDeadline(st.now().Add(2 * time.Second))
	if err := st.report(false); err != nil {
		return
	}
	_, _ = pglogrepl.SendStandbyCopyDone(context.Background(), st.conn.PgConn)
}
