package synapse

import (
	"net"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// portSQLite is what to do with a database that cannot be followed.
const portSQLite = "it has no log of changes to follow: move it to PostgreSQL with Synapse's own synapse_port_db (https://element-hq.github.io/synapse/latest/postgres.html), then run this again"

// database reads database: or databases: (synapse/config/database.py).
func (h *Homeserver) database(c section) error {
	one, many := c.get("database"), c.keys("databases")
	switch {
	case one != nil && len(many) > 0:
		return bad("%s: both database and databases are set; Synapse does not start with this", h.Path)
	case one == nil && len(many) == 0 && c.text("database_path") != "":
		return bad("%s: the database is SQLite (database_path): %s", h.Path, portSQLite)
	case one == nil && len(many) == 0:
		return bad("%s: no database is named; Synapse does not start with this", h.Path)
	case len(many) > 1:
		return bad("%s: the tables are split over %d databases (%s), and this version follows one: "+
			"a restore point of one is none of the others. Put them into one database, or back each up with source: and profile: generic, which gives points that do not fit together",
			h.Path, len(many), strings.Join(many, ", "))
	case len(many) == 1:
		one = c.section("databases").get(many[0])
	}
	if one != nil && one.Kind != yaml.MappingNode {
		return bad("%s:%d: database is not a section of lines name: and args: (are they indented?)", h.Path, one.Line)
	}
	d := section{one}
	if args := d.get("args"); args != nil && args.Kind != yaml.MappingNode {
		return bad("%s:%d: database.args is not a section of lines key: value (are they indented?)", h.Path, args.Line)
	}
	switch engine := orDefault(d.text("name"), "sqlite3"); engine { // as Synapse's default
	case "psycopg2":
	case "sqlite3":
		return bad("%s: the database is SQLite: %s", h.Path, portSQLite)
	default:
		return bad("%s: the database is %q; Synapse knows psycopg2 and sqlite3", h.Path, engine)
	}
	h.UnsafeLocale = d.truth("allow_unsafe_locale")
	return h.dsn(d.section("args"))
}

// reach are the arguments that say how to reach the database and as whom, under
// the names of libpq. The others tune Synapse's own connections, and must not tune
// ours.
func reach() []string {
	return []string{
		"service", "host", "port", "dbname", "user", "password", "passfile", "connect_timeout", "sslmode", "sslcert", "sslkey", "sslpassword",
		"sslrootcert", "sslnegotiation", "sslsni", "channel_binding", "require_auth", "krbsrvname", "target_session_attrs",
	}
}

// dsn turns the arguments of psycopg2.connect into a connection string of libpq.
func (h *Homeserver) dsn(args section) error {
	for _, o := range []string{"database", "password", "user", "host", "dbname"} {
		if v := args.get(o); v != nil && (v.Kind != yaml.ScalarNode || unclear(v)) {
			return bad("%s:%d: database.args.%s is text without quotes that YAML 1.1 reads as something else: put it into quotes", h.Path, v.Line, o)
		}
	}
	if strings.Contains(args.text("options"), "search_path") {
		return bad("%s: database.args.options sets search_path; tables of Synapse outside the schema public are not known to this version", h.Path)
	}
	value := args.text
	given := func(o string) string {
		switch {
		case o == "dbname" && value("dbname") == "":
			return value("database")
		case o == "host" && value("host") == "":
			return value("hostaddr")
		}
		return value(o)
	}
	whole := value("dsn")
	var parts []string
	for _, o := range reach() {
		if v := given(o); v != "" {
			parts = append(parts, o+"="+quoteDSN(v))
		}
	}
	switch {
	case whole != "" && len(parts) > 0 && strings.Contains(whole, "://"):
		return bad("%s: database.args holds dsn as a URL and other arguments as well: write them as arguments", h.Path)
	case whole != "":
		h.DSN, h.Database = strings.TrimSpace(whole+" "+strings.Join(parts, " ")), "the one of database.args.dsn"
		return nil
	case given("dbname") == "" && value("service") == "":
		return bad("%s: database.args names no database (dbname)", h.Path)
	}
	h.DSN = strings.Join(parts, " ")
	h.Database = given("dbname")
	if host := given("host"); strings.HasPrefix(host, "/") {
		h.Database += " at the socket in " + host
	} else if host != "" {
		h.Database += " at " + net.JoinHostPort(host, orDefault(value("port"), "5432"))
	}
	return nil
}

// quoteDSN writes a value of a connection string (PostgreSQL documentation,
// "Keyword/Value Connection Strings": ' and \ take a \).
func quoteDSN(v string) string {
	if v != "" && !strings.ContainsFunc(v, func(r rune) bool {
		return !slices.Contains([]rune("._-/:,"), r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}
