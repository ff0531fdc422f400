package synapse

import (
	"fmt"
	"slices"
	"strings"
)

// Finding is one check of a live homeserver: State is ok, warn or fail.
type Finding struct{ Name, State, Why, Mend string }

// Check is a question to a live database and what its answer means.
type Check struct {
	// SQL is one statement that reads.
	SQL string
	// Judge takes its rows, as text.
	Judge func(rows [][]string) Finding
}

// TablesSQL lists all tables, schema and name; see [Detect] and [Unknown].
const TablesSQL = `SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1, 2`

// LocaleSQL gives the encoding, collation and character type of the database, as
// Synapse asks for them (storage/engines/postgres.py, check_database).
const LocaleSQL = `SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`

// createC makes a database that Synapse starts on.
const createC = "createdb -T template0 -E UTF8 --locale=C"

// LocaleFault says, of what [LocaleSQL] gives, why Synapse would not start on the
// database and what to do; "" when it would. unsafe: it was told to bear another
// locale than C (allow_unsafe_locale).
func LocaleFault(encoding, collate, ctype string, unsafe bool) string {
	if encoding == "UTF8" && (unsafe || collate == "C" && ctype == "C") {
		return ""
	}
	return fmt.Sprintf("its encoding is %s, its collation %s and its character type %s, and Synapse starts on UTF8, C and C only; make one with `%s NAME`",
		encoding, collate, ctype, createC)
}

// UsersTable holds the accounts, schema and name.
const UsersTable = "public.users"

// NameSQL gives an account of the database, and with its domain the server's name.
const NameSQL = `SELECT name FROM ` + UsersTable + ` WHERE name IS NOT NULL LIMIT 1`

// HasUsers reports whether a database has what [NameSQL] reads.
func (r *Restored) HasUsers() bool { return r.has("users", "name") }

// AliasTable is where the aliases of rooms stand, for who has an alias and no room id.
const AliasTable = "room_aliases"

// SharedSQL lists the rooms that a user of another server than name is in: what is
// lost in them, the others still have.
func SharedSQL(name string) string {
	return `SELECT DISTINCT room_id FROM public.current_state_events
WHERE type = 'm.room.member' AND membership = 'join' AND pg_catalog.substr(state_key, pg_catalog.strpos(state_key, ':') + 1) <> '` +
		strings.ReplaceAll(name, "'", "''") + `'`
}

// CanShare reports whether a database has what [SharedSQL] reads.
func (r *Restored) CanShare() bool {
	return r.has("current_state_events", "room_id", "type", "state_key", "membership")
}

// DetectIn is [Detect] over the rows of [TablesSQL].
func DetectIn(rows [][]string) bool {
	return Detect(func(schema, table string) bool {
		return slices.ContainsFunc(rows, func(r []string) bool { return r[0] == schema && r[1] == table })
	})
}

// Unknown gives the tables among the rows of [TablesSQL] that no row of [Tables]
// names, in schema public, where Synapse's are.
func Unknown(rows [][]string) []string {
	var out []string
	for _, r := range rows {
		if _, known := Named(r[1]); r[0] == "public" && !known {
			out = append(out, r[1])
		}
	}
	return out
}

// Checks are the questions to the database of a homeserver; h is nil when no
// configuration is known.
func Checks(h *Homeserver) []Check {
	checks := []Check{
		{TablesSQL, judgeTables},
		{LocaleSQL, h.judgeLocale},
	}
	if h != nil {
		// Synapse looks at one account as well when it starts
		// (storage/databases/main/__init__.py, check_database_before_upgrade).
		checks = append(checks, Check{NameSQL, h.judgeName})
	}
	return checks
}

func judgeTables(rows [][]string) Finding {
	f := Finding{Name: "tables of Synapse", State: "ok"}
	if !DetectIn(rows) {
		f.State, f.Why = "fail", "the database has no tables of Synapse in schema public"
		f.Mend = "name Synapse's database, or set profile: generic"
		return f
	}
	unknown := Unknown(rows)
	if len(unknown) == 0 {
		f.Why = fmt.Sprintf("all are known (as of Synapse %s)", Version)
		return f
	}
	const most = 10
	more := ""
	if n := len(unknown); n > most {
		unknown, more = unknown[:most], fmt.Sprintf(" and %d more", n-most)
	}
	f.Why = "not known to this version, so captured and restored in full like every other: " + strings.Join(unknown, ", ") + more +
		"; a newer Synapse or a module made them"
	return f
}

func (h *Homeserver) judgeLocale(rows [][]string) Finding {
	f := Finding{Name: "locale of the database", State: "ok"}
	if len(rows) != 1 {
		f.State, f.Why = "warn", "pg_database does not say"
		return f
	}
	encoding, collate, ctype := rows[0][0], rows[0][1], rows[0][2]
	f.Why = fmt.Sprintf("%s, collation %s, character type %s", encoding, collate, ctype)
	switch {
	case encoding != "UTF8":
		f.State, f.Why, f.Mend = "fail", f.Why+": Synapse starts with UTF8 only", "restore into a database made with "+createC
	case collate != "C" || ctype != "C":
		f.State = "warn"
		f.Why += ": Synapse starts with C only, unless allow_unsafe_locale is set, and an upgrade of the C library can break indexes in another"
		f.Mend = "restore into a database made with " + createC + "; indexes are built anew there"
	}
	return f
}

func (h *Homeserver) judgeName(rows [][]string) Finding {
	f := Finding{Name: "server name", State: "ok", Why: h.ServerName + ", but the database has no users yet"}
	if len(rows) == 0 {
		return f
	}
	_, domain, _ := strings.Cut(rows[0][0], ":")
	if f.Why = h.ServerName + ", and so are the users"; domain != h.ServerName {
		f.State = "fail"
		f.Why = fmt.Sprintf("the configuration is %s's and the users are %s's: Synapse does not start on this database", h.ServerName, domain)
		f.Mend = "name the homeserver.yaml of this database, or the database of this homeserver.yaml"
	}
	return f
}
