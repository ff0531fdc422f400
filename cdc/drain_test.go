package cdc

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// drainer makes lines as the agent does and stops at a position.
type drainer struct {
	appender
	until record.LSN
}

func (d *drainer) Begin(record.XID, record.LSN, record.Time) error { return nil }
func (d *drainer) Relation(*StreamRelation) error                  { return nil }

func (d *drainer) Commit(_, end record.LSN, _ record.Time) error {
	if end >= d.until {
		return io.EOF
	}
	return nil
}

func (d *drainer) Idle(l record.LSN) error {
	if l >= d.until {
		return io.EOF
	}
	return nil
}

// BenchmarkDrain drains 300,000 row changes in 100,000 transactions and, as a
// yardstick, lets pg_recvlogical do it into /dev/null: interleaved, medians.
func BenchmarkDrain(b *testing.B) {
	recv := testpg.Bin(b, 18, "pg_recvlogical")
	d := testpg.Shared(b, 18).Database(b)
	s := ready(b, d, "CREATE TABLE t (i int PRIMARY KEY, a text, b text, c timestamptz DEFAULT now())", "ALTER TABLE t REPLICA IDENTITY FULL")
	d.Exec(b, `CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..100000 LOOP
			INSERT INTO t VALUES (n, md5(n::text), 'some text of a usual length');
			UPDATE t SET b = 'another' WHERE i = n; DELETE FROM t WHERE i = n - 10; COMMIT; END LOOP; END $$`, "CALL work()")
	end, err := record.ParseLSN(d.Query(b, "SELECT pg_current_wal_lsn()")[0][0])
	if err != nil {
		b.Fatal(err)
	}
	slot := s.cfg.Slot
	var ours, theirs []time.Duration
	for b.Loop() {
		for _, name := range []string{"ours", "theirs"} {
			s.cfg.Slot = slot + "_" + name
			d.Query(b, "SELECT pg_copy_logical_replication_slot('"+slot+"', '"+s.cfg.Slot+"')")
			begin := time.Now()
			if name == "ours" {
				st, err := s.Stream(b.Context(), StreamOptions{})
				if err != nil {
					b.Fatal(err)
				}
				h := &drainer{until: end}
				if err := st.Run(b.Context(), h); err == nil || h.rows < 299990 {
					b.Fatal(h.rows, err)
				}
				ours = append(ours, time.Since(begin))
			} else {
				testpg.Run(b, recv, "-d", d.DSN, "-S", s.cfg.Slot, "--start", "-f", "/dev/null", "-E", end.String(), "--no-loop",
					"-o", "proto_version=1", "-o", "publication_names="+ident(odd))
				theirs = append(theirs, time.Since(begin))
			}
			testpg.WaitFor(b, 2*time.Minute, "the slot to be free", func() bool { return s.DropSlot(context.Background()) == nil })
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	o, r := ours[len(ours)/2], theirs[len(theirs)/2]
	b.ReportMetric(o.Seconds(), "s/drain")
	b.ReportMetric(r.Seconds(), "s/pg_recvlogical")
	b.ReportMetric(o.Seconds()/r.Seconds(), "ratio")
}
