package restore

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lifeboat.im/lifeboat/internal/testpg"
)

const importVariable = "LIFEBOAT_IMPORT_CHILD"

// killed is an import in a process of its own, which goes on to a phase, says so by
// making a file, and waits to be killed.
type killed struct {
	NoProgress
	File, DSN, There string
	At               Phase

	now  Phase
	rows int64 // bytes of rows
}

func importAsChild(ctx context.Context, config string) error {
	b, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var k killed
	if err := json.Unmarshal(b, &k); err != nil {
		return err
	}
	i, err := PlanImport(ctx, k.File, ImportOptions{})
	if err == nil {
		_, err = i.Into(ctx, k.DSN, &k)
	}
	return errors.Join(err, errors.New("it ended by itself"))
}

func (k *killed) Start(p Phase, _ int64) {
	if k.now = p; p == k.At && p != PhaseRows {
		k.wait()
	}
}

func (k *killed) Add(n int64) {
	if k.now == PhaseRows && k.At == PhaseRows {
		if k.rows += n; k.rows > 1<<20 { // in the midst of a COPY
			k.wait()
		}
	}
}

func (k *killed) wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	if os.WriteFile(k.There, nil, 0o600) == nil {
		<-c
	}
}

// Killed in the midst of any phase, an import is visibly unfinished, and can be begun
// again: nobody was there to clear up.
func TestP3_KilledImportIsUnfinished(t *testing.T) {
	const many = 20_000
	c := small()
	lines := make([]string, many)
	for i := range lines {
		lines[i] = strconv.Itoa(i) + "\t" + strings.Repeat("word ", 20)
	}
	c.Rows = rows("a", lines...)
	file, d := write(t, "a.tar", c), testpg.Shared(t, testpg.Newest).Database(t)
	again := must[*Import](t)(PlanImport(t.Context(), file, ImportOptions{StartOver: true}))
	for _, at := range []Phase{PhaseRows, PhaseIndexes, PhaseVerify} {
		dir := t.TempDir()
		k := killed{File: file, DSN: d.DSN, There: filepath.Join(dir, "there"), At: at}
		child := testpg.StartChild(t, dir, "import", importVariable, k)
		testpg.WaitFor(t, 2*time.Minute, "the import to be at "+string(at), func() bool {
			_, err := os.Stat(k.There)
			return err == nil || child.Ended()
		})
		if child.Ended() {
			t.Fatalf("it ended before it was at %s", at)
		}
		child.Kill()
		if have := d.Query(t, `SELECT phase FROM lifeboat.restore_state`); len(have) != 1 || have[0][0] != string(at) {
			t.Errorf("killed at %s, the mark says %q", at, have)
		}
		if have := d.Query(t, `SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()`)[0][0]; !strings.HasPrefix(have, "UNFINISHED Lifeboat import of ") {
			t.Errorf("killed at %s, the comment says %q", at, have)
		}
		if _, err := importInto(t, file, d, ImportOptions{}, nil); !errors.Is(err, ErrUnfinished) || !strings.Contains(err.Error(), "--start-over") {
			t.Errorf("without start over: %v, want ErrUnfinished", err)
		}
		report, err := again.Into(t.Context(), d.DSN, nil)
		check(t, err)
		if have := d.Query(t, `SELECT count(*), sum(i) FROM a`)[0]; !report.Verified || have[0] != strconv.Itoa(many) || have[1] != strconv.Itoa(many*(many-1)/2) {
			t.Errorf("killed at %s and begun again: %v, %+v", at, have, report)
		}
		d.Exec(t, `DROP TABLE a`, `DROP SEQUENCE s`)
	}
}
