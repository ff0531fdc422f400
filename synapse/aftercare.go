package synapse

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mode says why a database is made from a copy, and with it what must be done to
// the rows before a homeserver may run on them.
type Mode string

// The modes.
const (
	// Rollback: the same server goes on from an earlier time. Clients and other
	// servers know more than the database does, so nothing that was handed out since
	// may be handed out again.
	Rollback Mode = "rollback"
	// Move: nothing was lost. The old server is stopped, the point is the newest
	// commit, and every row goes on as it is.
	Move Mode = "move"
	// Raw: nothing is done, the rows are those of the commit. No homeserver may run
	// on them unless the point is the newest one.
	Raw Mode = "raw"
)

// ErrMode: a mode that does not exist.
var ErrMode = errors.New("no such mode: rollback, move or raw")

// ParseMode reads a mode as a person types it.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Rollback, Move, Raw:
		return m, nil
	}
	return "", fmt.Errorf("mode %q: %w", s, ErrMode)
}

// String says in a sentence what the mode does, for a plan.
func (m Mode) String() string {
	switch m {
	case Rollback:
		return "rollback: sequences above every value handed out since, one-time keys and ephemeral tables emptied, scheduled purges defused"
	case Move:
		return "move: nothing was lost, every row and sequence as it was"
	case Raw:
		return "raw: rows as they were, nothing is done to them"
	}
	return string(m)
}

// Restored is what aftercare has to know of a database that was just restored:
// its catalog (of schema public, where Synapse lives) and what the repository knows
// of the time after the point.
type Restored struct {
	// Columns are the columns of each table.
	Columns map[string][]string
	// Sequences are the names of all sequences.
	Sequences []string
	// ReferencedBy are, for a table, the tables with a foreign key to it.
	ReferencedBy map[string][]string
	// Descends are those that count down (none of Synapse's own does).
	Descends map[string]bool
	// Newest is, by sequence, the greatest value that the repository has seen of it at
	// any time, the least of one that counts down: in samples, and in rows after the
	// point (see [Since]).
	Newest map[string]int64
	// DelayedGone are the ids of delayed events that left their table after the point:
	// sent, or cancelled.
	DelayedGone []string
}

// has reports whether the database has a table with these columns.
func (r *Restored) has(table string, columns ...string) bool {
	have, ok := r.Columns[table]
	for _, c := range columns {
		ok = ok && slices.Contains(have, c)
	}
	return ok
}

// Step is one thing that is done to a restored database before a homeserver may
// run on it.
type Step struct {
	// Name is a few words; Why is a sentence for the person who reads the report.
	Name, Why string
	// Source is the file of Synapse, or the document, that makes it necessary.
	Source string
	// SQL are statements, run in the transaction of all steps; empty: the step is a
	// warning alone.
	SQL string
	// Columns name what each statement's rows hold; nil: only their number counts.
	Columns []string
	// Heed: somebody should read it: something was defused, or acts by itself. A step
	// with SQL that met no row is not worth it.
	Heed bool
}

// Margins: how far a sequence is set beyond the greatest value that is known to
// have been handed out. It must exceed what the old server handed out after the
// last commit that reached the repository: a broken agent over a long weekend, at
// 40 events a second. Both were tried on a running Synapse, with workers too: it
// boots, and nothing loops over the gap (see [Restored.streamPositions]).
const (
	margin = 10_000_000
	// marginInt4 is for sequences that feed columns of four bytes, which are all of
	// slow streams.
	marginInt4 = 100_000
	// marginShare: no margin takes more than this part of the values that are left, so
	// that no number of rollbacks can use up a sequence.
	marginShare = 100
)

// Aftercare gives the steps of a mode, in the order in which they are run, in one
// transaction. Steps of tables that the database does not have are left out.
func Aftercare(m Mode, r Restored) []Step {
	if m != Rollback {
		return nil
	}
	steps := []Step{r.sequences()}
	for _, s := range []func() (Step, bool){
		r.oneTimeKeys, r.fallbackKeys, r.streamPositions, r.ephemeral,
		r.tasks, r.tasksKept, r.deactivations, r.delayed, r.backgroundUpdates,
	} {
		if step, ok := s(); ok {
			steps = append(steps, step)
		}
	}
	return append(steps, byTheClock(), oldServer())
}

// sequences sets every sequence above every value ever handed out (Y3). Columns
// without a sequence need no step: access_tokens, refresh_tokens, push_rules,
// push_rules_enable and the reports count from max(id)+1 at boot, and no client ever
// sees these numbers.
func (r *Restored) sequences() Step {
	known := map[string]Sequence{}
	for _, s := range Sequences() {
		known[s.Name] = s
	}
	var b strings.Builder
	for _, name := range r.Sequences {
		s, ok := known[name]
		if !ok {
			s.Name = name
		}
		b.WriteString(r.sequence(s))
	}
	return Step{
		Name: "sequences", SQL: b.String(), Columns: []string{"sequence", "before", "after"},
		Why: "clients hold sync tokens, and bridges and other servers numbers, that are newer than this database: " +
			"were they handed out again, events would be skipped and to-device messages deleted undelivered",
		Source: "util/sequence.py; reference §2.3, A1",
	}
}

// sequence is the statement for one sequence.
func (r *Restored) sequence(s Sequence) string {
	table := quote(s.Name)
	known := []string{"last_value"}
	if v, ok := r.Newest[s.Name]; ok {
		known = append(known, fmt.Sprintf("'%d'::bigint", v))
	}
	if r.Descends[s.Name] {
		return fmt.Sprintf(`SELECT %[1]s, s.last_value, pg_catalog.setval(%[2]s, k.known - LEAST(%[3]d, trunc((k.known::numeric - q.seqmin) / %[4]d))::bigint, true)
FROM public.%[5]s s, (SELECT seqmin FROM pg_catalog.pg_sequence WHERE seqrelid = %[2]s::pg_catalog.regclass) q, LATERAL (SELECT GREATEST(q.seqmin, LEAST(%[6]s)) AS known) k;
`, text(s.Name), text("public."+table), margin, marginShare, table, strings.Join(known, ", "))
	}
	for _, f := range s.Feeds {
		if !r.has(f.Table, f.Column) {
			continue
		}
		value := "max(" + quote(f.Column) + ")"
		if f.Negated {
			value = "-min(" + quote(f.Column) + ")"
		}
		known = append(known, "(SELECT "+value+" FROM public."+quote(f.Table)+")")
	}
	if s.Stream != "" && r.has("stream_positions", "stream_name", "stream_id") {
		// Positive also for the backfill stream (storage/util/id_generators.py).
		known = append(known, "(SELECT max(abs(stream_id)) FROM public.stream_positions WHERE stream_name = "+text(s.Stream)+")")
	}
	step, most := margin, "q.max_value"
	if s.Int4 {
		step, most = marginInt4, "LEAST(q.max_value, 2147483647)"
	}
	return fmt.Sprintf(`SELECT %[1]s, s.last_value, pg_catalog.setval(%[2]s, k.known + LEAST(%[3]d, trunc(GREATEST(0, %[4]s - k.known::numeric) / %[5]d))::bigint, true)
FROM public.%[6]s s, (SELECT seqmax AS max_value FROM pg_catalog.pg_sequence WHERE seqrelid = %[2]s::pg_catalog.regclass) q, LATERAL (SELECT GREATEST(%[7]s)::bigint AS known) k;
`, text(s.Name), text("public."+table), step, most, marginShare, table, strings.Join(known, ", "))
}

func (r *Restored) oneTimeKeys() (Step, bool) {
	return Step{
		Name: "one-time keys", SQL: "DELETE FROM public.e2e_one_time_keys_json;", Source: "docs/usage/administration/backups.md; element-meta#2155",
		Why: "a one-time key that was handed out since would be handed out again, and messages of that session could not be read; " +
			"each client sees that it has none and uploads new ones",
	}, r.has("e2e_one_time_keys_json")
}

// fallbackKeys marks all as used. A client replaces its fallback key when /sync no
// longer lists its type as unused (handlers/sync.py, device_unused_fallback_key_types),
// and then forgets the one before the last: a key from before the point may be one
// whose private half is gone. Until the client has uploaded a new one a used key is
// handed out like an unused one (_claim_e2e_fallback_keys_bulk_txn), so nobody is
// left without.
func (r *Restored) fallbackKeys() (Step, bool) {
	return Step{
		Name: "fallback keys", SQL: "UPDATE public.e2e_fallback_keys_json SET used = true WHERE NOT used;",
		Why: "a fallback key may have been used or replaced since, and clients forget old ones: marked as used, each client uploads a new one " +
			"at its next sync; until then it is still handed out",
		Source: "storage/databases/main/end_to_end_keys.py, handlers/sync.py",
	}, r.has("e2e_fallback_keys_json", "used")
}

// streamPositions moves every position to where its sequence is now. Without a row a
// writer takes its place from the sequence, but a worker that only reads the stream
// begins at the newest row and walks up to the writer; through to-device messages it
// walks in steps of a hundred ids (get_all_new_device_messages), for a quarter of an
// hour over the margin, and answers every /sync with nothing meanwhile. So that
// stream gets a row even when it had none: of the main process, and Synapse deletes
// it at boot when another one writes.
func (r *Restored) streamPositions() (Step, bool) {
	const toDevice = "to_device"
	var streams, now []string
	insert := ""
	for _, s := range Sequences() {
		if s.Stream == "" || !slices.Contains(r.Sequences, s.Name) {
			continue
		}
		streams = append(streams, s.Stream)
		// The step before has called every sequence. UPDATE cannot read a sequence in FROM.
		value := "pg_catalog.pg_sequence_last_value(" + text("public."+quote(s.Name)) + "::pg_catalog.regclass)"
		now = append(now, "("+text(s.Stream)+", "+value+")")
		if s.Stream == toDevice {
			insert = fmt.Sprintf("INSERT INTO public.stream_positions (stream_name, instance_name, stream_id) SELECT %[1]s, 'master', %[2]s "+
				"WHERE NOT EXISTS (SELECT FROM public.stream_positions WHERE stream_name = %[1]s);\n", text(toDevice), value)
		}
	}
	known := "DELETE FROM public.stream_positions;\n"
	if len(streams) > 0 {
		// A position of the backfill stream may be stored as it is counted down.
		known = fmt.Sprintf("DELETE FROM public.stream_positions WHERE stream_name NOT IN (%s);\n", textList(streams)) +
			"UPDATE public.stream_positions p SET stream_id = CASE WHEN p.stream_id < 0 THEN -s.now ELSE s.now END\nFROM (VALUES " +
			strings.Join(now, ",\n") + ") s (stream, now) WHERE s.stream = p.stream_name;\n"
	}
	return Step{
		Name: "stream positions", SQL: known + insert, Source: "storage/util/id_generators.py, storage/databases/main/deviceinbox.py; reference §2.2",
		Why: "each writer takes its place from the sequence at boot, and a worker that reads must begin there too: " +
			"it would walk up to it for minutes, and show nobody anything new",
	}, r.has("stream_positions", "stream_name", "instance_name", "stream_id")
}

// keptEphemeral are ephemeral tables that stay: they inform people, and no code acts
// on them after a rollback.
func keptEphemeral() []string {
	return []string{"monthly_active_users", "user_daily_visits", "user_ips"}
}

// ephemeral empties the ephemeral tables in one TRUNCATE, without CASCADE. A table
// that is referenced by one that stays (a module's, for instance) stays too.
func (r *Restored) ephemeral() (Step, bool) {
	var names []string
	for _, t := range Tables() {
		// What is absent from a schema belongs to a job that was under way at the point: it
		// goes on, and fails at every boot when it finds its table without rows.
		if t.Category == Ephemeral && !t.Absent && r.has(t.Name) && !slices.Contains(keptEphemeral(), t.Name) {
			names = append(names, t.Name)
		}
	}
	for again := true; again; {
		before := len(names)
		names = slices.DeleteFunc(names, func(n string) bool {
			return slices.ContainsFunc(r.ReferencedBy[n], func(by string) bool { return !slices.Contains(names, by) })
		})
		again = len(names) < before
	}
	if len(names) == 0 {
		return Step{}, false
	}
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&b, "SELECT %s AS t, count(*) AS n FROM public.%s", text(n), quote(n))
		names[i] = "public." + quote(n)
	}
	return Step{
		Name: "ephemeral tables", SQL: "SELECT t, n FROM (" + b.String() + ") c WHERE n > 0;\nTRUNCATE " + strings.Join(names, ", ") + ";",
		Columns: []string{"table", "rows"},
		Why:     "presence, locks, half-done logins, tokens of one use and sliding-sync positions of another time; all of it comes back by itself",
		Source:  "reference §1.3: booted and tried with all of them empty",
	}, true
}

// harmlessTasks may go on: they finish what their user had asked for before the
// point, and destroy nothing that is not gone.
func harmlessTasks() []string { return []string{"delete_old_otks", "update_join_states"} }

func textList(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = text(s)
	}
	return strings.Join(out, ", ")
}

const nowMillis = "(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint"

func (r *Restored) tasks() (Step, bool) {
	return Step{
		Name: "scheduled tasks", Heed: true, Columns: []string{"task", "action", "of", "parameters"},
		SQL: "UPDATE public.scheduled_tasks SET status = 'failed', timestamp = " + nowMillis + ",\n" +
			" error = 'stopped by Lifeboat: this database was rolled back, and the task would destroy again what came back'\n" +
			" WHERE status IN ('active', 'scheduled') AND action NOT IN (" + textList(harmlessTasks()) + ") RETURNING id, action, COALESCE(resource_id, ''), COALESCE(params, '');",
		Why: "Synapse resumes tasks at boot and every minute: a purge that was under way would destroy the room again. " +
			"They are marked as failed, with a text that says so; give the order again if it was meant",
		Source: "util/task_scheduler.py, _launch_scheduled_tasks",
	}, r.has("scheduled_tasks", "id", "action", "status", "timestamp", "resource_id", "params", "error")
}

func (r *Restored) tasksKept() (Step, bool) {
	return Step{
		Name: "scheduled tasks that go on", Columns: []string{"task", "action", "of"},
		SQL:    "SELECT id, action, COALESCE(resource_id, '') FROM public.scheduled_tasks WHERE status IN ('active', 'scheduled');",
		Why:    "they finish what was asked for before the point and destroy nothing",
		Source: "handlers/profile.py, handlers/e2e_keys.py",
	}, r.has("scheduled_tasks", "id", "action", "status", "resource_id")
}

func (r *Restored) deactivations() (Step, bool) {
	return Step{
		Name: "deactivations under way", Heed: true, Columns: []string{"user"},
		SQL: "DELETE FROM public.users_pending_deactivation RETURNING user_id;",
		Why: "Synapse would go on parting these users from their rooms at boot. " +
			"If that was meant, deactivate them again: POST /_synapse/admin/v1/deactivate/USER",
		Source: "handlers/deactivate_account.py, _start_user_parting",
	}, r.has("users_pending_deactivation", "user_id")
}

func (r *Restored) delayed() (Step, bool) {
	gone := ""
	if len(r.DelayedGone) > 0 {
		gone = " OR delay_id IN (" + textList(r.DelayedGone) + ")"
	}
	return Step{
		Name: "delayed events", Heed: true, Columns: []string{"user", "id", "room", "type"},
		SQL: "DELETE FROM public.delayed_events WHERE is_processed OR send_ts <= " + nowMillis + gone +
			" RETURNING user_localpart, delay_id, room_id, event_type;",
		Why:    "they were sent or cancelled since, or are overdue, and would be sent again at boot; those still to come are kept",
		Source: "storage/databases/main/delayed_events.py, process_timeout_delayed_events; MSC4140",
	}, r.has("delayed_events", "user_localpart", "delay_id", "room_id", "event_type", "send_ts", "is_processed")
}

func (r *Restored) backgroundUpdates() (Step, bool) {
	return Step{
		Name: "background updates", Heed: true, Columns: []string{"update", "progress"},
		SQL:    "SELECT update_name, progress_json FROM public.background_updates ORDER BY update_name;",
		Why:    "they were under way and are resumed at boot, which is what Synapse expects of them",
		Source: "storage/background_updates.py",
	}, r.has("background_updates", "update_name", "progress_json")
}

// byTheClock warns of the jobs that no row starts.
func byTheClock() Step {
	return Step{
		Name: "jobs that run by the clock", Heed: true, Source: "config/retention.py, config/repository.py, config/redaction.py, config/server.py",
		Why: "if what you came back for may be older than these limits, take them out of homeserver.yaml before the first boot: " +
			"retention, media_retention, redaction_retention_period, forgotten_room_retention_period, delete_stale_devices_after",
	}
}

func oldServer() Step {
	return Step{
		Name: "the old server", Heed: true, Source: "reference §3.4",
		Why: "never run it and the restored one at once: both sign events with one key, and other servers would hold two histories of each room",
	}
}

func quote(ident string) string { return `"` + strings.ReplaceAll(ident, `"`, `""`) + `"` }

func text(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
