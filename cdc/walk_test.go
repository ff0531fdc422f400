package cdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"lifeboat.im/lifeboat/record"
)

// message builds a pgoutput message: strings are raw bytes, the rest big-endian.
func message(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			b = append(b, v...)
		case []byte:
			b = append(b, v...)
		case byte:
			b = append(b, v)
		default:
			b, _ = binary.Append(b, binary.BigEndian, v)
		}
	}
	return b
}

// tuple builds a TupleData; nil is NULL, unchanged is 'u'.
func tuple(values ...any) []byte {
	b := message(uint16(len(values)))
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case struct{}:
			b = append(b, 'u')
		case string:
			b = append(b, message("t", uint32(len(v)), v)...)
		}
	}
	return b
}

var (
	unchanged = struct{}{}

	begin  = message("B", uint64(0x100), uint64(7), uint32(42))
	commit = message("C", byte(0), uint64(0x100), uint64(0x130), uint64(7))
)

// table is the Relation message of public.t, oid 9: k is its key.
func table(replident string, columns ...string) []byte {
	b := message("R", uint32(9), "public\x00", "t\x00", replident, uint16(len(columns)))
	for _, c := range columns {
		b = append(b, message(byte(len(c)&1), c, byte(0), uint32(25), int32(-1))...)
	}
	return b
}

// script is a Handler that writes down what it is told.
type script struct {
	strings.Builder
	keep []int // columns for every relation
	walk *walker
}

func (s *script) say(format string, args ...any) error {
	fmt.Fprintf(s, format+"\n", args...)
	return nil
}

func (s *script) Begin(x record.XID, l record.LSN, t record.Time) error {
	return s.say("begin %d %s %d", x, l, t)
}

func (s *script) Relation(r *StreamRelation) error {
	if s.keep != nil {
		s.walk.setColumns(r.OID, s.keep)
	}
	return s.say("relation %d %s.%s %c %d", r.OID, r.Schema, r.Name, r.Replident, len(r.Columns))
}

func (s *script) Row(oid uint32, op record.Op, r *Row) error {
	o, ok1 := r.AppendOld([]byte("?"))
	n, ok2 := r.AppendNew([]byte("?"))
	if (len(o) == 1) != !ok1 && len(r.rel.Columns) > 0 || (len(n) == 1) != !ok2 && len(r.rel.Columns) > 0 {
		return errors.New("a line and its ok do not agree")
	}
	return s.say("%c %d old=%v%q new=%v%q complete=%v", op, oid, ok1, o[1:], ok2, n[1:], r.Complete(op))
}

func (s *script) Truncate(oids []uint32, flags uint64) error {
	return s.say("truncate %v %d", oids, flags)
}

func (s *script) Commit(c, e record.LSN, t record.Time) error {
	return s.say("commit %s %s %d", c, e, t)
}
func (s *script) Idle(l record.LSN) error { return s.say("idle %s", l) }

// walkAll walks messages with a new walker.
func walkAll(s *script, messages ...[]byte) error {
	s.walk = newWalker(new(atomic.Uint64), new(atomic.Uint64))
	for i, m := range messages {
		if err := s.walk.message(record.LSN(i), m, s); err != nil {
			return err
		}
	}
	return nil
}

func TestWalk(t *testing.T) {
	// In table() a column with a name of odd length is flagged as key.
	two := table("d", "key", "body")
	for _, c := range []struct {
		name string
		rel  []byte
		keep []int
		msg  []byte
		want string
	}{
		{"insert", two, nil, message("I", uint32(9), "N", tuple("1", "a\tb\\")), `i 9 old=false"" new=true"1\ta\\tb\\\\" complete=true`},
		{"insert NULL and empty", two, nil, message("I", uint32(9), "N", tuple("", nil)), `i 9 old=false"" new=true"\t\\N" complete=true`},
		{"insert without columns", table("d"), nil, message("I", uint32(9), "N", tuple()), `i 9 old=false"" new=true"" complete=true`},
		{"chosen columns", two, []int{1}, message("I", uint32(9), "N", tuple("1", "b")), `i 9 old=false"" new=true"b" complete=true`},
		{"columns in another order", two, []int{1, 0}, message("I", uint32(9), "N", tuple("1", "b")), `i 9 old=false"" new=true"b\t1" complete=true`},
		{"full update", two, nil, message("U", uint32(9), "O", tuple("1", "b"), "N", tuple("2", unchanged)), `u 9 old=true"1\tb" new=true"2\tb" complete=true`},
		{"key update", two, nil, message("U", uint32(9), "K", tuple("1", nil), "N", tuple("2", unchanged)), `u 9 old=true"1\t\\U" new=true"2\t\\U" complete=false`},
		{"key update of a long key", two, nil, message("U", uint32(9), "K", tuple("1", nil), "N", tuple(unchanged, "x")), `u 9 old=true"1\t\\U" new=true"1\tx" complete=false`},
		{"update without old", two, nil, message("U", uint32(9), "N", tuple("2", unchanged)), `u 9 old=false"" new=true"2\t\\U" complete=false`},
		{"full delete", two, nil, message("D", uint32(9), "O", tuple("1", nil)), `d 9 old=true"1\t\\N" new=false"" complete=true`},
		{"key delete", two, nil, message("D", uint32(9), "K", tuple("1", nil)), `d 9 old=true"1\t\\U" new=false"" complete=false`},
		{"truncate", two, nil, message("T", uint32(1), byte(3), uint32(9)), "truncate [9] 3"},
		{"type", two, nil, message("Y", uint32(5), "\x00", "int4\x00"), ""},
		{"origin", two, nil, message("O", uint64(5), "o\x00"), ""},
		{"message", two, nil, message("M", byte(1), uint64(5), "p\x00", uint32(2), "hi"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{keep: c.keep}
			if err := walkAll(s, begin, c.rel, c.msg, commit); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(s.String(), "\n")
			if got := strings.Join(lines[2:len(lines)-2], "\n"); got != c.want {
				t.Errorf("have %s\nwant %s", got, c.want)
			}
			if lines[0] != "begin 42 0/100 7" || lines[len(lines)-2] != "commit 0/100 0/130 7" {
				t.Errorf("the transaction is %q", lines)
			}
		})
	}
}

// Anything illegal is an error that names the place and the tag.
func TestWalkIllegal(t *testing.T) {
	two := table("d", "key", "body")
	insert := message("I", uint32(9), "N", tuple("1", "b"))
	for name, in := range map[string][][]byte{
		"empty":                        {{}},
		"unknown tag":                  {[]byte("S")},
		"row outside a transaction":    {begin, two, commit, insert},
		"row of an unknown table":      {begin, insert},
		"another number of columns":    {begin, two, message("I", uint32(9), "N", tuple("1"))},
		"insert with an old row":       {begin, two, message("I", uint32(9), "O", tuple("1", "b"))},
		"delete of a new row":          {begin, two, message("D", uint32(9), "N", tuple("1", "b"))},
		"update without a new row":     {begin, two, message("U", uint32(9), "O", tuple("1", "b"))},
		"binary value":                 {begin, two, message("I", uint32(9), "N", uint16(2), "n", "b", uint32(1), "x")},
		"unknown kind":                 {begin, two, message("I", uint32(9), "N", uint16(2), "n", "x")},
		"negative length":              {begin, two, message("I", uint32(9), "N", uint16(2), "n", "t", int32(-1))},
		"length beyond the end":        {begin, two, message("I", uint32(9), "N", uint16(2), "n", "t", int32(9), "x")},
		"bytes after the end":          {begin, two, append(insert[:len(insert):len(insert)], 0)},
		"relation with a lying count":  {begin, message("R", uint32(9), "a\x00", "b\x00", "d", uint16(60000))},
		"relation without end of name": {begin, message("R", uint32(9), "a")},
		"truncate with a lying count":  {begin, two, message("T", uint32(1<<30), byte(0), uint32(9))},
		"truncate of an unknown table": {begin, message("T", uint32(1), byte(0), uint32(9))},
		"truncate with unknown flags":  {begin, two, message("T", uint32(1), byte(8), uint32(9))},
		"message with a lying length":  {begin, message("M", byte(0), uint64(5), "p\x00", int32(-2))},
		"column out of the message":    {begin, two, message("I", uint32(9), "N", tuple("1", "b"))},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			if name == "column out of the message" {
				s.keep = []int{0, 2}
			}
			err := walkAll(s, in...)
			if err == nil {
				t.Fatal("walked")
			}
			if s.keep != nil {
				return // our own mistake, not the stream's
			}
			last := in[len(in)-1]
			place := record.LSN(len(in) - 1).String()
			if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), place) ||
				len(last) > 0 && !strings.Contains(err.Error(), fmt.Sprintf("%q", last[0])) {
				t.Error(err)
			}
		})
	}
}

// TestC2_WalkerRefusesTornTransactions: what is not a whole transaction in commit
// order never reaches the handler as one.
func TestC2_WalkerRefusesTornTransactions(t *testing.T) {
	early := message("B", uint64(0x90), uint64(7), uint32(43))
	for name, in := range map[string][][]byte{
		"begin within":         {begin, begin},
		"commit without begin": {commit},
		"commit of another":    {early, commit},
		"commit twice":         {begin, commit, commit},
		"before the last":      {begin, commit, early},
		"end at its start":     {begin, message("C", byte(0), uint64(0x100), uint64(0x100), uint64(7))},
	} {
		if err := walkAll(&script{}, in...); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The walker keeps nothing of a message.
func TestWalkKeepsNoMessage(t *testing.T) {
	s := &script{}
	if err := walkAll(s, begin, table("d", "key"), message("I", uint32(9), "N", tuple("1"))); err != nil {
		t.Fatal(err)
	}
	if s.walk.row.msg != nil {
		t.Error("the row still holds its message")
	}
}

// appender makes lines as the agent does, into one buffer.
type appender struct {
	script
	line []byte
	rows int
}

func (a *appender) Row(_ uint32, _ record.Op, r *Row) error {
	a.line, _ = r.AppendOld(a.line[:0])
	a.line, _ = r.AppendNew(a.line)
	a.rows++
	return nil
}

func TestWalkAllocatesNothing(t *testing.T) {
	a := &appender{}
	w := newWalker(new(atomic.Uint64), new(atomic.Uint64))
	walk := func(m []byte) {
		if err := w.message(1, m, a); err != nil {
			t.Fatal(err)
		}
	}
	walk(begin)
	walk(table("f", "key", "body"))
	for name, m := range map[string][]byte{
		"insert": message("I", uint32(9), "N", tuple("1", "some\ttext")),
		"update": message("U", uint32(9), "O", tuple("1", "b"), "N", tuple("2", unchanged)),
		"delete": message("D", uint32(9), "K", tuple("1", nil)),
	} {
		if n := testing.AllocsPerRun(100, func() { walk(m) }); n != 0 {
			t.Errorf("%s: %v allocations per row", name, n)
		}
	}
}

// recorded gives the messages of testdata/pg18.stream: what PostgreSQL 18 sent for
// the statements of TestRecorded, each after its length.
func recorded(t testing.TB) [][]byte {
	b, err := os.ReadFile("testdata/pg18.stream")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		out, b = append(out, b[4:4+n]), b[4+n:]
	}
	return out
}

// FuzzWalk: whatever follows a real stream, the walker gives an error or calls
// that make sense, and does not panic.
func FuzzWalk(f *testing.F) {
	real := recorded(f)
	for _, m := range real {
		f.Add(m)
	}
	f.Add(message("I", uint32(9), "N", uint16(65535)))
	f.Fuzz(func(t *testing.T, m []byte) {
		w := newWalker(new(atomic.Uint64), new(atomic.Uint64))
		a := &appender{}
		a.walk = w
		// Once at the beginning, once inside each transaction's end, so that tables
		// are known.
		_ = w.message(0, m, a)
		w = newWalker(new(atomic.Uint64), new(atomic.Uint64))
		for i, r := range real {
			if r[0] == 'C' {
				if err := w.message(record.LSN(i), bytes.Clone(m), a); err != nil && w.row.msg != nil {
					t.Fatal("the row still holds its message")
				}
			}
			if err := w.message(record.LSN(i), r, a); err != nil {
				return // the input changed what is open
			}
		}
	})
}

func TestWalkRecorded(t *testing.T) {
	a := &appender{}
	w := newWalker(new(atomic.Uint64), new(atomic.Uint64))
	tags := map[byte]int{}
	for i, m := range recorded(t) {
		tags[m[0]]++
		if err := w.message(record.LSN(i), m, a); err != nil {
			t.Fatal(err)
		}
	}
	for _, tag := range []byte("BCRYIUDT") {
		if tags[tag] == 0 {
			t.Errorf("no message %q among the recorded: %v", tag, tags)
		}
	}
	if a.rows != tags['I']+tags['U']+tags['D'] {
		t.Errorf("%d rows of %v", a.rows, tags)
	}
}

func BenchmarkWalk(b *testing.B) {
	values := make([]any, 8)
	for i := range values {
		values[i] = strings.Repeat("v", 10)
	}
	columns := strings.Fields("a b c d e f g h")
	for name, m := range map[string][]byte{
		"insert8": message("I", uint32(9), "N", tuple(values...)),
		"update8": message("U", uint32(9), "O", tuple(values...), "N", tuple(values...)),
	} {
		b.Run(name, func(b *testing.B) {
			w, a := newWalker(new(atomic.Uint64), new(atomic.Uint64)), &appender{}
			for _, m := range [][]byte{begin, table("f", columns...)} {
				if err := w.message(1, m, a); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(m)))
			b.ReportAllocs()
			for b.Loop() {
				if err := w.message(1, m, a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
