package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// updates: what a restore costs when every row was changed many times over since the
// first copy, against one without those changes. Tables whose records exceed half of
// their base are copied anew, so the answer does not depend on how many there were.
func (b *bench) updates(ctx context.Context) error {
	const db, rows, batch = "updates", 100_000, 1000
	if err := b.createDB(ctx, db); err != nil {
		return err
	}
	if _, err := b.sql(ctx, db, "CREATE TABLE accounts (id int PRIMARY KEY, n bigint NOT NULL, line text NOT NULL)",
		fmt.Sprintf("INSERT INTO accounts SELECT i, 0, md5(i::text) || md5((i + 1)::text) FROM generate_series(1, %d) i", rows),
		fmt.Sprintf(`CREATE PROCEDURE change(times int) LANGUAGE plpgsql AS $$ BEGIN FOR t IN 1..times LOOP FOR k IN 0..%d LOOP
			UPDATE accounts SET n = n + 1 WHERE id > k * %d AND id <= (k + 1) * %[2]d; COMMIT; END LOOP; END LOOP; END $$`, rows/batch-1, batch),
		"VACUUM ANALYZE", "CHECKPOINT"); err != nil {
		return err
	}
	h, a, err := b.capture(ctx, db, time.Second)
	if err != nil {
		return err
	}
	if _, err := b.end(a.child); err != nil {
		return err
	}
	fresh := home{dir: h.dir + "-fresh", slot: h.slot}
	if err := os.CopyFS(fresh.dir, os.DirFS(h.dir)); err != nil {
		return err
	}
	if a, err = b.runAgent(h); err != nil {
		return err
	}
	times := max(1, b.updated/rows)
	began := time.Now()
	if _, err := b.sql(ctx, db, fmt.Sprintf("CALL change(%d)", times)); err != nil {
		return err
	}
	end, err := b.sql(ctx, db, "SELECT pg_current_wal_flush_lsn()")
	if err != nil {
		return err
	}
	if err := b.confirmed(ctx, h.slot, end, a.child); err != nil {
		return err
	}
	fmt.Printf("   %d updates of %d rows in %.0f s; copied anew %d times\n", times*rows, rows, time.Since(began).Seconds(), a.copied.Load())
	// The copy that the last changes ask for waits a little, since there were others.
	ended := time.Now()
	if err := b.poll(ctx, 10*time.Minute, a.child, func() (bool, error) {
		return a.last.Load() > ended.UnixNano() || time.Since(ended) > 5*time.Minute, nil
	}); err != nil {
		return err
	}
	fmt.Printf("   the last copy was done %.0f s after the last update\n", time.Since(ended).Seconds())
	if _, err := b.end(a.child); err != nil {
		return err
	}
	r := b.figure(fmt.Sprintf("restore: after %d updates of %d ÷ none", times*rows, rows), 1.3, false)
	return b.interleave(r, func() (usage, error) { return b.restore(ctx, h, "ours") }, func() (usage, error) { return b.restore(ctx, fresh, "theirs") })
}

var monthlyRequests = regexp.MustCompile(`"requests_usd_at_most": ([0-9.]+)`)

// monthly prints what `repo stats` says that requests cost in a month.
func (b *bench) monthly(ctx context.Context, h home) error {
	text, err := os.ReadFile(h.config())
	if err != nil {
		return err
	}
	for _, rpo := range []string{"1s", "5s"} {
		config := h.dir + "/stats-" + rpo + ".yaml"
		if err := os.WriteFile(config, []byte(setLines.ReplaceAllString(string(text), "")+"rpo: "+rpo+"\n"), 0o644); err != nil {
			return err
		}
		var usd string // written before the child's done is closed
		c, err := b.start("lifeboat-stats", nil, func(line string) {
			if m := monthlyRequests.FindStringSubmatch(line); m != nil {
				usd = m[1]
			}
		}, b.lifeboat, strings.Fields("repo stats --json --config "+config)...)
		if err != nil {
			return err
		}
		if _, err := b.wait(ctx, c); err != nil {
			return err
		}
		b.tell("requests a month at rpo "+rpo, "at most $"+usd+" at Amazon's list price (repo stats; something changes all the time)")
	}
	return nil
}
