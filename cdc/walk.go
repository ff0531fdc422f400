package cdc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"lifeboat.im/lifeboat/record"
)

// ErrProtocol: bytes of the replication stream that no walsender sends, or a
// message in a place where it cannot be.
var ErrProtocol = errors.New("not a valid replication stream")

// Handler takes what the stream brings, from the goroutine of [Stream.Run] only.
// Slices are valid during the call. An error ends Run and is returned by it.
//
// Calls come as Begin, then any of Relation, Row and Truncate, then Commit; Idle
// only between Commit and Begin. Transactions come whole and in commit order; after
// a reconnect those that were not confirmed come again (C2).
type Handler interface {
	// Begin opens a transaction; final is the LSN of its commit record, xid its
	// widened top-level id.
	Begin(xid record.XID, final record.LSN, t record.Time) error
	// Relation precedes the first row of a table in a session and comes again when
	// the table may have changed. It resets the columns to all; the handler may call
	// [Stream.SetColumns] for it now. r may be kept.
	Relation(r *StreamRelation) error
	// Row is one insert, update or delete.
	Row(oid uint32, op record.Op, row *Row) error
	// Truncate names the tables of one TRUNCATE that are in the publication; flags
	// are record.TruncateCascade and record.TruncateRestart.
	Truncate(oids []uint32, flags uint64) error
	// Commit closes the transaction; end is its restore point.
	Commit(commit, end record.LSN, t record.Time) error
	// Idle: no transaction is open and everything up to position has been received.
	Idle(position record.LSN) error
}

// StreamRelation is a Relation message: a table as the decoder sees it at this
// place of the stream. Names are in the server's encoding.
type StreamRelation struct {
	OID          uint32
	Schema, Name string
	// Columns are the published ones in attribute order; dropped columns are not
	// among them, stored generated ones are on request (PostgreSQL 18).
	Columns []StreamColumn
	// Replident is pg_class.relreplident: 'd', 'n', 'f' or 'i'.
	Replident byte
}

// StreamColumn is a column of a [StreamRelation].
type StreamColumn struct {
	Name    string
	TypeOID uint32
	TypeMod int32
	// KeyFlag: part of the replica identity. With identity full it is set for every
	// column and says nothing about keys.
	KeyFlag bool
}

// relation is a table known to the walker and which of its columns make a line.
type relation struct {
	StreamRelation
	keep []int
	bad  bool // keep names a column that there is not
}

// walker reads pgoutput messages of protocol 1 in text form (PostgreSQL
// documentation, "Logical Replication Message Formats"; src/backend/replication/
// logical/proto.c). It trusts no length, never panics, and allocates nothing per
// row.
type walker struct {
	near *atomic.Uint64 // newest 64-bit xid known, see record.Widen
	sent *atomic.Uint64 // greatest position seen, raised before the handler learns of it

	relations map[uint32]*relation
	row       Row
	oids      []uint32 // scratch of truncate

	open  bool       // between Begin and Commit
	final record.LSN // of the open transaction
	end   record.LSN // of the newest complete commit
	at    record.Time
}

func newWalker(near, sent *atomic.Uint64) *walker {
	return &walker{near: near, sent: sent, relations: map[uint32]*relation{}}
}

// setColumns is [Stream.SetColumns].
func (w *walker) setColumns(oid uint32, keep []int) {
	rel := w.relations[oid]
	if rel == nil {
		return
	}
	rel.keep, rel.bad = append([]int(nil), keep...), false
	for _, k := range keep {
		if k < 0 || k >= len(rel.Columns) {
			rel.bad = true
		}
	}
}

// message walks one message, which came at lsn, and calls h for what it says.
func (w *walker) message(lsn record.LSN, data []byte, h Handler) error {
	if len(data) == 0 {
		return fmt.Errorf("walk message at %s: it is empty: %w", lsn, ErrProtocol)
	}
	tag := data[0]
	c := cursor{b: data, off: 1}
	var err error
	switch tag {
	case 'I', 'U', 'D':
		err = w.change(tag, &c, h)
		w.row.msg = nil // the message may be huge and is not ours
	case 'B':
		err = w.begin(&c, h)
	case 'C':
		err = w.commit(&c, h)
	case 'R':
		err = w.relation(&c, h)
	case 'T':
		err = w.truncate(&c, h)
	case 'Y':
		c.u32()
		c.str()
		c.str()
		err = w.skip(&c, w.open)
	case 'O':
		c.u64()
		c.str()
		err = w.skip(&c, w.open)
	case 'M':
		transactional := c.u8()&1 == 1
		c.u64()
		c.str()
		c.bytes(int64(int32(c.u32())))
		err = w.skip(&c, w.open || !transactional)
	default:
		err = bad("an unknown tag")
	}
	if err == nil {
		return nil
	}
	if b, ok := errors.AsType[bad](err); ok {
		return fmt.Errorf("walk message %q of %d bytes at %s: %s at byte %d: %w", tag, len(data), lsn, string(b), c.off, ErrProtocol)
	}
	return err
}

// bad is what is wrong with a message; message adds where.
type bad string

func (b bad) Error() string { return string(b) }

const (
	errShort   = bad("it ends early or a length is out of bounds")
	errLong    = bad("bytes after its end")
	errOutside = bad("outside a transaction")
)

// skip closes a message that says nothing to us.
func (w *walker) skip(c *cursor, allowed bool) error {
	if !allowed {
		return errOutside
	}
	return c.close()
}

func (w *walker) begin(c *cursor, h Handler) error {
	final, t, low := record.LSN(c.u64()), record.Time(c.u64()), c.u32()
	if err := c.close(); err != nil {
		return err
	}
	if w.open {
		return bad("inside a transaction")
	}
	if final < w.end {
		return bad("a transaction out of commit order")
	}
	xid := record.Widen(low, record.XID(w.near.Load()))
	raise(w.near, uint64(xid))
	w.open, w.final = true, final
	return h.Begin(xid, final, t)
}

func (w *walker) commit(c *cursor, h Handler) error {
	flags := c.u8()
	commit, end, t := record.LSN(c.u64()), record.LSN(c.u64()), record.Time(c.u64())
	if err := c.close(); err != nil {
		return err
	}
	switch {
	case !w.open:
		return errOutside
	case flags != 0:
		return bad("unknown flags")
	case commit != w.final || end <= commit:
		return bad("it does not fit its begin")
	}
	w.open, w.end, w.at = false, end, t
	raise(w.sent, uint64(end))
	return h.Commit(commit, end, t)
}

func (w *walker) relation(c *cursor, h Handler) error {
	r := &relation{}
	r.OID = c.u32()
	r.Schema, r.Name = string(c.str()), string(c.str())
	r.Replident = c.u8()
	n := int(c.u16())
	// A column takes 10 bytes at least: a count beyond what is there is a lie.
	if c.short || n > (len(c.b)-c.off)/10 {
		return errShort
	}
	r.Columns, r.keep = make([]StreamColumn, n), make([]int, n)
	for i := range r.Columns {
		flags := c.u8()
		r.Columns[i] = StreamColumn{
			Name: string(c.str()), TypeOID: c.u32(), TypeMod: int32(c.u32()), KeyFlag: flags&1 == 1,
		}
		r.keep[i] = i
	}
	if err := c.close(); err != nil {
		return err
	}
	if !w.open {
		return errOutside
	}
	if r.Schema == "" {
		r.Schema = "pg_catalog" // logicalrep_write_namespace sends it empty
	}
	w.relations[r.OID] = r
	return h.Relation(&r.StreamRelation)
}

func (w *walker) truncate(c *cursor, h Handler) error {
	n, flags := int64(c.u32()), uint64(c.u8())
	if c.short || n*4 != int64(len(c.b)-c.off) {
		return errShort
	}
	if !w.open {
		return errOutside
	}
	if flags&^(record.TruncateCascade|record.TruncateRestart) != 0 {
		return bad("unknown flags")
	}
	w.oids = w.oids[:0]
	for range n {
		oid := c.u32()
		if w.relations[oid] == nil {
			return bad("a table that no Relation message described")
		}
		w.oids = append(w.oids, oid)
	}
	return h.Truncate(w.oids, flags)
}

func (w *walker) change(tag byte, c *cursor, h Handler) error {
	oid, part := c.u32(), c.u8()
	if c.short {
		return errShort
	}
	if !w.open {
		return errOutside
	}
	rel := w.relations[oid]
	if rel == nil {
		return bad("a table that no Relation message described")
	}
	if rel.bad {
		return fmt.Errorf("walk row of %s.%s: a column was chosen that the message does not have", rel.Schema, rel.Name)
	}
	r := &w.row
	r.msg, r.rel, r.identity, r.hasNew = c.b, rel, 0, false
	if tag != 'I' && (part == 'K' || part == 'O') {
		if err := r.tuple(c, &r.old); err != nil {
			return err
		}
		r.identity = part
		if tag == 'U' {
			if part = c.u8(); c.short {
				return errShort
			}
		}
	}
	var op record.Op
	switch tag {
	case 'I':
		op = record.Insert
	case 'U':
		op = record.Update
	default:
		op = record.Delete
	}
	if op == record.Delete {
		if r.identity == 0 {
			return bad("a delete without an old row")
		}
	} else {
		if part != 'N' {
			return bad("no new row")
		}
		if err := r.tuple(c, &r.new); err != nil {
			return err
		}
		r.hasNew = true
	}
	if err := c.close(); err != nil {
		return err
	}
	return h.Row(oid, op, r)
}

// raise sets a to v if v is greater.
func raise(a *atomic.Uint64, v uint64) bool {
	for {
		old := a.Load()
		if v <= old {
			return false
		}
		if a.CompareAndSwap(old, v) {
			return true
		}
	}
}

// cursor reads big-endian values; past the end it gives zeros and is short.
type cursor struct {
	b     []byte
	off   int
	short bool
}

func (c *cursor) need(n int) bool {
	if c.short || len(c.b)-c.off < n {
		c.short = true
		return false
	}
	c.off += n
	return true
}

func (c *cursor) u8() byte {
	if !c.need(1) {
		return 0
	}
	return c.b[c.off-1]
}

func (c *cursor) u16() uint16 {
	if !c.need(2) {
		return 0
	}
	return binary.BigEndian.Uint16(c.b[c.off-2:])
}

func (c *cursor) u32() uint32 {
	if !c.need(4) {
		return 0
	}
	return binary.BigEndian.Uint32(c.b[c.off-4:])
}

func (c *cursor) u64() uint64 {
	if !c.need(8) {
		return 0
	}
	return binary.BigEndian.Uint64(c.b[c.off-8:])
}

func (c *cursor) bytes(n int64) []byte {
	if n < 0 || n > int64(len(c.b)-c.off) || !c.need(int(n)) {
		c.short = true
		return nil
	}
	return c.b[c.off-int(n) : c.off]
}

// str reads a string that ends in a zero byte.
func (c *cursor) str() []byte {
	if c.short {
		return nil
	}
	for i := c.off; i < len(c.b); i++ {
		if c.b[i] == 0 {
			s := c.b[c.off:i]
			c.off = i + 1
			return s
		}
	}
	c.short = true
	return nil
}

// close says that the message ends here.
func (c *cursor) close() error {
	switch {
	case c.short:
		return errShort
	case c.off != len(c.b):
		return errLong
	}
	return nil
}
