package synapse

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/internal/testpg"
)

func TestY3_SequencesPassEveryValueSeen(t *testing.T) {
	db := testpg.Shared(t, testpg.Newest).Database(t)
	db.Exec(t, `CREATE TABLE events (event_id text, stream_ordering bigint)`,
		`CREATE TABLE receipts_linearized (stream_id bigint)`,
		`CREATE TABLE thread_subscriptions (stream_id int)`,
		`CREATE TABLE stream_positions (stream_name text, instance_name text, stream_id bigint)`,
		`INSERT INTO events VALUES ('a', 50), ('b', -7)`, `INSERT INTO receipts_linearized VALUES (3)`,
		`INSERT INTO stream_positions VALUES ('receipts', 'master', 900), ('events', 'master', 49)`)
	var names []string
	for _, name := range []string{
		"events_stream_seq", "events_backfill_stream_seq", "receipts_sequence", "thread_subscriptions_sequence",
		"sticky_events_sequence", "state_group_id_seq", "user_id_seq", "someone's own", "full",
	} {
		db.Exec(t, "CREATE SEQUENCE "+quote(name))
		names = append(names, name)
	}
	db.Exec(t, "SELECT setval('state_group_id_seq', 77)", "SELECT setval('full', 9223372036854775807)")
	db.Exec(t, "CREATE SEQUENCE down INCREMENT -1", "CREATE SEQUENCE low INCREMENT -2 MINVALUE -1000 MAXVALUE 1000 START 900", "CREATE SEQUENCE negative MINVALUE -100 START -100")
	names = append(names, "down", "low", "negative")
	r := Restored{
		Sequences: names, Descends: map[string]bool{"down": true, "low": true}, Newest: map[string]int64{"down": -500, "events_stream_seq": 40, "user_id_seq": 1234, "sticky_events_sequence": math.MaxInt32 - 1000},
		Columns: map[string][]string{
			"events": {"event_id", "stream_ordering"}, "receipts_linearized": {"stream_id"}, "thread_subscriptions": {"stream_id"},
			"stream_positions": {"stream_name", "instance_name", "stream_id"},
		},
	}
	step := r.sequences()
	for sql := range strings.SplitSeq(strings.TrimSpace(step.SQL), ";\n") {
		db.Exec(t, sql)
	}
	for name, want := range map[string]int64{
		"events_stream_seq": 50 + margin, "events_backfill_stream_seq": 7 + margin, // rows
		"receipts_sequence": 900 + margin, // a position
		"user_id_seq":       1234 + margin, "someone's own": 1 + margin,
		"state_group_id_seq": 77 + margin, "thread_subscriptions_sequence": 1 + marginInt4,
		"sticky_events_sequence": math.MaxInt32 - 1000 + 10, // never beyond four bytes, nor all that is left
		"full":                   math.MaxInt64,
		"down":                   -500 - margin, "low": 900 - 1900/marginShare, "negative": -100 + margin,
	} {
		row := db.Query(t, "SELECT last_value, is_called FROM "+quote(name))[0]
		if row[0] != strconv.FormatInt(want, 10) || row[1] != "t" {
			t.Errorf("%s is at %s, called %s, want %d", name, row[0], row[1], want)
		}
	}
}

// A worker that reads begins where the writer does; the writer refuses to boot when a
// position is beyond its sequence.
func TestPositionsFollowTheSequences(t *testing.T) {
	db := testpg.Shared(t, testpg.Newest).Database(t)
	db.Exec(t, `CREATE TABLE stream_positions (stream_name text, instance_name text, stream_id bigint)`,
		`INSERT INTO stream_positions VALUES ('events', 'a', 40), ('events', 'b', 49), ('backfill', 'a', -7), ('gone', 'a', 5)`,
		`CREATE SEQUENCE events_stream_seq`, `CREATE SEQUENCE events_backfill_stream_seq`, `CREATE SEQUENCE device_inbox_sequence`,
		`SELECT setval('events_stream_seq', 1000), setval('events_backfill_stream_seq', 2000), setval('device_inbox_sequence', 3000)`)
	r := Restored{
		Sequences: []string{"events_stream_seq", "events_backfill_stream_seq", "device_inbox_sequence"},
		Columns:   map[string][]string{"stream_positions": {"stream_name", "instance_name", "stream_id"}},
	}
	step, ok := r.streamPositions()
	if !ok {
		t.Fatal("no step")
	}
	db.Exec(t, step.SQL, step.SQL) // a second rollback finds the row of the first
	got := db.Query(t, "SELECT string_agg(stream_name || ' ' || instance_name || ' ' || stream_id, ', ' ORDER BY stream_name, instance_name) FROM stream_positions")[0][0]
	if want := "backfill a -2000, events a 1000, events b 1000, to_device master 3000"; got != want {
		t.Errorf("the positions are %s, want %s", got, want)
	}
}

// A table that stays and refers to an ephemeral one keeps it: TRUNCATE without CASCADE
// would fail, and with it would empty both. So does a job that is under way, or it
// would fail.
func TestEphemeralKeepsWhatIsReferenced(t *testing.T) {
	r := Restored{
		Columns: map[string][]string{"ui_auth_sessions": {"session_id"}, "ui_auth_sessions_ips": {"session_id"}, "presence_stream": {"user_id"}, "user_ips": {"ip"}, "_temp_populate_user_directory_position": {"position"}},
		ReferencedBy: map[string][]string{
			"ui_auth_sessions": {"ui_auth_sessions_ips"}, "ui_auth_sessions_ips": {"a_module.table"},
		},
	}
	s, ok := r.ephemeral()
	if _, list, _ := strings.Cut(s.SQL, "TRUNCATE "); !ok || list != `public."presence_stream";` {
		t.Errorf("the statement is %s", s.SQL)
	}
	if _, ok := (&Restored{}).ephemeral(); ok {
		t.Error("a step without a table")
	}
}

func TestModes(t *testing.T) {
	for _, m := range []Mode{Rollback, Move, Raw} {
		if got, err := ParseMode(string(m)); got != m || err != nil {
			t.Errorf("%q: %q, %v", string(m), got, err)
		}
		if steps := Aftercare(m, Restored{}); (len(steps) > 0) != (m == Rollback) {
			t.Errorf("mode %s has %d steps", m, len(steps))
		}
	}
	if _, err := ParseMode("back"); err == nil {
		t.Error("an unknown mode is read")
	}
}
