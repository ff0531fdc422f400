package cdc

import (
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
)

// TestHorizon: while no transaction ends, one that is open lies at xmax, not below
// it. Its commit can reach the stream long before snapshots see it (a standby that is
// absent), so nothing that waits for older transactions may take xmax for the limit.
func TestHorizon(t *testing.T) {
	c := testpg.Start(t, 18, nil) // nobody else ends transactions in it
	d := c.Database(t)
	s := sourceOf(t, d, "")
	conn := testpg.Connect(t, d.DSN)
	for _, how := range []string{"SELECT pg_current_xact_id()::text::bigint", "SAVEPOINT a; CREATE TEMP TABLE x (); SAVEPOINT b; CREATE TEMP TABLE y (); SELECT pg_current_xact_id()::text::bigint + 2"} {
		if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		rows, err := conn.PgConn().Exec(t.Context(), how).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		last := rows[len(rows)-1].Rows
		var open record.XID
		for _, b := range last[0][0] {
			open = open*10 + record.XID(b-'0')
		}
		now, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cat, err := s.Catalog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now.Snapshot.XMax > open {
			t.Logf("xmax %d is above the open transaction %d: this time nothing is shown", now.Snapshot.XMax, open)
		}
		if now.Horizon <= open || cat.Horizon <= open {
			t.Errorf("horizons %d and %d, transaction %d is open", now.Horizon, cat.Horizon, open)
		}
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		after, err := s.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if after.Snapshot.XMin < now.Horizon {
			t.Errorf("xmin %d once all have ended, the horizon was %d: who waits for it waits in vain", after.Snapshot.XMin, now.Horizon)
		}
	}
}
