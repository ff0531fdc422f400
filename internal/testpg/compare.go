package testpg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CompareTables holds every ordinary table of one database against the other's:
// the same tables, the same columns by name, the same rows as a bag, generated
// columns included. It fails the test with the first differences. skip (may be
// nil) leaves tables out.
func CompareTables(t testing.TB, a, b string, skip func(schema, table string) bool) bool {
	t.Helper()
	diff, err := Differences(t.Context(), a, b, skip)
	if err != nil {
		t.Errorf("compare tables: %v", err)
		return false
	}
	for _, d := range diff {
		t.Error(d)
	}
	return len(diff) == 0
}

// ErrLocked: a table cannot be read. A standby that stands at a position holds the
// exclusive locks of the transactions that had not ended there (a TRUNCATE, a
// DROP); Oracle.Promote ends them.
var ErrLocked = errors.New("locked by a transaction that had not ended")

// Differences is CompareTables without a test: one sentence for each difference,
// at most three for a table.
func Differences(ctx context.Context, a, b string, skip func(schema, table string) bool) ([]string, error) {
	x, err := openSide(ctx, a)
	if err != nil {
		return nil, err
	}
	defer x.conn.Close(ctx)
	y, err := openSide(ctx, b)
	if err != nil {
		return nil, err
	}
	defer y.conn.Close(ctx)
	var diff []string
	for _, name := range sortedUnion(x.tables, y.tables) {
		if skip != nil && skip(name[0], name[1]) {
			continue
		}
		p, q := x.tables[name], y.tables[name]
		switch {
		case p == nil:
			diff = append(diff, fmt.Sprintf("%s is only in the second", title(name)))
		case q == nil:
			diff = append(diff, fmt.Sprintf("%s is only in the first", title(name)))
		case !slices.Equal(p, q):
			diff = append(diff, fmt.Sprintf("%s has other columns:\n\t%q\n\t%q", title(name), p, q))
		default:
			d, err := compareRows(ctx, x, y, name, p)
			var server *pgconn.PgError
			if errors.As(err, &server) && server.Code == "55P03" { // lock_not_available
				err = fmt.Errorf("%w: %w", ErrLocked, err)
			}
			if err != nil {
				return diff, fmt.Errorf("%s: %w", title(name), err)
			}
			diff = append(diff, d...)
		}
	}
	return diff, nil
}

type tableName [2]string // schema, table

func title(n tableName) string { return pgx.Identifier(n[:]).Sanitize() }

// side is one of the two databases.
type side struct {
	conn   *pgconn.PgConn
	tables map[tableName][]string // "name type" of the columns, in the order of names
}

func openSide(ctx context.Context, dsn string) (*side, error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s := &side{conn: conn, tables: map[tableName][]string{}}
	rows, err := query(ctx, conn, `
SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex';
SET timezone = 'UTC'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'; SET client_encoding = 'UTF8'; SET search_path = '';
SET row_security = off; SET statement_timeout = 0; SET lock_timeout = '5s';
SELECT n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2, a.attname COLLATE "C"`)
	if err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	for _, r := range rows {
		n := tableName{r[0], r[1]}
		if r[3] == Null { // a table without columns
			s.tables[n] = []string{}
			continue
		}
		s.tables[n] = append(s.tables[n], r[2]+"\x00"+r[3])
	}
	return s, nil
}

func sortedUnion(a, b map[tableName][]string) []tableName {
	var all []tableName
	for n := range a {
		all = append(all, n)
	}
	for n := range b {
		if _, both := a[n]; !both {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(x, y tableName) int {
		return strings.Compare(x[0]+"\x00"+x[1], y[0]+"\x00"+y[1])
	})
	return all
}

type lineHash [16]byte

// compareRows compares hashes of lines first; the lines themselves are read again
// only to name a difference.
func compareRows(ctx context.Context, x, y *side, name tableName, columns []string) ([]string, error) {
	a, err := x.hashes(ctx, name, columns)
	if err != nil {
		return nil, err
	}
	b, err := y.hashes(ctx, name, columns)
	if err != nil {
		return nil, err
	}
	onlyA, onlyB := apart(a, b)
	if len(onlyA)+len(onlyB) == 0 {
		return nil, nil
	}
	out := []string{fmt.Sprintf("%s has %d rows in the first and %d in the second; %d only in the first, %d only in the second", title(name), len(a), len(b), len(onlyA), len(onlyB))}
	for i, only := range [][]lineHash{onlyA, onlyB} {
		if len(only) == 0 {
			continue
		}
		s, where := x, "first"
		if i == 1 {
			s, where = y, "second"
		}
		var example string
		err := s.lines(ctx, name, columns, func(line []byte) {
			if h := sum(line); example == "" && slices.Contains(only[:min(len(only), 100)], h) {
				example = fmt.Sprintf("%s only in the %s: %.300q", title(name), where, line)
			}
		})
		if err != nil {
			return out, err
		}
		out = append(out, example)
	}
	return out, nil
}

func sum(line []byte) lineHash {
	h := sha256.Sum256(line)
	return lineHash(h[:16])
}

func (s *side) hashes(ctx context.Context, name tableName, columns []string) ([]lineHash, error) {
	var all []lineHash
	err := s.lines(ctx, name, columns, func(line []byte) { all = append(all, sum(line)) })
	slices.SortFunc(all, func(a, b lineHash) int { return bytes.Compare(a[:], b[:]) })
	return all, err
}

// lines calls f for each row as a line of COPY text.
func (s *side) lines(ctx context.Context, name tableName, columns []string, f func(line []byte)) error {
	var list []string
	for _, c := range columns {
		n, _, _ := strings.Cut(c, "\x00")
		list = append(list, pgx.Identifier{n}.Sanitize())
	}
	sql := fmt.Sprintf("COPY (SELECT %s FROM ONLY %s) TO STDOUT", strings.Join(list, ", "), title(name))
	w := &splitter{line: f}
	_, err := s.conn.CopyTo(ctx, w, sql)
	return err
}

// splitter cuts a stream at newlines.
type splitter struct {
	line func([]byte)
	rest []byte
}

func (s *splitter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.rest = append(s.rest, p...)
			return n, nil
		}
		s.line(append(s.rest, p[:i]...))
		s.rest, p = s.rest[:0], p[i+1:]
	}
}

// apart gives what is only in one of two sorted bags.
func apart(a, b []lineHash) (onlyA, onlyB []lineHash) {
	for len(a) > 0 && len(b) > 0 {
		switch c := bytes.Compare(a[0][:], b[0][:]); {
		case c == 0:
			a, b = a[1:], b[1:]
		case c < 0:
			onlyA, a = append(onlyA, a[0]), a[1:]
		default:
			onlyB, b = append(onlyB, b[0]), b[1:]
		}
	}
	return append(onlyA, a...), append(onlyB, b...)
}
