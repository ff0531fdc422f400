package cdc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/record"
)

// session is one connection of ours at the source, its settings pinned.
type session struct{ *pgconn.PgConn }

// sessionOptions says what differs from the control session.
type sessionOptions struct {
	// Replication makes it a walsender of the database: simple queries only.
	Replication bool
	// Raw sets client_encoding to the server's encoding, so that no value is ever
	// converted. Without it text is UTF-8 (statements and names); COPY names its
	// encoding itself.
	Raw bool
	// Configure may set what only pgconn knows (BuildFrontend).
	Configure func(*pgconn.Config)
}

// outputPins are the settings that change how values print; verified by SHOW
// before a COPY and in the walsender (design §5).
func outputPins() map[string]string {
	return map[string]string{
		"DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex",
		"TimeZone": "UTC", "search_path": "", "lc_monetary": "C", "xmloption": "content",
	}
}

// mannerPins are those that say how a session behaves (protocol §6).
func mannerPins() map[string]string {
	return map[string]string{
		"synchronous_commit":                  "off", // a COMMIT that waits for an absent standby would hold its locks for ever
		"idle_in_transaction_session_timeout": "5s", "idle_session_timeout": "0", "statement_timeout": "0",
		"tcp_user_timeout": "5s", "tcp_keepalives_idle": "5", "tcp_keepalives_interval": "1",
		"tcp_keepalives_count": "3", "row_security": "off", "synchronize_seqscans": "off",
		"max_parallel_workers_per_gather": "0", "standard_conforming_strings": "on", "quote_all_identifiers": "off",
		"client_min_messages": "warning", "default_transaction_isolation": "read committed",
		"default_transaction_read_only": "off", "default_transaction_deferrable": "off", "jit": "off",
	}
}

// open makes a session with every pin set in the startup packet, which wins over
// ALTER ROLE and ALTER DATABASE … SET.
func (s *Source) open(ctx context.Context, purpose string, o sessionOptions) (*session, error) {
	cfg := s.parsed.Copy()
	maps.Copy(cfg.RuntimeParams, outputPins())
	maps.Copy(cfg.RuntimeParams, mannerPins())
	cfg.RuntimeParams["application_name"] = "lifeboat " + purpose
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	cfg.RuntimeParams["lock_timeout"] = strconv.FormatInt(s.lockWait().Milliseconds(), 10)
	if o.Raw {
		cfg.RuntimeParams["client_encoding"] = s.encoding
	}
	if o.Replication {
		cfg.RuntimeParams["replication"] = "database"
	}
	if o.Configure != nil {
		o.Configure(cfg)
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the source (%s): %w", purpose, err)
	}
	c := &session{conn}
	if v, _ := strconv.Atoi(strings.SplitN(conn.ParameterStatus("server_version"), ".", 2)[0]); v >= 17 {
		// Unknown to older servers, so it cannot stand in the startup packet.
		if _, err := c.simple(ctx, "SET transaction_timeout = 0"); err != nil {
			c.shut()
			return nil, fmt.Errorf("connect to the source (%s): %w", purpose, err)
		}
	}
	return c, nil
}

// lockWait bounds every wait for a lock: min(200 ms, deadlock_timeout/5), so that
// we have given up long before the server looks for a deadlock's victim.
func (s *Source) lockWait() time.Duration {
	if s.deadlock > 0 {
		return max(time.Millisecond, min(200*time.Millisecond, s.deadlock/5))
	}
	return 200 * time.Millisecond
}

// verify reads the output settings back: a pooler or a proxy may have dropped them.
func (c *session) verify(ctx context.Context) error {
	pins := outputPins()
	for _, name := range slices.Sorted(maps.Keys(pins)) {
		rows, err := c.simple(ctx, "SHOW "+name)
		if err != nil {
			return fmt.Errorf("verify setting %s: %w", name, err)
		}
		have := strings.Trim(string(rows[0][0]), `"`)
		if have != pins[name] {
			return fmt.Errorf("setting %s is %q and cannot be set to %q: values would print differently; connect without a pooler", name, have, pins[name])
		}
	}
	return nil
}

// pid is the server process of the session.
func (c *session) pid() uint32 { return c.PID() }

// shut closes at once, without waiting for the server's agreement.
func (c *session) shut() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// settle ends a transaction that an error left open.
func (c *session) settle(ctx context.Context) {
	if c.IsClosed() || c.TxStatus() == 'I' {
		return
	}
	if _, err := c.simple(ctx, "ROLLBACK"); err != nil {
		c.shut()
	}
}

// query runs one statement with text parameters and gives all its rows.
func (c *session) query(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	in := make([][]byte, len(args))
	for i, a := range args {
		in[i] = []byte(a)
	}
	res := c.ExecParams(ctx, sql, in, nil, nil, nil).Read()
	return res.Rows, res.Err
}

// one is query for exactly one row.
func (c *session) one(ctx context.Context, sql string, args ...string) (*scanner, error) {
	rows, err := c.query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("query gave %d rows, want one", len(rows))
	}
	return scan(rows[0]), nil
}

// simple sends one simple-query message, which may hold several statements, and
// gives the rows of the last that had any.
func (c *session) simple(ctx context.Context, sql string) ([][][]byte, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	var rows [][][]byte
	for _, r := range results {
		if len(r.Rows) > 0 {
			rows = r.Rows
		}
	}
	return rows, err
}

// scanner reads the fields of a row one after the other; the first error stays.
type scanner struct {
	row [][]byte
	i   int
	err error
}

func scan(row [][]byte) *scanner { return &scanner{row: row} }

func (s *scanner) next() []byte {
	if s.i >= len(s.row) {
		s.fail(fmt.Errorf("row of %d fields, want more", len(s.row)))
		return nil
	}
	s.i++
	return s.row[s.i-1]
}

func (s *scanner) fail(err error) {
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("field %d: %w", s.i, err)
	}
}

// text gives "" for NULL.
func (s *scanner) text() string { return string(s.next()) }
func (s *scanner) bool() bool   { return string(s.next()) == "t" }

func (s *scanner) byte() byte {
	b := s.next()
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// int64 gives 0 for NULL.
func (s *scanner) int64() int64 {
	b := s.next()
	if b == nil {
		return 0
	}
	v, err := strconv.ParseInt(string(b), 10, 64)
	s.fail(err)
	return v
}
func (s *scanner) int() int { return int(s.int64()) }

func (s *scanner) uint64() uint64 {
	b := s.next()
	if b == nil {
		return 0
	}
	v, err := strconv.ParseUint(string(b), 10, 64)
	s.fail(err)
	return v
}
func (s *scanner) oid() uint32 { return uint32(s.uint64()) }

func (s *scanner) lsn() record.LSN {
	b := s.next()
	if b == nil {
		return 0
	}
	l, err := record.ParseLSN(string(b))
	s.fail(err)
	return l
}

func (s *scanner) snapshot() record.Snapshot {
	v, err := record.ParseSnapshot(s.text())
	s.fail(err)
	return v
}

// sha reads 64 hex digits.
func (s *scanner) sha() (out [32]byte) {
	b := s.next()
	if len(b) != 64 {
		s.fail(fmt.Errorf("a hash of %d digits", len(b)))
		return out
	}
	for i := range out {
		v, err := strconv.ParseUint(string(b[2*i:2*i+2]), 16, 8)
		s.fail(err)
		out[i] = byte(v)
	}
	return out
}

// ints reads space-separated numbers (int2vector).
func (s *scanner) ints() (out []int) {
	for f := range strings.FieldsSeq(s.text()) {
		v, err := strconv.Atoi(f)
		s.fail(err)
		out = append(out, v)
	}
	return out
}

// ident quotes an identifier, always.
func ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// qualified quotes schema and name.
func qualified(schema, name string) string { return ident(schema) + "." + ident(name) }

// literal quotes a string under standard_conforming_strings, which is pinned.
func literal(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

// code gives the SQLSTATE of a server's error, else "".
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// SQLSTATEs that we act on (PostgreSQL, Appendix A).
const (
	lockNotAvailable      = "55P03"
	undefinedTable        = "42P01"
	undefinedObject       = "42704"
	internalError         = "XX000"
	duplicateObject       = "42710"
	adminShutdown         = "57P01"
	deadlockDetected      = "40P01"
	divisionByZero        = "22012"
	insufficientPrivilege = "42501"
)
