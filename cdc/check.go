package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// State of a finding.
type State string

// The three states of a finding.
const (
	OK   State = "ok"
	Warn State = "warn"
	Fail State = "fail"
)

// Finding is one check of the source.
type Finding struct {
	Name  string
	State State
	// Why says what was found and why it matters; Mend is what to type.
	Why, Mend string
}

// CheckOptions says what Check cannot know.
type CheckOptions struct {
	// Bin is the folder of pg_dump; "": from PATH.
	Bin string
}

// report collects findings.
type report []Finding

func (r *report) add(name string, state State, why, mend string) {
	*r = append(*r, Finding{Name: name, State: state, Why: why, Mend: mend})
}

// Check looks at the source from every side that can stop a capture or lose a row.
// It changes nothing. An error means that it could not tell.
func (s *Source) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	var r report
	id, err := s.Identify(ctx)
	switch {
	case code(err) == insufficientPrivilege || code(err) == "28000":
		r.add("replication", Fail, "our role may not open a replication connection: "+err.Error(),
			"ALTER ROLE "+ident(s.parsed.User)+" REPLICATION (and a pg_hba.conf line for the database)")
	case err != nil:
		r.add("replication", Fail, "a replication connection does not work: "+err.Error(), "see max_wal_senders and pg_hba.conf")
	default:
		r.add("replication", OK, fmt.Sprintf("PostgreSQL %d.%d, source %s, timeline %d", id.Version/10000, id.Version%10000, id.Source, id.Timeline), "")
	}
	err = s.ask(ctx, func(ctx context.Context, c *session) error {
		for _, f := range []func(context.Context, *session, *report) error{
			s.checkPins, s.checkSettings, s.checkRights, s.checkTransactions, s.checkStandbys, s.checkPublication,
		} {
			if err := f(ctx, c, &r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("check the source: %w", err)
	}
	s.checkEncoding(&r)
	if err := s.checkSlot(ctx, &r); err != nil {
		return r, fmt.Errorf("check the source: %w", err)
	}
	if have, err := s.clientVersion(ctx, o.Bin); err != nil {
		r.add("pg_dump", Fail, "schemas cannot be dumped: "+err.Error(), fmt.Sprintf("apt install postgresql-client-%d, or name its folder", s.version/10000))
	} else {
		r.add("pg_dump", OK, fmt.Sprintf("version %d serves a server of version %d", have, s.version/10000), "")
	}
	if err := s.checkTables(ctx, &r); err != nil {
		return r, fmt.Errorf("check the source: %w", err)
	}
	return r, nil
}

// checkPins finds a pooler that drops settings.
func (s *Source) checkPins(ctx context.Context, c *session, r *report) error {
	if err := c.verify(ctx); err != nil {
		if c.IsClosed() {
			return err
		}
		r.add("settings", Fail, err.Error(), "name the server itself in the connection string, not a pooler")
		return nil
	}
	r.add("settings", OK, "sessions keep the settings that decide how values print", "")
	return nil
}

// fixed are the minors before which publications that change are decoded wrongly
// (release notes of August 2025: invalidations are sent to transactions in progress).
func fixed(major int) int {
	return map[int]int{14: 19, 15: 14, 16: 10, 17: 6}[major]
}

func (s *Source) checkSettings(ctx context.Context, c *session, r *report) error {
	row, err := c.one(ctx, `SELECT pg_catalog.pg_is_in_recovery(), current_setting('wal_level'), current_setting('max_replication_slots'),
		(SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> $1), current_setting('max_wal_senders'),
		(SELECT count(*) FROM pg_catalog.pg_stat_replication), current_setting('max_slot_wal_keep_size')`, s.cfg.Slot)
	if err != nil {
		return err
	}
	recovery, level, slots, taken, senders, sending, keep := row.bool(), row.text(), row.int(), row.int(), row.int(), row.int(), row.text()
	if row.err != nil {
		return row.err
	}
	if recovery {
		r.add("primary", Fail, "the server is a standby; only a primary can be captured", "connect to the primary")
	}
	if level == "logical" {
		r.add("wal_level", OK, "logical", "")
	} else {
		r.add("wal_level", Fail, "wal_level is "+level+": row changes are not in the write-ahead log", "ALTER SYSTEM SET wal_level = logical, then restart the server")
	}
	if taken < slots {
		r.add("max_replication_slots", OK, fmt.Sprintf("%d of %d are taken by others", taken, slots), "")
	} else {
		r.add("max_replication_slots", Fail, fmt.Sprintf("all %d are taken by others", slots), fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d, then restart the server", taken+4))
	}
	if sending+2 <= senders {
		r.add("max_wal_senders", OK, fmt.Sprintf("%d of %d are in use", sending, senders), "")
	} else {
		r.add("max_wal_senders", Fail, fmt.Sprintf("%d of %d are in use; one streams, and one more is needed at times", sending, senders),
			fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d, then restart the server", sending+4))
	}
	if keep != "-1" {
		r.add("max_slot_wal_keep_size", Warn, "the server itself gives up our slot beyond "+keep+" of write-ahead log: a new base is needed then, and the gap is named",
			"ALTER SYSTEM SET max_slot_wal_keep_size = -1; the agent has a budget of its own (wal_budget)")
	}
	major, minor := s.version/10000, s.version%10000
	if minor < fixed(major) {
		r.add("minor version", Warn, fmt.Sprintf("%d.%d decodes changes of a publication wrongly in rare cases", major, minor), fmt.Sprintf("update to %d.%d or newer", major, fixed(major)))
	}
	return nil
}

func (s *Source) checkRights(ctx context.Context, c *session, r *report) error {
	row, err := c.one(ctx, `SELECT current_user, u.rolsuper, u.rolreplication OR u.rolsuper, pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
		pg_catalog.current_database(), pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') FROM pg_catalog.pg_roles u WHERE u.rolname = current_user`)
	if err != nil {
		return err
	}
	user, super, replication, create, db, stats := row.text(), row.bool(), row.bool(), row.bool(), row.text(), row.bool()
	if row.err != nil {
		return row.err
	}
	if !replication {
		r.add("role", Fail, "role "+ident(user)+" has not the attribute REPLICATION", "ALTER ROLE "+ident(user)+" REPLICATION")
	} else {
		r.add("role", OK, "role "+ident(user)+" has the attribute REPLICATION", "")
	}
	if super {
		r.add("superuser", Warn, "role "+ident(user)+" is a superuser; a role that owns the tables and has REPLICATION is enough", "")
	}
	if !create {
		r.add("create", Warn, "role "+ident(user)+" may not create the publication", "GRANT CREATE ON DATABASE "+ident(db)+" TO "+ident(user))
	}
	if !stats {
		r.add("statistics", OK, "role "+ident(user)+" does not see what other roles' sessions do; GRANT pg_read_all_stats lets messages name them", "")
	}
	return nil
}

func (s *Source) checkEncoding(r *report) {
	switch s.encoding {
	case "UTF8":
		r.add("encoding", OK, s.encoding, "")
	case "SQL_ASCII":
		r.add("encoding", Warn, "SQL_ASCII: values are bytes without a meaning, and are kept as such; an archive needs text", "")
	default:
		r.add("encoding", OK, s.encoding+": rows are kept in it, unconverted", "")
	}
}

// checkTransactions names what delays the first base, holds back vacuum, and keeps
// write-ahead log.
func (s *Source) checkTransactions(ctx context.Context, c *session, r *report) error {
	rows, err := c.query(ctx, "SELECT gid, prepared::text, owner, database FROM pg_catalog.pg_prepared_xacts WHERE prepared < pg_catalog.now() - interval '10 minutes' ORDER BY prepared")
	if err != nil {
		return err
	}
	for _, x := range rows {
		f := scan(x)
		gid, since, owner, db := f.text(), f.text(), f.text(), f.text()
		r.add("prepared transaction", Warn, fmt.Sprintf("%q of %s in %s, prepared at %s: nothing can be copied, and no slot created, before it ends", gid, owner, db, since),
			"ROLLBACK PREPARED "+literal(gid)+" (or COMMIT PREPARED) in database "+ident(db))
	}
	rows, err = c.query(ctx, `SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''), xact_start::text FROM pg_catalog.pg_stat_activity
		WHERE xact_start < pg_catalog.clock_timestamp() - interval '10 minutes' AND backend_type = 'client backend' ORDER BY xact_start LIMIT 20`)
	if err != nil {
		return err
	}
	for _, x := range rows {
		f := scan(x)
		pid, user, app, state, since := f.oid(), f.text(), f.text(), f.text(), f.text()
		r.add("long transaction", Warn, fmt.Sprintf("process %d (%s %s, %s) has a transaction open since %s: what it changed cannot be copied before it ends", pid, user, app, state, since),
			fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid))
	}
	return nil
}

func (s *Source) checkStandbys(ctx context.Context, c *session, r *report) error {
	row, err := c.one(ctx, `SELECT current_setting('synchronous_standby_names'),
		(SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))`)
	if err != nil {
		return err
	}
	names, present := row.text(), row.int()
	if names != "" && present == 0 {
		r.add("synchronous standby", Warn, "synchronous_standby_names is "+names+" and none is seen: commits of the application wait for it, and what waits cannot be copied", "start the standby, or ALTER SYSTEM SET synchronous_standby_names = ''")
	}
	return row.err
}

func (s *Source) checkPublication(ctx context.Context, c *session, r *report) error {
	there, err := s.foreign(ctx, c)
	switch {
	case errors.Is(err, ErrPublication):
		r.add("publication", Fail, err.Error(), "DROP PUBLICATION "+ident(s.cfg.Publication)+", then attach; or name another")
	case err != nil:
		return err
	case !there:
		r.add("publication", Warn, "publication "+ident(s.cfg.Publication)+" does not exist", "lifeboat attach")
	default:
		r.add("publication", OK, "publication "+ident(s.cfg.Publication)+" is as we make it", "")
	}
	return nil
}

func (s *Source) checkSlot(ctx context.Context, r *report) error {
	slot, database, err := s.slot(ctx)
	if err != nil {
		return err
	}
	if slot == nil {
		r.add("slot", Warn, "slot "+s.cfg.Slot+" does not exist: nothing is captured", "lifeboat attach")
		return nil
	}
	if err := slot.err(s.cfg.Slot, database); err != nil {
		mend := "lifeboat run --new-base"
		if errors.Is(err, ErrSlotForeign) {
			mend = "name another slot in the configuration"
		}
		r.add("slot", Fail, err.Error(), mend)
		return nil
	}
	who := "nobody reads it"
	if slot.ActivePID != 0 {
		who = fmt.Sprintf("process %d reads it", slot.ActivePID)
	}
	state, safe := OK, ""
	if slot.WALStatus == "unreserved" {
		state = Fail
	}
	if slot.SafeBytes >= 0 {
		safe = fmt.Sprintf(", %d MiB more can be written before it is lost", slot.SafeBytes>>20)
	}
	r.add("slot", state, fmt.Sprintf("slot %s, %s; confirmed %s; %d MiB of write-ahead log are kept for it (%s%s)",
		s.cfg.Slot, who, slot.Confirmed, slot.RetainedBytes>>20, slot.WALStatus, safe), "")
	return nil
}

// few joins names for a sentence.
func few(names []string) string {
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
