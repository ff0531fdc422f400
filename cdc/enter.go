package cdc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/record"
)

const (
	nowaitTries = 20
	timedEvery  = 30 * time.Second
	// attachKey is the advisory lock of whoever changes identities or the publication
	// of a database: "lifeboat" in ASCII.
	attachKey = 0x6c696665626f6174
)

// Enter adds the table to the publication with its wanted identity (protocol §6):
// under a lock that excludes writers, because a writer open across the addition
// would lose its earlier rows (C5), in one message, so that no round trip of ours
// passes under the lock. nil when it is there already. ErrBusy, ErrYield: try again
// later. ErrGone, ErrChanged: read the catalog again. ErrNotCapturable.
//
// A crash anywhere leaves either nothing or the table entered with its identity;
// the next catalog shows which.
func (s *Source) Enter(ctx context.Context, t Table) error {
	if !t.Capturable {
		return fmt.Errorf("enter %s: %s: %w", &t.Relation, t.Reason, ErrNotCapturable)
	}
	if t.InPublication && t.Settled {
		return nil
	}
	err := s.locked(ctx, change{
		oid: t.Relation.OID, table: qualified(t.Relation.Schema, t.Relation.Name), mode: t.mode(),
		check: t.unchanged(), statements: s.enterStatements(t),
	})
	lost := errors.Is(err, errUnknown)
	if !lost && code(err) != duplicateObject {
		return wrap("enter", &t.Relation, err)
	}
	// Lost on the way, or already a member: read back what there is.
	now, errRead := s.table(ctx, t.Relation.OID)
	switch {
	case errRead != nil:
		return wrap("enter", &t.Relation, errRead)
	case now.InPublication && now.Settled:
		return nil
	case lost:
		return wrap("enter", &t.Relation, err)
	case now.InPublication:
		return wrap("enter", &t.Relation, ErrChanged)
	}
	return wrap("enter", &t.Relation, fmt.Errorf("listed with a row filter or columns: %w", ErrPublication))
}

// EnterSQL is the message that Enter sends, one statement a line.
func (s *Source) EnterSQL(t Table) string {
	c := change{table: qualified(t.Relation.Schema, t.Relation.Name), mode: t.mode(), statements: s.enterStatements(t)}
	return c.message(true)
}

func (s *Source) enterStatements(t Table) []string {
	var out []string
	name := qualified(t.Relation.Schema, t.Relation.Name)
	if sql := t.clause(); sql != "" {
		out = append(out, "ALTER TABLE ONLY "+name+" "+sql)
	}
	if !t.InPublication {
		out = append(out, "ALTER PUBLICATION "+ident(s.cfg.Publication)+" ADD TABLE ONLY "+name)
	}
	return out
}

// mode is the lock of Enter: the weakest that excludes writers, or what ALTER TABLE
// … REPLICA IDENTITY takes.
func (t *Table) mode() string {
	if t.clause() == "" {
		return "SHARE ROW EXCLUSIVE"
	}
	return "ACCESS EXCLUSIVE"
}

// unchanged is a condition that holds while the table is still what the catalog
// said: another name, identity or column, and its identity would have to be decided
// again.
func (t *Table) unchanged() string {
	c := "EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = " + literal(qualified(t.Relation.Schema, t.Relation.Name)) + "::regclass" +
		" AND oid = " + fmt.Sprint(t.Relation.OID) + " AND relreplident = " + literal(string(rune(t.Replident))) + ")"
	if t.attrs != "" {
		c += " AND " + literal(t.attrs) + " = (SELECT string_agg(attnum || ':' || xmin, ',' ORDER BY attnum) FROM pg_catalog.pg_attribute" +
			" WHERE attnum > 0 AND attrelid = " + fmt.Sprint(t.Relation.OID) + ")"
	}
	return c
}

// Leave takes the table out of the publication; nil when it is not in it or gone.
func (s *Source) Leave(ctx context.Context, t Table) error {
	name := qualified(t.Relation.Schema, t.Relation.Name)
	err := s.locked(ctx, change{
		oid: t.Relation.OID, table: name, mode: "SHARE UPDATE EXCLUSIVE",
		check:      literal(name) + "::regclass = " + fmt.Sprint(t.Relation.OID),
		statements: []string{"ALTER PUBLICATION " + ident(s.cfg.Publication) + " DROP TABLE ONLY " + name},
	})
	if code(err) == undefinedObject {
		return nil
	}
	if errors.Is(err, errUnknown) || errors.Is(err, ErrGone) { // gone, or renamed
		now, errRead := s.table(ctx, t.Relation.OID)
		if errors.Is(errRead, ErrGone) || errRead == nil && !now.InPublication {
			return nil
		}
		if errors.Is(err, ErrGone) {
			err = ErrChanged
		}
	}
	return wrap("leave", &t.Relation, err)
}

// RestoreIdentity sets the identity of a table to old (d n f i, the last with its
// index, or the default when that is gone); nil when the table is gone. ErrBusy, ErrYield: try again later. Take the
// table out of the publication first unless old is usable there.
func (s *Source) RestoreIdentity(ctx context.Context, schema, name string, old byte, index string) error {
	clause, err := identitySQL(old, index)
	if err != nil {
		return err
	}
	rel := &record.Relation{Schema: schema, Name: name}
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		r, err := c.query(ctx, "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "+
			"WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'", schema, name)
		if err == nil && len(r) == 1 {
			rel.OID = scan(r[0]).oid()
		}
		return err
	})
	if err != nil || rel.OID == 0 {
		return wrap("restore the identity of", rel, err)
	}
	table := qualified(schema, name)
	set := func(clause string) error {
		return s.locked(ctx, change{
			oid: rel.OID, table: table, mode: "ACCESS EXCLUSIVE", check: literal(table) + "::regclass = " + fmt.Sprint(rel.OID),
			statements: []string{"ALTER TABLE ONLY " + table + " " + clause},
		})
	}
	err = set(clause)
	if old == 'i' && code(err) == undefinedObject {
		s.log.Warn("the index of a replica identity is gone; setting the default", "table", rel.String(), "index", index)
		old = 'd'
		err = set("REPLICA IDENTITY DEFAULT")
	}
	if errors.Is(err, ErrGone) {
		return nil
	}
	if errors.Is(err, errUnknown) {
		now, errRead := s.table(ctx, rel.OID)
		if errRead == nil && now.Replident == old && (old != 'i' || now.ReplidentIndex == index) {
			return nil
		}
	}
	return wrap("restore the identity of", rel, err)
}

// table reads one table as it is now; ErrGone.
func (s *Source) table(ctx context.Context, oid uint32) (*Table, error) {
	var out *Table
	err := s.ask(ctx, func(ctx context.Context, c *session) error {
		list, err := s.readTables(ctx, c, oid)
		if err == nil && len(list) == 0 {
			err = ErrGone
		}
		if err == nil {
			out = &list[0]
		}
		return err
	})
	return out, err
}

// change is what is done to one table under one lock.
type change struct {
	oid        uint32
	table      string // quoted
	mode       string
	check      string // a condition under the lock, or ""
	statements []string
}

// message is the change as one simple-query message. Only LOCK may wait, and it is
// the first that locks: what comes after has one millisecond (the publication's own
// lock, which ALTER PUBLICATION takes and which has no NOWAIT) (C6).
func (c *change) message(nowait bool) string {
	lock := "LOCK TABLE ONLY " + c.table + " IN " + c.mode + " MODE"
	if nowait {
		lock += " NOWAIT"
	}
	list := []string{"BEGIN", lock, "SET LOCAL lock_timeout = '1ms'"}
	if c.check != "" {
		list = append(list, "SELECT 1 / (CASE WHEN "+c.check+" THEN 1 ELSE 0 END)")
	}
	list = append(append(list, c.statements...), "COMMIT")
	return strings.Join(list, ";\n") + ";\n"
}

// errUnknown: the connection broke while the message was on its way; whether it
// took effect must be read back.
var errUnknown = errors.New("the connection broke and the outcome is not known")

// locked makes a change on a session of its own, under the attachers' lock and the
// watcher.
func (s *Source) locked(ctx context.Context, ch change) error {
	s.attach.Lock()
	defer s.attach.Unlock()
	c, err := s.open(ctx, "attach", sessionOptions{})
	if err != nil {
		return err
	}
	defer c.shut()
	if err := onlyAttacher(ctx, c); err != nil {
		return freed(c, err)
	}
	release, err := s.watcher.guardSession(ctx, c)
	if err != nil {
		return err
	}
	defer release()
	for try := range nowaitTries {
		if try > 0 {
			if err := pause(ctx, 10*time.Millisecond+rand.N(40*time.Millisecond)); err != nil {
				return err
			}
		}
		if c.IsClosed() {
			return fmt.Errorf("%w: the session was ended between two tries", ErrYield)
		}
		err = s.send(ctx, c, ch.message(true))
		if code(err) != lockNotAvailable {
			return err
		}
	}
	held, errHeld := s.heldLong(ctx, c, ch.oid)
	if errHeld != nil {
		return freed(c, errHeld)
	}
	if held != "" {
		return fmt.Errorf("%s: %w", held, ErrBusy)
	}
	if !s.mayWait(ch.oid) {
		return fmt.Errorf("it is locked all the time: %w", ErrBusy)
	}
	return s.send(ctx, c, ch.message(false))
}

// freed says ErrYield for an error that comes from the end of our session: the
// watcher, or somebody at the server, put it out of the way between two messages.
func freed(c *session, err error) error {
	if c.IsClosed() {
		return fmt.Errorf("%w: %w", ErrYield, err)
	}
	return err
}

// onlyAttacher takes the attachers' advisory lock until the session ends; one that
// has just ended may still hold it for a moment.
func onlyAttacher(ctx context.Context, c *session) error {
	for try := range nowaitTries {
		if try > 0 {
			if err := pause(ctx, 25*time.Millisecond); err != nil {
				return err
			}
		}
		r, err := c.one(ctx, "SELECT pg_catalog.pg_try_advisory_lock($1::int8)", fmt.Sprint(attachKey))
		if err != nil {
			return err
		}
		if r.bool() {
			return nil
		}
	}
	return fmt.Errorf("another attach or detach works on this database: %w", ErrBusy)
}

// send sends a message that ends in COMMIT, and says what its failure means.
func (s *Source) send(ctx context.Context, c *session, message string) error {
	_, err := c.simple(ctx, message)
	if err == nil {
		return nil
	}
	if c.IsClosed() {
		s.gone(c.pid())
		return fmt.Errorf("%w: %w: %w", errUnknown, ErrYield, err)
	}
	c.settle(ctx)
	if code(err) == divisionByZero {
		return ErrChanged
	}
	return classify(err)
}

// gone waits until the server's process of a broken session has ended, so that
// what is read after it is final.
func (s *Source) gone(pid uint32) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		var there bool
		err := s.ask(ctx, func(ctx context.Context, c *session) error {
			r, err := c.query(ctx, "SELECT FROM pg_catalog.pg_stat_activity WHERE pid = $1::int", fmt.Sprint(pid))
			there = len(r) > 0
			return err
		})
		if err == nil && !there {
			return
		}
		_ = pause(ctx, 50*time.Millisecond)
	}
}

// heldLong names a holder of a lock on the table that is older than 1 s, or whose
// age our role may not see; "" if there is none.
func (s *Source) heldLong(ctx context.Context, c *session, oid uint32) (string, error) {
	rows, err := c.query(ctx, `SELECT coalesce(l.pid, 0), coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.xact_start::text, '')
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
			AND (a.xact_start IS NULL OR a.xact_start < pg_catalog.clock_timestamp() - interval '1 second')
		ORDER BY a.xact_start LIMIT 1`, fmt.Sprint(oid))
	if err != nil || len(rows) == 0 {
		return "", err
	}
	r := scan(rows[0])
	pid, user, app, since := r.oid(), r.text(), r.text(), r.text()
	if pid == 0 {
		return "a prepared transaction holds a lock on it", r.err
	}
	return fmt.Sprintf("process %d (%s %s, transaction since %s) holds a lock on it", pid, user, app, since), r.err
}

// mayWait allows one timed wait for a table in 30 s.
func (s *Source) mayWait(oid uint32) bool {
	s.timed.Lock()
	defer s.timed.Unlock()
	now := s.now()
	if last, ok := s.waited[oid]; ok && now.Sub(last) < timedEvery {
		return false
	}
	s.waited[oid] = now
	return true
}

// classify adds what a caller may act on to a server's error.
func classify(err error) error {
	var lost *pgconn.PgError
	switch code(err) {
	case "":
		return err
	case lockNotAvailable, deadlockDetected:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case adminShutdown:
		return fmt.Errorf("%w: %w", ErrYield, err)
	case undefinedTable, "3F000": // the table, or its schema
		return fmt.Errorf("%w: %w", ErrGone, err)
	case insufficientPrivilege:
		if errors.As(err, &lost) {
			return fmt.Errorf("our role has not the right (%s): %w", lost.Message, err)
		}
	}
	return err
}

func wrap(verb string, rel *record.Relation, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, rel, err)
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
