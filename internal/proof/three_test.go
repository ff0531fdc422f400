package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lifeboat.im/lifeboat/internal/testpg"
)

// TestThreeTablesKilled captures three tables while the agent is killed 20 times
// at random moments, and restores what must be there.
func TestThreeTablesKilled(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(testpg.Seed(t), 3))
	l := newLab(
		t, testpg.Newest,
		"CREATE TABLE keyed (id int PRIMARY KEY, v text)",
		"CREATE TABLE bag (a int, b text)",
		"CREATE TABLE wide (id int PRIMARY KEY, hot int, big text)",
		"ALTER TABLE wide ALTER big SET STORAGE EXTERNAL",
		"INSERT INTO keyed SELECT i, md5(i::text) FROM generate_series(1, 5000) i",
	)
	l.attach()
	oracle := testpg.Begin(t, l.cluster)
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	wrote := make(chan error, 1)
	go func() { wrote <- writeThree(writing, l.db.DSN, rand.New(rand.NewPCG(rng.Uint64(), 0))) }()

	k := l.start(nil)
	l.ready()
	for range 20 {
		moment(rng, 1500*time.Millisecond)
		k.Kill()
		k = l.start(nil)
	}
	stop()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	l.mark("end")
	l.live()
	k.Stop(t)
	l.verify()

	v := l.view()
	all := commits(t, v)
	points := append(choose(rng, v, all, 5), point{target: "latest", want: all[len(all)-1].End})
	got := l.prove(oracle, points)
	t.Logf("%d commits in %d epochs; %d points exact, %d refused", len(all), len(v.Epochs), got.exact, got.refused)
	if got.exact < len(points) {
		t.Errorf("%d of %d points are exact", got.exact, len(points))
	}
}

// moment waits for a random moment within d.
func moment(rng *rand.Rand, d time.Duration) {
	<-time.After(time.Duration(rng.Int64N(int64(d))))
}

// writeThree changes the three tables until ctx ends.
func writeThree(ctx context.Context, dsn string, rng *rand.Rand) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n := rng.IntN(5000)
		sql := []string{
			fmt.Sprintf("INSERT INTO keyed VALUES (%d, 'new') ON CONFLICT (id) DO UPDATE SET v = keyed.v || '.'", n),
			fmt.Sprintf("UPDATE keyed SET id = -id WHERE id = %d AND NOT EXISTS (SELECT FROM keyed WHERE id = -%[1]d)", n),
			fmt.Sprintf("DELETE FROM keyed WHERE id = %d", n),
			fmt.Sprintf("INSERT INTO bag SELECT %d, 'x' FROM generate_series(1, 3)", n%10),
			fmt.Sprintf("DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE a = %d LIMIT 1)", n%10),
			fmt.Sprintf("INSERT INTO wide VALUES (%d, 0, repeat(md5('%d'), 500)) ON CONFLICT (id) DO UPDATE SET hot = wide.hot + 1", n%500, i),
			fmt.Sprintf("UPDATE wide SET hot = hot + 1 WHERE id %% 10 = %d", n%10),
			fmt.Sprintf("BEGIN; UPDATE keyed SET v = 'both' WHERE id = %d; INSERT INTO bag VALUES (NULL, NULL); SAVEPOINT s; DELETE FROM wide WHERE id = %d; ROLLBACK TO s; COMMIT", n, n%500),
		}[rng.IntN(8)]
		if i%400 == 399 {
			sql = "BEGIN; LOCK TABLE bag IN ACCESS EXCLUSIVE MODE NOWAIT; TRUNCATE bag; COMMIT"
		}
		// The statement ends, whatever ctx says: one that was cut short would fail.
		if _, err := conn.Exec(context.WithoutCancel(ctx), sql).ReadAll(); err != nil {
			if i%400 == 399 { // somebody reads the table: another time
				_, _ = conn.Exec(context.WithoutCancel(ctx), "ROLLBACK").ReadAll()
				continue
			}
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
}
