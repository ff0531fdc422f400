package restore

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/history"
	"lifeboat.im/lifeboat/internal/testpg"
	"lifeboat.im/lifeboat/record"
	"lifeboat.im/lifeboat/synapse"
)

// homeserverDDL is the least that is taken for a Synapse, with what its aftercare
// touches.
func homeserverDDL() []string {
	return []string{
		`CREATE TABLE applied_schema_deltas (version int PRIMARY KEY)`, `CREATE TABLE schema_version (version int PRIMARY KEY)`,
		`CREATE TABLE event_json (event_id text PRIMARY KEY)`, `CREATE TABLE state_groups_state (state_group bigint PRIMARY KEY)`,
		`CREATE TABLE users (name text PRIMARY KEY, password_hash text, deactivated smallint DEFAULT 0)`,
		`CREATE TABLE receipts_linearized (id text PRIMARY KEY, stream_id bigint)`, `CREATE SEQUENCE receipts_sequence`,
		`CREATE TABLE stream_positions (stream_name text PRIMARY KEY, instance_name text, stream_id bigint)`,
		`CREATE TABLE e2e_one_time_keys_json (key_id text PRIMARY KEY)`,
		`CREATE TABLE e2e_fallback_keys_json (key_id text PRIMARY KEY, used boolean)`,
		`CREATE TABLE presence_stream (user_id text PRIMARY KEY)`, `CREATE TABLE user_ips (ip text PRIMARY KEY)`,
		`CREATE TABLE current_state_events (room_id text PRIMARY KEY, type text, state_key text, membership text)`,
		`CREATE TABLE events (event_id text PRIMARY KEY, type text, room_id text, sender text, outlier boolean, stream_ordering bigint, state_key text)`,
		`CREATE TABLE scheduled_tasks (id text PRIMARY KEY, action text, status text, timestamp bigint, resource_id text, params text, error text)`,
		`INSERT INTO users VALUES ('@u:here', 'x', 0)`, `INSERT INTO e2e_one_time_keys_json VALUES ('k1'), ('k2')`,
		`INSERT INTO e2e_fallback_keys_json VALUES ('f', false)`, `INSERT INTO presence_stream VALUES ('@u:here')`, `INSERT INTO user_ips VALUES ('::1')`,
		`INSERT INTO stream_positions VALUES ('receipts', 'master', 5)`,
		`INSERT INTO current_state_events VALUES ('!far', 'm.room.member', '@x:there:8448', 'join'), ('!near', 'm.room.member', '@u:here', 'join')`,
		`INSERT INTO scheduled_tasks VALUES ('t1', 'purge_room', 'active', 1, '!r', '{}'), ('t2', 'update_join_states', 'active', 1, '@u:here', '{}'), ('t3', 'purge_history', 'complete', 1, '!r', '{}')`,
		`SELECT setval('receipts_sequence', 10)`,
	}
}

// otherLocale makes a database that no Synapse starts on.
func (l *lab) otherLocale() *testpg.Database {
	l.t.Helper()
	d := l.src.Cluster.Database(l.t)
	l.src.Query(l.t, `DROP DATABASE `+d.Name)
	l.src.Query(l.t, `CREATE DATABASE `+d.Name+` TEMPLATE template0 LC_COLLATE 'C.UTF-8'`)
	return d
}

func TestRollbackOfASynapse(t *testing.T) {
	l := newSource(t, homeserverDDL()...)
	want := l.snapshotRows()
	at := l.change(`INSERT INTO receipts_linearized VALUES ('a', 11)`)
	l.change(`INSERT INTO receipts_linearized VALUES ('b', 4000)`, `SELECT setval('receipts_sequence', 3000)`,
		`INSERT INTO events VALUES ('$1', 'm.room.message', '!near', '@u:here', false, 7), ('$2', 'm.room.message', '!far', '@u:here', false, 8)`,
		`UPDATE users SET deactivated = 1`, `DELETE FROM scheduled_tasks`)
	to := "before:lsn:" + at.End.String()

	d, report, err := l.restore(to, Options{})
	check(t, err)
	if report.Mode != synapse.Rollback || !report.Verified {
		t.Fatalf("mode %q, verified %t", report.Mode, report.Verified)
	}
	for sql, want := range map[string]string{
		`SELECT count(*) FROM e2e_one_time_keys_json`:                           "0",
		`SELECT stream_id FROM stream_positions`:                                "10004000", // where the writer begins
		`SELECT count(*) FROM presence_stream`:                                  "0",
		`SELECT count(*) FROM user_ips`:                                         "1",
		`SELECT count(*) FROM e2e_fallback_keys_json WHERE used`:                "1",
		`SELECT last_value FROM receipts_sequence`:                              "10004000", // the row of after the point counts
		`SELECT string_agg(id || status, ' ' ORDER BY id) FROM scheduled_tasks`: "t1failed t2active t3complete",
		`SELECT error LIKE '%Lifeboat%' FROM scheduled_tasks WHERE id = 't1'`:   "t",
	} {
		if got := d.Query(t, sql)[0][0]; got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	loss := report.Loss
	if tot := loss.Totals; loss.Server != "here" || tot.Messages != 2 || tot.Returns != 1 || tot.Lost() != 1 {
		t.Errorf("loss: %+v of server %q", loss.Totals, loss.Server)
	}
	if again := loss.Again(); !slices.Equal(again, []string{"@u:here"}) {
		t.Errorf("again: %v", again)
	}

	// Synapse would not start there, and says so after hours of restore.
	odd := l.otherLocale()
	_, err = l.restoreInto(odd, to, Options{})
	if !errors.Is(err, ErrLocale) || !strings.Contains(err.Error(), "--locale=C") {
		t.Errorf("a restore into a database that Synapse refuses: %v", err)
	}
	_, err = l.restoreInto(odd, to, Options{AnyLocale: true})
	check(t, err)

	// The other modes leave every row alone.
	for _, m := range []synapse.Mode{synapse.Raw, synapse.Move} {
		o, at := Options{Mode: m}, to
		if m == synapse.Move {
			_, _, err := l.restore(to, o)
			if !errors.Is(err, ErrNotNewest) {
				t.Errorf("a move to an older point: %v", err)
			}
			at, want = "latest", l.snapshotRows()
		}
		d, report, err := l.restore(at, o)
		check(t, err)
		l.equal(d, want)
		if len(report.Aftercare) > 0 || report.Loss != nil {
			t.Errorf("mode %s did %+v", m, report.Aftercare)
		}
	}
}

// What only a sample in the midst of the log, or only a line that stands outside of its
// record, says of a sequence counts too.
func TestY3_RollbackPassesWhatWasSetBackAndWhatIsLong(t *testing.T) {
	l := newSource(t, append(homeserverDDL(), `CREATE SEQUENCE user_id_seq`, `CREATE SEQUENCE device_inbox_sequence`, `CREATE SEQUENCE down INCREMENT -1`,
		`CREATE TABLE device_inbox (id int PRIMARY KEY, user_id text, device_id text, message_json text, stream_id bigint)`)...)
	at := l.change(`INSERT INTO receipts_linearized VALUES ('a', 11)`)
	l.change(`INSERT INTO device_inbox SELECT 1, '@u:here', 'A', string_agg(md5(i::text), ''), 6000 FROM generate_series(1, 40000) i`)
	l.change(`DELETE FROM device_inbox`, `SELECT setval('user_id_seq', 7000), setval('down', -7000)`)
	l.change(`SELECT setval('user_id_seq', 5), setval('down', -5)`)
	d, report, err := l.restore("lsn:"+at.End.String(), Options{})
	check(t, err)
	for name, want := range map[string]string{"user_id_seq": "10007000", "device_inbox_sequence": "10006000", "down": "-10007000"} {
		if got := d.Query(t, `SELECT last_value FROM `+name)[0][0]; got != want {
			t.Errorf("%s is at %s, want %s", name, got, want)
		}
	}
	if n := report.Loss.Unread; n != 2 {
		t.Errorf("%d rows with a value too large, want 2", n)
	}
}

// A dry run tells the loss without a target.
func TestLossBeforeARollback(t *testing.T) {
	l := newSource(t, homeserverDDL()...)
	at := l.change(`INSERT INTO receipts_linearized VALUES ('a', 11)`)
	l.change(`INSERT INTO events VALUES ('$1', 'm.room.message', '!near', '@u:here', false, 7), ('$2', 'm.room.message', '!far', '@x:there', false, 8)`)
	oid := l.src.Query(t, `SELECT 'events'::regclass::oid::bigint, 'user_ips'::regclass::oid::bigint`)[0]
	for i, name := range []string{"public.events", "public.user_ips"} {
		table := must[uint64](t)(strconv.ParseUint(oid[i], 10, 32))
		check(t, l.w.Note(t.Context(), history.Note{Kind: history.NoteIncomplete, Table: uint32(table), Name: name, Reason: "its columns changed", From: l.lsn}))
	}
	v := l.view()
	point, err := must[Target](t)(ParseTarget("lsn:"+at.End.String(), at.Time.Time())).Resolve(t.Context(), v)
	check(t, err)
	plan, err := NewPlan(t.Context(), v, point, Options{})
	check(t, err)
	loss, err := plan.Loss(t.Context())
	check(t, err)
	if loss.Server != "here" || loss.Totals.Messages != 2 || loss.Totals.Returns != 1 {
		t.Errorf("loss: %+v of server %q", loss.Totals, loss.Server)
	}
	if len(loss.Holes) != 1 || !strings.Contains(loss.Holes[0], "public.events from lsn:") || !strings.Contains(loss.Holes[0], "its columns changed") {
		t.Errorf("what the log does not know of: %q", loss.Holes)
	}
	if !strings.Contains(plan.String(), "rollback: ") {
		t.Errorf("the plan does not say the mode:\n%s", plan)
	}
}

// A second rollback undoes what the first one's branch had since, and not again what
// the first one undid.
func TestLossAlongBranches(t *testing.T) {
	l := newLab(t)
	l.schema(oneTable)
	l.base(oneTable, nil)
	l.ready()
	c := l.segment(insert("a"), insert("b"), insert("c"))
	root := labLineage()
	child := l.branch(9, &history.Parent{ID: root, At: c[1].End}, l.lsn+0x1000)
	d := child.segment(insert("d"))
	grand := child.branch(11, &history.Parent{ID: child.view().ID, At: d[0].End}, child.lsn+0x1000)
	e := grand.segment(insert("e"))
	old := l.branch(12, &history.Parent{ID: root, At: c[0].End}, l.lsn+0x1000) // died before
	b, err := ReadBranches(t.Context(), l.repo, l.secrets, grand.view().ID)
	check(t, err)
	if byID(b.All, old.view().ID) < 0 {
		t.Fatal("the family lacks a branch")
	}
	for _, k := range []struct {
		lab *lab
		at  record.LSN
		err error
	}{{l, c[2].End, ErrNotNewest}, {old, old.view().First, ErrNotNewest}, {grand, e[0].End, nil}} {
		_, err := NewPlan(t.Context(), k.lab.view(), Point{LSN: k.at, Newest: true}, Options{Mode: synapse.Move, Family: b.All})
		if !errors.Is(err, k.err) {
			t.Errorf("a move of the newest commit of %s: %v, want %v", k.lab.view().ID, err, k.err)
		}
	}
	for _, k := range []struct {
		lab  *lab
		at   record.LSN
		want []stretch
	}{
		{l, c[0].End, []stretch{{l.view(), c[0].End, c[1].End}, {child.view(), 0, d[0].End}, {grand.view(), 0, e[0].End}}},
		{l, c[1].End, []stretch{{l.view(), c[1].End, c[1].End}, {child.view(), 0, d[0].End}, {grand.view(), 0, e[0].End}}},
		// Forward into what a rollback gave up: the branch goes.
		{l, c[2].End, []stretch{{l.view(), c[2].End, c[1].End}, {child.view(), 0, d[0].End}, {grand.view(), 0, e[0].End}}},
		// Back into a branch that was given up long ago: all that the living one had.
		{old, old.view().First, []stretch{{l.view(), c[0].End, c[1].End}, {child.view(), 0, d[0].End}, {grand.view(), 0, e[0].End}}},
		{grand, grand.view().First, []stretch{{grand.view(), grand.view().First, e[0].End}}},
	} {
		p := &Plan{Point: Point{LSN: k.at}, view: k.lab.view(), options: Options{Family: b.All}}
		have := p.undone()
		if !slices.EqualFunc(have, k.want, func(a, b stretch) bool { return a.view.ID == b.view.ID && a.after == b.after && a.until == b.until }) {
			t.Errorf("after %s of %s: %v", k.at, k.lab.view().ID, have)
		}
	}
}

// A step that fails leaves nothing of the others, and a target that says that it is
// unfinished (P3).
func TestP3_FailedAftercareIsVisiblyUnfinished(t *testing.T) {
	l := newSource(t, append(homeserverDDL(),
		`ALTER TABLE scheduled_tasks ADD CHECK (status <> 'failed')`)...)
	at := l.change(`INSERT INTO receipts_linearized VALUES ('a', 11)`)
	d := l.src.Cluster.Database(t)
	_, err := l.restoreInto(d, "lsn:"+at.End.String(), Options{})
	if err == nil || !strings.Contains(err.Error(), "aftercare, scheduled tasks") {
		t.Fatalf("the restore says: %v", err)
	}
	unfinished(t, d, string(PhaseAfter))
	if n := d.Query(t, `SELECT count(*) FROM e2e_one_time_keys_json`)[0][0]; n != "2" {
		t.Errorf("%s one-time keys after a failed aftercare, want both", n)
	}
}

func unfinished(t *testing.T, d *testpg.Database, phase string) {
	t.Helper()
	if rows := d.Query(t, `SELECT phase FROM lifeboat.restore_state`); len(rows) != 1 || rows[0][0] != phase {
		t.Errorf("the target says %v, want phase %s", rows, phase)
	}
}

func TestModesOfOtherDatabases(t *testing.T) {
	l := newSource(t, `CREATE TABLE t (id int PRIMARY KEY)`)
	_, report, err := l.restore("latest", Options{})
	check(t, err)
	if report.Mode != synapse.Raw {
		t.Errorf("the mode is %q, want raw", report.Mode)
	}
	if _, _, err := l.restore("latest", Options{Mode: synapse.Rollback}); !errors.Is(err, ErrMode) {
		t.Errorf("a rollback of what is no Synapse: %v", err)
	}
}
