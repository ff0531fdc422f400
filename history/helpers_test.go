package history

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"lifeboat.im/lifeboat/chunkstore"
	"lifeboat.im/lifeboat/chunkstore/storetest"
	"lifeboat.im/lifeboat/record"
)

// memKeys are the epoch keys of one host.
type memKeys struct {
	mu sync.Mutex
	m  map[uint64]chunkstore.Secret
}

func newMemKeys() *memKeys { return &memKeys{m: map[uint64]chunkstore.Secret{}} }

func (k *memKeys) Put(epoch uint64, s chunkstore.Secret) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m[epoch] = s
	return nil
}

func (k *memKeys) Get(epoch uint64) (chunkstore.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.m[epoch]
	if !ok {
		return s, fmt.Errorf("get key of epoch %d: %w", epoch, ErrNoKey)
	}
	return s, nil
}

func (k *memKeys) Remove(epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.m, epoch)
	return nil
}

func (k *memKeys) held() []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []uint64
	for e := range k.m {
		out = append(out, e)
	}
	return out
}

// bench is a small repository with one lineage.
type bench struct {
	tb       testing.TB
	mem      *storetest.Memory
	repo     *Repository
	secrets  *Secrets
	operator *age.X25519Identity
	id       LineageID
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	op, err := age.GenerateX25519Identity()
	must(tb, err)
	b := &bench{tb: tb, mem: storetest.NewMemory(tb), operator: op}
	b.id.SystemID, b.id.Database = 7_300_000_000_000_000_001, 16_384
	b.id.Lineage = record.Lineage{1, 2, 3, 4, 5, 6, 7, 8}
	b.repo, b.secrets, err = Create(tb.Context(), b.mem, CreateOptions{Recipients: []string{op.Recipient().String()}})
	must(tb, err)
	return b
}

// agentLog is the log as the agent's host has it.
func (b *bench) agentLog(keys EpochKeys) *Log {
	return quick(b.repo.Log(b.secrets.Agent(), b.id, keys))
}

// operatorLog opens everything.
func (b *bench) operatorLog() *Log { return quick(b.repo.Log(b.secrets, b.id, nil)) }

// quick makes retries immediate and reads one after the other.
func quick(l *Log) *Log {
	l.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	l.ahead = 1
	return l
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func mustBe(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("error %v, want %v", err, want)
	}
}

// relations of the tests: two small tables and one with secrets.
func testRelations() []record.Relation {
	col := []record.Column{{Name: "id", Type: "bigint", TypeOID: 20, TypeMod: -1}, {Name: "v", Type: "text", TypeOID: 25, TypeMod: -1}}
	return []record.Relation{
		{OID: 100, Schema: "public", Name: "a", Columns: col, Key: []uint16{0}, Identity: record.Full},
		{OID: 101, Schema: "public", Name: "b", Columns: col, Identity: record.Full},
		{OID: 102, Schema: "public", Name: "tokens", Columns: col, Key: []uint16{0}, Identity: record.Full, Secret: true},
	}
}

// row is one record as the oracle knows it.
type row struct {
	end     record.LSN
	ordinal uint64
	table   uint32
	op      record.Op
	text    string
	long    int // 1 + which long line it is; the model's alone
}

// segmentOf makes a segment after start with one transaction for each list of
// rows; rows' end and ordinal are set.
func segmentOf(start record.LSN, txs ...[]row) (*record.Segment, []row) {
	var list []walTx
	var all []row
	for i, rows := range txs {
		t := walTx{end: start + 100*record.LSN(i+1), rows: rows}
		for n := range rows {
			rows[n].end, rows[n].ordinal = t.end, uint64(n)
		}
		list, all = append(list, t), append(all, rows...)
	}
	s, _ := segmentAt(start, list, nil)
	return s, all
}

// segmentAt makes the segment of these transactions; long gives the extents of a
// long line.
func segmentAt(start record.LSN, txs []walTx, long func(int) ([]record.Extent, error)) (*record.Segment, error) {
	s := &record.Segment{Start: start, End: start, Relations: testRelations()}
	parts := map[bool]*record.Part{false: {}, true: {Secret: true}}
	for i, t := range txs {
		marked := map[bool]bool{}
		for n := range t.rows {
			r := &t.rows[n]
			rel := r.table - 100
			p := parts[s.Relations[rel].Secret]
			if !marked[p.Secret] {
				p.Inline = record.AppendTransaction(p.Inline, uint64(i))
				marked[p.Secret] = true
			}
			rec := record.Record{Ordinal: r.ordinal, Relation: rel, Op: r.op}
			line := record.Line{Text: []byte(r.text)}
			if r.long > 0 {
				ext, err := long(r.long)
				if err != nil {
					return nil, err
				}
				line = record.Line{Extents: ext}
			}
			if r.op == record.Delete {
				rec.Old = line
			} else {
				rec.New = line
			}
			p.Inline = record.AppendRecord(p.Inline, &rec)
			p.Records++
		}
		s.Transactions = append(s.Transactions, record.Transaction{
			XID: record.XID(t.end), Commit: t.end - 8, End: t.end, Time: record.Time(t.end), Records: uint64(len(t.rows)),
		})
		s.End = t.end
	}
	for _, secret := range []bool{false, true} {
		if parts[secret].Records > 0 {
			s.Parts = append(s.Parts, *parts[secret])
		}
	}
	return s, nil
}

// readRows reads all rows in (after, until].
func readRows(ctx context.Context, v *View, after, until record.LSN, want func(uint32) bool) ([]row, error) {
	var out []row
	err := v.Records(ctx, after, until, want, func(t *record.Transaction, rel *record.Relation, r *record.Record) error {
		l := r.New
		if r.Op == record.Delete {
			l = r.Old
		}
		text, err := v.Line(ctx, l)
		out = append(out, row{end: t.End, ordinal: r.Ordinal, table: rel.OID, op: r.Op, text: string(text)})
		return err
	})
	return out, err
}

func ins(table uint32, text string) row { return row{table: table, op: record.Insert, text: text} }
