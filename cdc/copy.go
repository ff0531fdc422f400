package cdc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"lifeboat.im/lifeboat/internal/calm"
	"lifeboat.im/lifeboat/record"
)

// LineSink takes the lines of one worker of a copy. Musts: Line does not keep line
// after it returns; an error ends the copy and comes back from Copy unchanged
// under errors.Is.
type LineSink interface {
	// Line takes one row without its newline.
	Line(line []byte) error
	// End is called once when the worker has had all its lines, not after an error.
	End() error
}

// CopyOptions says how a table is copied.
type CopyOptions struct {
	// Workers is how many sessions read one table; 0 and 1 are one.
	Workers int
	// NotBefore: the snapshot's xmin must be at or above it, else ErrSnapshotTooOld.
	NotBefore record.XID
	// Position is asked for the stream's position right after the snapshot was taken,
	// when it is set; the answer is Copied.Position.
	Position func(record.Snapshot) record.LSN
	// Max bounds the copy's time; beyond it ErrTooLong. 0: no bound.
	Max time.Duration
	// Rate bounds the bytes of lines a second over all workers; 0: no bound.
	Rate int64

	spanBlocks int64 // the least blocks of a worker; 0: spanBlocks
}

// Copied is a finished copy.
type Copied struct {
	Snapshot record.Snapshot
	// Position is what CopyOptions.Position answered.
	Position record.LSN
	// ExactFrom is the insert LSN read after the snapshot.
	ExactFrom record.LSN
	// Table as seen under the snapshot.
	Table           Table
	TypeFingerprint [32]byte
	Rows, Bytes     int64
	// Workers is how many sinks were used.
	Workers int
}

// Copy reads a table under one snapshot. sink is called once per worker, from
// Copy's goroutine, before the first line; each sink is used by one goroutine. Each
// worker has a span of the heap of its own and gives its lines in heap order.
// ErrChanged: copy again (what the sinks got is void). ErrGone, ErrBusy, ErrYield,
// ErrSnapshotTooOld, ErrTooLong as they say.
//
// A sink may stand still for half a minute, with rows of less than 1 MiB: so long the
// copy reads ahead, slowly. Beyond, or when the process is stopped, the server ends
// the session after 5 s (tcp_user_timeout), so that it holds no lock for longer (ErrYield).
func (s *Source) Copy(ctx context.Context, t Table, o CopyOptions, sink func(worker int) LineSink) (*Copied, error) {
	if o.Max > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Max, fmt.Errorf("%w (%s)", ErrTooLong, o.Max))
		defer cancel()
	}
	out, err := s.copyTable(ctx, t, o, sink)
	if err != nil {
		if errors.Is(context.Cause(ctx), ErrTooLong) {
			err = context.Cause(ctx)
		}
		return nil, wrap("copy", &t.Relation, err)
	}
	return out, nil
}

func (s *Source) copyTable(ctx context.Context, t Table, o CopyOptions, sink func(worker int) LineSink) (*Copied, error) {
	lead, err := s.openCopy(ctx, &t)
	if err != nil {
		return nil, err
	}
	defer lead.end()
	out, exported, spans, err := s.snapshot(ctx, lead, &t, o)
	if err != nil {
		return nil, lead.why(err)
	}
	out.Workers = len(spans)
	sinks := make([]LineSink, len(spans))
	for i := range sinks {
		sinks[i] = sink(i)
	}
	pace := newPacer(o.Rate, s.now)
	g, gctx := errgroup.WithContext(ctx)
	var rows, size atomic.Int64
	read := func(r *reader, i int) error {
		return r.why(r.read(gctx, s.copySQL(&out.Table, spans[i]), sinks[i], pace, &rows, &size))
	}
	var joined sync.WaitGroup
	joined.Add(len(spans) - 1)
	for i := range spans {
		g.Go(func() error {
			if i == 0 {
				joined.Wait() // the exported snapshot lives with this transaction
				return read(lead, i)
			}
			r, err := s.join(gctx, &t, exported)
			joined.Done()
			if err != nil {
				return err
			}
			defer r.end()
			return read(r, i)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out.Rows, out.Bytes = rows.Load(), size.Load()
	if builtIn(&out.Table.Relation) {
		return out, nil
	}
	after, err := s.TypeFingerprint(ctx, t)
	if err != nil {
		return nil, err
	}
	if after != out.TypeFingerprint {
		return nil, fmt.Errorf("its types: %w", ErrChanged)
	}
	return out, nil
}

// builtIn reports that every column has a type of PostgreSQL's own catalog files
// (below FirstGenbkiObjectId, src/include/access/transam.h), which no statement
// alters: to read the fingerprint a second time costs more than a small table.
func builtIn(r *record.Relation) bool {
	for _, c := range r.Columns {
		if c.TypeOID >= 10000 {
			return false
		}
	}
	return true
}

// reader is one session that reads a table under ACCESS SHARE, watched.
type reader struct {
	*session
	release func() (freed bool)
	freed   bool
}

// openCopy gives a session that has begun, and holds the table's lock and no
// snapshot yet: a lock taken after the snapshot would admit a rewrite between the
// two, which the snapshot would see as an empty table.
func (s *Source) openCopy(ctx context.Context, t *Table) (*reader, error) {
	r, err := s.openReader(ctx)
	if err != nil {
		return nil, err
	}
	begin := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	lock := "LOCK TABLE ONLY " + qualified(t.Relation.Schema, t.Relation.Name) + " IN ACCESS SHARE MODE"
	for try := range nowaitTries {
		if try > 0 {
			if err = pause(ctx, 10*time.Millisecond+rand.N(40*time.Millisecond)); err != nil {
				break
			}
		}
		if _, err = r.simple(ctx, begin+"; "+lock+" NOWAIT"); err == nil {
			return r, nil
		}
		if code(err) != lockNotAvailable {
			break
		}
		r.settle(ctx)
	}
	if code(err) == lockNotAvailable {
		held, errHeld := s.heldLong(ctx, r.session, t.Relation.OID)
		switch {
		case errHeld != nil:
			err = errHeld
		case held != "":
			err = fmt.Errorf("%s: %w", held, ErrBusy)
		case s.mayWait(t.Relation.OID):
			if _, err = r.simple(ctx, begin+"; "+lock); err == nil {
				return r, nil
			}
		}
	}
	err = r.why(err)
	r.end()
	return nil, err
}

// openReader gives a watched session whose output settings were read back.
func (s *Source) openReader(ctx context.Context) (*reader, error) {
	c, err := s.open(ctx, "copy", sessionOptions{Configure: func(c *pgconn.Config) {
		c.DialFunc = calm.Dial(fixedBuffer(c.DialFunc))
		c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
			return pgproto3.NewFrontend(bufio.NewReaderSize(r, 1<<18), w)
		}
	}})
	if err != nil {
		return nil, err
	}
	if err := c.verify(ctx); err != nil {
		c.shut()
		return nil, err
	}
	release, err := s.watcher.guardSession(ctx, c)
	if err != nil {
		c.shut()
		return nil, err
	}
	return &reader{session: c, release: release}, nil
}

// join gives another reader of the same snapshot and table.
func (s *Source) join(ctx context.Context, t *Table, exported string) (*reader, error) {
	r, err := s.openReader(ctx)
	if err != nil {
		return nil, err
	}
	_, err = r.simple(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+literal(exported)+
		"; LOCK TABLE ONLY "+qualified(t.Relation.Schema, t.Relation.Name)+" IN ACCESS SHARE MODE NOWAIT")
	if code(err) == lockNotAvailable { // the leader has the lock: somebody stands between
		err = fmt.Errorf("%w: %w", ErrYield, err)
	}
	if err != nil {
		err = r.why(err)
		r.end()
		return nil, err
	}
	return r, nil
}

// end closes the session; its locks go with it.
func (r *reader) end() {
	if r.release != nil {
		r.freed = r.release()
		r.release = nil
	}
	r.shut()
}

// why says what ended a reader: the watcher, or else what the error means.
func (r *reader) why(err error) error {
	if err == nil {
		return nil
	}
	if r.release != nil {
		r.freed = r.release()
		r.release = nil
	}
	var sinkErr *sinkError
	if errors.As(err, &sinkErr) {
		return sinkErr.err
	}
	lost := r.IsClosed() && code(err) == "" && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
	if errors.Is(err, ErrYield) {
		return err
	}
	if r.freed || lost {
		return fmt.Errorf("%w: %w", ErrYield, err)
	}
	return classify(err)
}

// snapshot takes the snapshot by the first query, and reads under it what the copy
// is of (protocol §4).
func (s *Source) snapshot(ctx context.Context, r *reader, t *Table, o CopyOptions) (out *Copied, exported string, spans []span, err error) {
	out = &Copied{}
	row, err := r.one(ctx, "SELECT pg_catalog.pg_current_snapshot()::text")
	if err != nil {
		return nil, "", nil, err
	}
	if out.Snapshot = row.snapshot(); row.err != nil {
		return nil, "", nil, row.err
	}
	if o.Position != nil {
		out.Position = o.Position(out.Snapshot)
	}
	if out.ExactFrom, err = insertLSN(ctx, r.session); err != nil {
		return nil, "", nil, err
	}
	if out.Snapshot.XMin < o.NotBefore {
		return nil, "", nil, s.tooOld(ctx, r.session, out.Snapshot.XMin)
	}
	list, err := s.readTables(ctx, r.session, t.Relation.OID)
	if err != nil {
		return nil, "", nil, err
	}
	if len(list) == 0 {
		return nil, "", nil, ErrGone
	}
	if out.Table = list[0]; out.Table.Fingerprint != t.Fingerprint {
		return nil, "", nil, fmt.Errorf("since the catalog was read: %w", ErrChanged)
	}
	if out.TypeFingerprint, err = typeFingerprint(ctx, r.session, t.Relation.OID); err != nil {
		return nil, "", nil, err
	}
	row, err = r.one(ctx, "SELECT pg_catalog.pg_relation_size($1::oid) / current_setting('block_size')::int8, pg_catalog.pg_export_snapshot()",
		fmt.Sprint(t.Relation.OID))
	if err != nil {
		return nil, "", nil, err
	}
	blocks := row.int64()
	exported = row.text()
	return out, exported, split(&out.Table, blocks, o), row.err
}

// tooOld names the transaction that holds xmin back. Every role may see the lock of
// a transaction's own id; what it does may be hidden from ours.
func (s *Source) tooOld(ctx context.Context, c *session, xmin record.XID) error {
	rows, err := c.query(ctx, `SELECT coalesce(l.pid, 0), coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
			coalesce(a.wait_event, ''), coalesce(a.xact_start::text, ''), coalesce(p.gid, '')
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = l.transactionid
		WHERE l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.transactionid::text = $1 LIMIT 1`,
		fmt.Sprint(uint32(xmin)))
	if err != nil {
		return err
	}
	who := "not to be seen any more"
	if len(rows) > 0 {
		r := scan(rows[0])
		pid, user, app, state, wait, since, gid := r.oid(), r.text(), r.text(), r.text(), r.text(), r.text(), r.text()
		if who = fmt.Sprintf("of process %d (%s %s %s %s, since %s)", pid, user, app, state, wait, since); gid != "" {
			who = fmt.Sprintf("prepared as %q: COMMIT PREPARED or ROLLBACK PREPARED it", gid)
		}
	}
	return fmt.Errorf("transaction %d, %s: %w", xmin, who, ErrSnapshotTooOld)
}
