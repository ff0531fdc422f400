package cdc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// connect opens a Source for a test.
func connect(t testing.TB, dsn, slot string) *Source {
	t.Helper()
	s, err := Connect(t.Context(), Config{DSN: dsn, Slot: slot, Publication: odd})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// odd is the publication's name: quotes of both levels, upper case, a comma and no
// ASCII.
const odd = `P,"q" 'ü😀`

// ready gives a database with a publication of everything and our slot.
func ready(t testing.TB, d *testpg.Database, statements ...string) *Source {
	t.Helper()
	d.Exec(t, statements...)
	with := ""
	if d.Major >= 18 { // or an UPDATE of a table with identity full and a generated column fails
		with = " WITH (publish_generated_columns = stored)"
	}
	d.Exec(t, "CREATE PUBLICATION "+ident(odd)+" FOR ALL TABLES"+with)
	// Slots are the cluster's, not the database's.
	s := connect(t, d.DSN, "s_"+d.Name)
	if _, err := s.CreateSlot(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// tape is a Handler that keeps what it is told, and can hold the stream up.
type tape struct {
	mu   sync.Mutex
	txs  []tapedTx
	open *tapedTx
	rels map[uint32]*StreamRelation
	idle record.LSN
	hold func()
	drop string  // a column that lines leave out
	st   *Stream // set by play
}

type tapedTx struct {
	xid  record.XID
	end  record.LSN
	rows []string // op, table, old line, new line
}

func (h *tape) Begin(x record.XID, _ record.LSN, _ record.Time) error {
	h.open = &tapedTx{xid: x}
	return nil
}

func (h *tape) Relation(r *StreamRelation) error {
	if h.rels == nil {
		h.rels = map[uint32]*StreamRelation{}
	}
	h.rels[r.OID] = r
	if h.drop != "" {
		var keep []int
		for i, c := range r.Columns {
			if c.Name != h.drop {
				keep = append(keep, i)
			}
		}
		h.st.SetColumns(r.OID, keep)
	}
	return nil
}

func (h *tape) Row(oid uint32, op record.Op, r *Row) error {
	if h.hold != nil {
		h.hold()
	}
	o, _ := r.AppendOld(nil)
	n, _ := r.AppendNew(nil)
	h.open.rows = append(h.open.rows, fmt.Sprintf("%c %s|%s|%s", op, h.rels[oid].Name, o, n))
	return nil
}

func (h *tape) Truncate(oids []uint32, flags uint64) error {
	for _, o := range oids {
		h.open.rows = append(h.open.rows, fmt.Sprintf("t %s %d", h.rels[o].Name, flags))
	}
	return nil
}

func (h *tape) Commit(_, end record.LSN, _ record.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open.end = end
	h.txs = append(h.txs, *h.open)
	return nil
}

func (h *tape) Idle(l record.LSN) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle = l
	return nil
}

// all gives the transactions that have rows, so far.
func (h *tape) all() []tapedTx {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.txs), func(x tapedTx) bool { return len(x.rows) == 0 })
}

// play streams into h until stop is called, which gives what Run returned.
func play(t testing.TB, s *Source, h Handler, o StreamOptions) (st *Stream, stop func() error) {
	t.Helper()
	st, err := s.Stream(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if h, ok := h.(*tape); ok {
		h.st = st
	}
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- st.Run(ctx, h) }()
	stop = sync.OnceValue(func() error { cancel(); return <-end })
	t.Cleanup(func() { _ = stop() })
	return st, stop
}

// confirmed reads the slot's confirmed position from the server.
func confirmed(t testing.TB, s *Source) record.LSN {
	t.Helper()
	slot, err := s.Slot(t.Context())
	if err != nil || slot == nil {
		t.Fatal(slot, err)
	}
	return slot.Confirmed
}

func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	testpg.WaitFor(t, 2*time.Minute, what, ok)
}

// TestC1_KeepalivesNeverMoveTheSlot: with a short wal_sender_timeout the server
// asks and asks, other traffic moves its position, and the slot stays where the
// last Confirm left it.
func TestC1_KeepalivesNeverMoveTheSlot(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "ALTER DATABASE "+d.Name+" SET wal_sender_timeout = '3s'", "CREATE TABLE t (i int)")
	other := testpg.Shared(t, 18).Database(t)
	h := &tape{}
	st, stop := play(t, s, h, StreamOptions{})
	if l := st.Begins(); l == 0 || st.Received() < l || st.Confirmed() != l {
		t.Fatalf("begins at %s, received %s", l, st.Received())
	}
	d.Exec(t, "INSERT INTO t VALUES (1)")
	wait(t, "the transaction", func() bool { return len(h.all()) == 1 })
	end := h.all()[0].end

	// Foreign WAL moves keepalives beyond the commit.
	for rounds := 0; rounds < 3 || len(h.all()) < 2 || st.Received() < end+1<<16; rounds++ {
		other.Exec(t, "CREATE TABLE IF NOT EXISTS o AS SELECT generate_series(1,2000)", "DROP TABLE o")
		if len(h.all()) < 2 {
			d.Exec(t, "INSERT INTO t VALUES (2)")
		}
		if got := confirmed(t, s); got != st.Begins() {
			t.Fatalf("slot at %s without a Confirm, began at %s", got, st.Begins())
		}
		if rounds > 10000 {
			t.Fatal("the position never moves")
		}
	}

	st.Confirm(end)
	wait(t, "the confirmation", func() bool { return confirmed(t, s) == end })
	st.Confirm(end - 1) // smaller: nothing
	wait(t, "a later keepalive", func() bool {
		other.Exec(t, "CREATE TABLE o2 (i int)", "DROP TABLE o2")
		return st.Received() > end+1<<17
	})
	if got := confirmed(t, s); got != end {
		t.Errorf("slot at %s after a Confirm of %s", got, end)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got := confirmed(t, s); got != end {
		t.Errorf("slot at %s after the end, Confirm was %s", got, end)
	}

	// A Confirm of what was never sent ends the stream and moves nothing.
	st, err := s.Stream(t.Context(), StreamOptions{Wait: -1})
	if err != nil {
		t.Fatal(err)
	}
	st.Confirm(st.Received() + 1<<40)
	if err := st.Run(t.Context(), &tape{}); !errors.Is(err, ErrConfirm) {
		t.Error(err)
	}
	if got := confirmed(t, s); got != end {
		t.Errorf("slot at %s after a Confirm too far, Confirm was %s", got, end)
	}
}

// confirming confirms each commit from within the handler.
type confirming struct{ tape }

func (h *confirming) Commit(c, end record.LSN, t record.Time) error {
	h.st.Confirm(end)
	return h.tape.Commit(c, end, t)
}

// TestConfirmWithinCommit: a commit may be confirmed as soon as it is told.
func TestConfirmWithinCommit(t *testing.T) {
	d := testpg.Shared(t, 15).Database(t)
	s := ready(t, d, "CREATE TABLE t (i int)")
	h := &confirming{}
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.st = st
	end := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { end <- st.Run(ctx, h) }()
	d.Exec(t, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
	wait(t, "two transactions", func() bool { return len(h.all()) == 2 })
	wait(t, "the confirmation", func() bool { return confirmed(t, s) == h.all()[1].end })
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestC2_AtLeastOnce: what was not confirmed comes again, whole and in the same
// order; what was confirmed does not. Confirming and stopping at once is enough.
func TestC2_AtLeastOnce(t *testing.T) {
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			d := testpg.Shared(t, major).Database(t)
			s := ready(t, d, "CREATE TABLE t (i int PRIMARY KEY, s text)", "ALTER TABLE t REPLICA IDENTITY FULL")
			for i := range 5 {
				d.Exec(t, fmt.Sprintf("BEGIN; INSERT INTO t SELECT g, 'x' FROM generate_series(%d, %d) g; UPDATE t SET s = 'y' WHERE i = %d; DELETE FROM t WHERE i = %d; COMMIT",
					10*i, 10*i+9, 10*i, 10*i+1))
			}
			near := snapshotXMax(t, d) + 3<<32 // any epoch: only its nearness counts
			var first []tapedTx
			for round := range 2 {
				h := &tape{}
				st, stop := play(t, s, h, StreamOptions{Near: near, Wait: -1})
				wait(t, "five transactions", func() bool { return len(h.all()) == 5 })
				if st.Received() < h.all()[4].end {
					t.Errorf("received %s", st.Received())
				}
				if round == 0 {
					first = h.all()
				} else if fmt.Sprint(first) != fmt.Sprint(h.all()) {
					t.Errorf("second time:\n%v\nfirst:\n%v", h.all(), first)
				} else {
					st.Confirm(first[2].end)
				}
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			for i, x := range first {
				if len(x.rows) != 12 || x.rows[10] != fmt.Sprintf("u t|%d\tx|%[1]d\ty", 10*i) || x.rows[11] != fmt.Sprintf("d t|%d\tx|", 10*i+1) {
					t.Errorf("transaction %d: %q", i, x.rows)
				}
				if x.xid>>32 != 3 || i > 0 && x.end <= first[i-1].end {
					t.Errorf("transaction %d is %d at %s", i, x.xid, x.end)
				}
			}
			h := &tape{}
			_, _ = play(t, s, h, StreamOptions{Wait: -1})
			wait(t, "the other two", func() bool { return len(h.all()) == 2 })
			if h.all()[0].end != first[3].end {
				t.Errorf("after a Confirm of %s came %s", first[2].end, h.all()[0].end)
			}
		})
	}
}

func snapshotXMax(t testing.TB, d *testpg.Database) record.XID {
	t.Helper()
	snap, err := record.ParseSnapshot(d.Query(t, "SELECT pg_current_snapshot()")[0][0])
	if err != nil {
		t.Fatal(err)
	}
	return snap.XMax & 0xFFFFFFFF
}

// hostile are settings of a database under which values would print differently.
func hostile(db string) []string {
	var out []string
	for _, s := range []string{
		"DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "extra_float_digits = -3", "bytea_output = 'escape'",
		"TimeZone = 'Asia/Kolkata'", "search_path = 'odd'", "lc_monetary = 'C'", "standard_conforming_strings = 'off'",
		"xmloption = 'document'", "client_encoding = 'LATIN1'", "statement_timeout = '5s'", "lock_timeout = '1ms'",
		"idle_in_transaction_session_timeout = '1s'",
	} {
		out = append(out, "ALTER DATABASE "+db+" SET "+s)
	}
	return out
}

// TestStreamLinesAreCopyLines: the line of a row that the stream brings is, byte
// for byte, the one that COPY prints, whatever the database's settings are.
func TestStreamLinesAreCopyLines(t *testing.T) {
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			d := testpg.Shared(t, major).Database(t)
			name := `"we""ird.Na` + "\n" + `me😀"`
			s := ready(t, d, "CREATE TYPE mood AS ENUM ('sad', 'o''k')", "CREATE DOMAIN posint AS int CHECK (value > 0)",
				"CREATE TYPE pair AS (a int, b text)", "CREATE SCHEMA odd", "CREATE TABLE odd.r (i int)",
				"CREATE TABLE "+name+` ("select" text, "Select" posint, f float8, r float4, n numeric, b bytea, ts timestamptz, d date,
					iv interval, m mood, p pair, a int[], tx text[], j json, jb jsonb, rc regclass, mo money, u uuid, bo bool,
					"g" int GENERATED ALWAYS AS ("Select" * 2) STORED, c "char", rng int4range, v tsvector)`,
				"ALTER TABLE "+name+" DROP COLUMN u", "ALTER TABLE "+name+" REPLICA IDENTITY FULL")
			d.Exec(t, hostile(d.Name)...)
			row := `SET search_path = ''; SET client_encoding = UTF8; SET standard_conforming_strings = on; SET lock_timeout = 0; INSERT INTO public.` + name + ` VALUES (` +
				`E'a\tb\nc\rd\\e\bf\fg\vh\x01 ü😀 \\.', 3, 0.1::float8+0.2::float8, 1.1, 1e40, '\xdeadbeef00', '2024-02-29 12:00+03', '0044-03-15 BC', '-1 day +02:03:04.5', ` +
				`'o''k', '(1,"x y")', '[0:1]={1,NULL}', '{"a,\"b",NULL,""}', '{"a": 1,  "a":2}', '{"a": "\t"}', 'odd.r', '12.34', true, DEFAULT, 'x', '[1,5)', 'a:1 b:2')`
			d.Exec(t, row, "INSERT INTO public."+name+" DEFAULT VALUES", `UPDATE public.`+name+` SET f = '-Infinity' WHERE "Select" = 3`)
			h := &tape{drop: "g"}
			play(t, s, h, StreamOptions{})
			wait(t, "three transactions", func() bool { return len(h.all()) == 3 })

			want := copyOut(t, s, "public."+name)
			_, last, _ := strings.Cut(strings.TrimPrefix(h.all()[2].rows[0], "u we\"ird.Na\nme😀|"), "|")
			_, null, _ := strings.Cut(strings.TrimPrefix(h.all()[1].rows[0], "i we\"ird.Na\nme😀|"), "|")
			if got := null + "\n" + last + "\n"; got != want {
				t.Errorf("stream:\n%s\nCOPY:\n%s", got, want)
			}
			if !strings.Contains(last, "0.1") && !strings.Contains(last, "-Infinity") {
				t.Errorf("line %q", last)
			}
		})
	}
}

// copyOut is COPY TO over a session with our pins.
func copyOut(t testing.TB, s *Source, table string) string {
	t.Helper()
	c, err := s.open(t.Context(), "test", sessionOptions{Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.shut()
	var b bytes.Buffer
	if _, err := c.CopyTo(t.Context(), &b, "COPY "+table+" TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestStreamEncodings: bytes come as the server has them; nothing is converted.
func TestStreamEncodings(t *testing.T) {
	c := testpg.Shared(t, 18)
	for encoding, hex := range map[string]string{"SQL_ASCII": "80ff41", "LATIN1": "e9fc", "EUC_JP": "a4a2"} {
		name := "enc_" + strings.ToLower(encoding)
		c.Query(t, "CREATE DATABASE "+name+" ENCODING '"+encoding+"' LOCALE 'C' TEMPLATE template0")
		s := connect(t, c.DSN(name), name)
		admin, err := pgconn.Connect(t.Context(), c.DSN(name))
		if err != nil {
			t.Fatal(err)
		}
		exec := func(sql string) {
			if _, err := admin.Exec(t.Context(), sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
		}
		exec(`CREATE PUBLICATION "other" FOR ALL TABLES; CREATE TABLE t (s text)`)
		s.cfg.Publication = "other"
		if _, err := s.CreateSlot(t.Context()); err != nil {
			t.Fatal(err)
		}
		exec("INSERT INTO t SELECT convert_from('\\x" + hex + "', '" + encoding + "')")
		h := &tape{}
		_, stop := play(t, s, h, StreamOptions{})
		wait(t, "the row", func() bool { return len(h.all()) == 1 })
		if got := fmt.Sprintf("%x", h.all()[0].rows[0][len("i t||"):]); got != hex {
			t.Errorf("%s: %s, want %s", encoding, got, hex)
		}
		_ = stop()
		if err := s.DropSlot(t.Context()); err != nil {
			t.Error(err)
		}
		_ = s.Close(t.Context())
		_ = admin.Close(t.Context())
		c.Query(t, "DROP DATABASE "+name+" (FORCE)")
	}
}

var update = flag.Bool("update", false, "write testdata anew")

// TestRecorded: testdata/pg18.stream is still what PostgreSQL 18 sends for these
// statements, message kind by message kind.
func TestRecorded(t *testing.T) {
	d := testpg.Shared(t, 18).Database(t)
	s := ready(t, d, "CREATE TYPE mood AS ENUM ('a')", "CREATE TABLE z ()",
		"CREATE TABLE t (i int PRIMARY KEY, s text, m mood)", "ALTER TABLE t ALTER s SET STORAGE EXTERNAL",
		"CREATE TABLE f (i int PRIMARY KEY, s text)", "ALTER TABLE f ALTER s SET STORAGE EXTERNAL", "ALTER TABLE f REPLICA IDENTITY FULL")
	d.Exec(t, "INSERT INTO z DEFAULT VALUES", "INSERT INTO t VALUES (1, repeat('x', 3000), 'a'), (2, NULL, NULL)",
		"UPDATE t SET m = NULL WHERE i = 1", "UPDATE t SET i = 3 WHERE i = 1", "DELETE FROM t WHERE i = 2",
		"INSERT INTO f VALUES (1, repeat('y', 3000))", "UPDATE f SET i = 2", "DELETE FROM f", "TRUNCATE t, f RESTART IDENTITY CASCADE",
		"BEGIN; ALTER TABLE t ADD n int DEFAULT 7; INSERT INTO t (i) VALUES (9); COMMIT")
	st, err := s.Stream(t.Context(), StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var file, kinds []byte
	for commits := 0; commits < 10; {
		m, err := st.conn.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cd, ok := m.(*pgproto3.CopyData)
		if !ok || cd.Data[0] != 'w' {
			continue
		}
		data := cd.Data[xlogHeader:]
		file = append(binary.BigEndian.AppendUint32(file, uint32(len(data))), data...)
		kinds = append(kinds, data[0])
		if data[0] == 'C' {
			commits++
		}
	}
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile("testdata/pg18.stream", file, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var want []byte
	for _, m := range recorded(t) {
		want = append(want, m[0])
	}
	if string(kinds) != string(want) {
		t.Errorf("PostgreSQL sends %s, recorded is %s", kinds, want)
	}
}
