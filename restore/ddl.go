package restore

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// DDL are the statements of a schema, in order: one SQL command each, every name with its
// schema, without the semicolon and without what only psql or a dump's own session needs
// (\restrict, SET). Who executes them does so with an empty search_path and
// check_function_bodies off, as pg_restore does. There are no owners and no privileges in
// them: all belongs to who executes them.
type DDL struct {
	Before []string // what the rows go into: schemas, types, functions, tables, sequences
	After  []string // what is made when the rows are there: indexes, constraints, triggers
}

// openDDL reads the statements from the schema's dump.
func openDDL(ctx context.Context, p *Plan) (*DDL, []string, error) {
	u, err := openDump(ctx, p, nil)
	if err != nil {
		return nil, nil, err
	}
	defer u.close()
	if u.encoding != "UTF8" {
		return nil, nil, fmt.Errorf("read the schema: the database's encoding is %s; an archive holds UTF8", u.encoding)
	}
	d := &DDL{}
	for _, part := range []struct {
		section string
		to      *[]string
	}{{"pre-data", &d.Before}, {"post-data", &d.After}} {
		script, err := u.run(ctx, "--file=-", "--no-owner", "--no-privileges", "--section="+part.section, "--use-list="+u.list, u.file)
		if err != nil {
			return nil, nil, fmt.Errorf("read the schema: %w", err)
		}
		*part.to = slices.DeleteFunc(statements(string(script)), ofSession)
	}
	d.identities(p)
	return d, u.notes, nil
}

// ofSession tells what pg_restore does for its own session.
func ofSession(statement string) bool {
	return strings.HasPrefix(statement, "SET ") || strings.HasPrefix(statement, "SELECT pg_catalog.set_config(")
}

// identities puts the replica identities back to what they were before attach.
func (d *DDL) identities(p *Plan) {
	before := p.identitiesBefore()
	d.Before = slices.DeleteFunc(d.Before, func(s string) bool {
		m := identityFull.FindStringSubmatch(s)
		if m == nil {
			return false
		}
		c, ok := before[canonical(m[1])]
		back := putBackSQL(canonical(m[1]), c)
		if !ok || back == "" {
			return false
		}
		if c.Old != 'd' { // the default needs no statement
			d.After = append(d.After, back)
		}
		return true
	})
}

const (
	namePart  = `(?:"(?:[^"]|"")+"|[^\s".(;]+)`
	qualified = `(` + namePart + `\.` + namePart + `)`
)

var (
	identityFull = regexp.MustCompile(`^ALTER TABLE ONLY ` + qualified + ` REPLICA IDENTITY FULL$`)
	tableOf      = regexp.MustCompile(`^CREATE (?:UNLOGGED )?TABLE ` + qualified + ` (.*)`)
	columnLine   = regexp.MustCompile(`(?m)^    (` + namePart + `) `)
	sequenceOf   = regexp.MustCompile(`(?m)^(?:CREATE (?:UNLOGGED )?SEQUENCE|\s+SEQUENCE NAME) ` + qualified + `$`)
	limitOf      = regexp.MustCompile(`(?m)^\s+(INCREMENT BY|MINVALUE|MAXVALUE) (\S+)$`)
	nameParts    = regexp.MustCompile(namePart)
)

// canonical spells a name of a dump, which is quoted only where it must be, as [ident].
func canonical(name string) string {
	parts := nameParts.FindAllString(name, -1)
	for i := range parts {
		parts[i] = unquote(parts[i])
	}
	return ident(parts...)
}

// tables gives the columns that the statement of each table lists, and perhaps the first
// words of its checks; nil when it does not list all of them.
func (d *DDL) tables() map[string][]string {
	out := map[string][]string{}
	for _, s := range d.Before {
		m := tableOf.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		var columns []string
		if m[2] == "(" && !strings.Contains(s, "\nINHERITS (") {
			columns = []string{}
			for _, c := range columnLine.FindAllStringSubmatch(s, -1) {
				columns = append(columns, unquote(c[1]))
			}
		}
		out[canonical(m[1])] = columns
	}
	return out
}

// sequences gives the limits of every sequence.
func (d *DDL) sequences() map[string]limits {
	out := map[string]limits{}
	for _, s := range d.Before {
		m := sequenceOf.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		l := limits{increment: 1, least: math.MinInt64, most: math.MaxInt64}
		for _, x := range limitOf.FindAllStringSubmatch(s, -1) {
			n, _ := strconv.ParseInt(x[2], 10, 64) // pg_dump prints numbers
			switch x[1] {
			case "INCREMENT BY":
				l.increment = n
			case "MINVALUE":
				l.least = n
			case "MAXVALUE":
				l.most = n
			}
		}
		out[canonical(m[1])] = l
	}
	return out
}

func unquote(name string) string {
	if !strings.HasPrefix(name, `"`) {
		return name
	}
	return strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
}
