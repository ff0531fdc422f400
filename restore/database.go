package restore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.im/lifeboat/internal/calm"
	"lifeboat.im/lifeboat/synapse"
)

// database is the target: how to open sessions to it and what is in it.
type database struct {
	dsn     string
	cfg     *pgconn.Config
	version int    // server_version_num
	name    string // current_database()
	// encoding is that of the rows: the source's, in which lines were taken.
	encoding string
}

// pins are the settings under which rows are written and read back. Those that
// change how values print are what package cdc pins when it takes them.
func (d *database) pins() map[string]string {
	return map[string]string{
		"DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex",
		"TimeZone": "UTC", "search_path": "", "lc_monetary": "C", "xmloption": "content",
		"client_encoding": d.encoding, "standard_conforming_strings": "on", "row_security": "off",
		"client_min_messages": "error", "statement_timeout": "0", "lock_timeout": "0",
		"idle_in_transaction_session_timeout": "0", "default_transaction_read_only": "off",
		"default_transaction_isolation": "read committed", "synchronize_seqscans": "off",
		// Durable at the end: the last transaction waits for the disk, and with it all before.
		"synchronous_commit": "off", "application_name": "lifeboat restore",
	}
}

// connectConfig reads the target's address.
func connectConfig(dsn string) (*database, error) {
	cfg, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("read the address of the target: %w", err)
	}
	// One read of the kernel brings many rows.
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, 256<<10), w)
	}
	return &database{dsn: dsn, cfg: cfg, encoding: "UTF8"}, nil
}

// connect reads what the target is.
func connect(ctx context.Context, dsn string) (*database, error) {
	d, err := connectConfig(dsn)
	if err != nil {
		return nil, err
	}
	conn, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	rows, err := query(ctx, conn, "SELECT current_setting('server_version_num')::int, current_database(), pg_is_in_recovery()")
	if err != nil {
		return nil, err
	}
	if rows[0][2] == "t" {
		return nil, errors.New("the target is a standby server and takes no writes")
	}
	d.name = rows[0][1]
	_, err = fmt.Sscan(rows[0][0], &d.version)
	return d, err
}

// open makes a session with every pin set, which wins over ALTER ROLE … SET.
func (d *database) open(ctx context.Context) (*pgconn.PgConn, error) {
	cfg := d.cfg.Copy()
	for k, v := range d.pins() {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "3D000" { // invalid_catalog_name
		return nil, fmt.Errorf("connect to the target: database %q does not exist: create it first, for instance with createdb", cfg.Database)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the target: %w", err)
	}
	return conn, nil
}

// admission says what a target has to be.
type admission struct {
	startOver  bool // it may hold what is unfinished of ours
	homeserver bool // a Synapse has to start on it
	anyLocale  bool // one that bears another locale than C
}

// admit refuses the target before anything is read for it (P1), also one that the
// homeserver would not start on. It changes nothing.
func (d *database) admit(ctx context.Context, a admission) error {
	conn, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err = d.refuse(ctx, conn, a.startOver); err != nil || !a.homeserver {
		return err
	}
	rows, err := query(ctx, conn, synapse.LocaleSQL)
	if err != nil {
		return err
	}
	if why := synapse.LocaleFault(rows[0][0], rows[0][1], rows[0][2], a.anyLocale); why != "" {
		return fmt.Errorf("restore into database %s: %w: %s", d.name, ErrLocale, why)
	}
	return nil
}

// homeserver reports whether the tables of the plan are a Synapse's.
func (p *Plan) homeserver() bool {
	return synapse.Detect(func(schema, table string) bool {
		return slices.ContainsFunc(p.Tables, func(t TablePlan) bool { return t.Table == schema+"."+table })
	})
}

// openCalm makes a session on which much is read.
func (d *database) openCalm(ctx context.Context) (*pgconn.PgConn, error) {
	c := *d
	c.cfg = d.cfg.Copy()
	c.cfg.DialFunc = calm.Dial(d.cfg.DialFunc)
	return c.open(ctx)
}

// closeConn ends a session; a COPY that is still under way is cut short by it.
func closeConn(conn *pgconn.PgConn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no farewell: the server sees the socket close
	_ = conn.Close(ctx)
}

// query runs statements and gives the rows of the last one as text; NULL is "".
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var out [][]string
	for _, row := range results[len(results)-1].Rows {
		r := make([]string, len(row))
		for i, v := range row {
			r[i] = string(v)
		}
		out = append(out, r)
	}
	return out, nil
}

func runSQL(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	_, err := conn.Exec(ctx, sql).ReadAll()
	return err
}

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// conninfo gives the target's address without its password, which travels in the
// environment: a command line is for everyone to read.
func (d *database) conninfo() string {
	if strings.HasPrefix(d.dsn, "postgres://") || strings.HasPrefix(d.dsn, "postgresql://") {
		if u, err := url.Parse(d.dsn); err == nil {
			if u.User != nil {
				u.User = url.User(u.User.Username())
			}
			q := u.Query()
			q.Del("password")
			u.RawQuery = q.Encode()
			return u.String()
		}
	}
	return dropPassword(d.dsn)
}

// dropPassword takes the password out of libpq's keyword form.
func dropPassword(dsn string) string {
	var out []string
	for s := strings.TrimSpace(dsn); s != ""; s = strings.TrimSpace(s) {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		key, rest = strings.TrimSpace(key), strings.TrimLeft(rest, " ")
		end, quoted := 0, strings.HasPrefix(rest, "'")
		for i := 0; i < len(rest); i++ {
			end = i + 1
			if rest[i] == '\\' {
				i++
				continue
			}
			if quoted && i > 0 && rest[i] == '\'' {
				break
			}
			if !quoted && (rest[i] == ' ' || rest[i] == '\t' || rest[i] == '\n') {
				end = i
				break
			}
			end = min(i+1, len(rest))
		}
		if key != "password" {
			out = append(out, key+"="+rest[:end])
		}
		s = rest[end:]
	}
	return strings.Join(out, " ")
}
