package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// dump is the schema: a file for pg_restore in a folder of its own, and the list
// of its entries that are restored.
type dump struct {
	dir, file, list string
	bin             string
	target          *database
	plain           bool // without owners and privileges
	sortMemory      int  // maintenance_work_mem of each job in MiB; 0: the target's own
	writes          bool // something in it may write rows when it is made, or make what does
	encoding        string
	owners          []string
	notes           []string
}

// openDump writes the dump to a folder that only we can read. Without a database it can
// be read, and not applied.
func openDump(ctx context.Context, p *Plan, d *database) (*dump, error) {
	custom, err := p.view.Bytes(ctx, p.schema.Custom)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	bin := "pg_restore"
	if p.options.PgRestore != "" {
		bin = filepath.Join(p.options.PgRestore, "pg_restore")
	}
	if bin, err = exec.LookPath(bin); err != nil {
		return nil, fmt.Errorf("find pg_restore: %w", err)
	}
	dir, err := os.MkdirTemp("", "lifeboat-restore-")
	if err != nil {
		return nil, err
	}
	u := &dump{dir: dir, file: filepath.Join(dir, "schema.dump"), list: filepath.Join(dir, "schema.list"), bin: bin, target: d}
	if err := os.WriteFile(u.file, custom, 0o600); err != nil {
		u.close()
		return nil, err
	}
	if err := u.choose(ctx, p.schema.Publication); err != nil {
		u.close()
		return nil, err
	}
	if err := u.scan(ctx); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

func (u *dump) close() { _ = os.RemoveAll(u.dir) }

// choose writes the list of entries: neither our publication, nor a subscription,
// which would begin to copy from its publisher, nor our schema.
func (u *dump) choose(ctx context.Context, publication string) error {
	out, err := u.run(ctx, "--list", u.file)
	if err != nil {
		return err
	}
	lines := strings.Split(string(out), "\n")
	for i, l := range lines {
		u.writes = u.writes || strings.Contains(l, " MATERIALIZED VIEW ") || strings.Contains(l, " EVENT TRIGGER ")
		why := leftOut(l, publication)
		if why == "" {
			continue
		}
		lines[i] = ";" + l
		if why != "ours" {
			u.notes = append(u.notes, why)
		}
	}
	return os.WriteFile(u.list, []byte(strings.Join(lines, "\n")), 0o600)
}

// leftOut says why an entry of the list is not restored; "" when it is. A line
// is "id; catalog oid DESCRIPTION schema tag owner" (pg_restore --list).
func leftOut(line, publication string) string {
	_, rest, ok := strings.Cut(line, "; ")
	f := strings.SplitN(rest, " ", 3)
	if !ok || len(f) < 3 || strings.HasPrefix(line, ";") {
		return ""
	}
	entry := f[2]
	switch {
	case strings.HasPrefix(entry, "SUBSCRIPTION "):
		return "left out: " + entry + ": a restored subscription would begin to copy from its publisher"
	case publication == "":
	case strings.HasPrefix(entry, "PUBLICATION - "+publication+" "), strings.HasPrefix(entry, "COMMENT - PUBLICATION "+publication+" "):
		return "ours"
	case strings.HasPrefix(entry, "PUBLICATION TABLE "), strings.HasPrefix(entry, "PUBLICATION TABLES IN SCHEMA "):
		if strings.Contains(entry, " "+publication+" ") {
			return "ours"
		}
	}
	if strings.HasPrefix(entry, "SCHEMA - lifeboat ") {
		return "ours"
	}
	return ""
}

var ownerLine = regexp.MustCompile(`^ALTER .* OWNER TO ("(?:[^"]|"")+"|[^ ;"]+);$`)

// scan reads the encoding and the owners from the dump's script.
func (u *dump) scan(ctx context.Context) error {
	script, err := u.run(ctx, "--file=-", "--use-list="+u.list, u.file)
	if err != nil {
		return err
	}
	u.encoding = "UTF8"
	for line := range bytes.Lines(script) {
		l := string(bytes.TrimRight(line, "\n"))
		if rest, ok := strings.CutPrefix(l, "SET client_encoding = '"); ok {
			u.encoding = strings.TrimSuffix(rest, "';")
		}
		if m := ownerLine.FindStringSubmatch(l); m != nil {
			name := m[1]
			if strings.HasPrefix(name, `"`) {
				name = strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)
			}
			if !slices.Contains(u.owners, name) {
				u.owners = append(u.owners, name)
			}
		}
	}
	return nil
}

// checkOwners decides whether owners and privileges can be restored.
func (u *dump) checkOwners(ctx context.Context, conn *pgconn.PgConn) error {
	var missing []string
	for _, o := range u.owners {
		rows, err := query(ctx, conn, "SELECT pg_catalog.pg_has_role(current_user, oid, 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = "+literal(o))
		if err != nil {
			return err
		}
		if len(rows) == 0 || rows[0][0] != "t" {
			missing = append(missing, o)
		}
	}
	if len(missing) > 0 {
		u.plain = true
		u.notes = append(u.notes, "owners and privileges are not restored: the target has no such role, or its user is not a member: "+strings.Join(missing, ", "))
	}
	return nil
}

// run starts pg_restore and gives what it prints.
func (u *dump) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, u.bin, args...)
	cmd.Env = u.environment()
	// Asked to end, it cancels what its workers do in the server.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), &runError{err: err, text: errs.String()}
	}
	return out.Bytes(), nil
}

type runError struct {
	err  error
	text string
}

func (e *runError) Error() string {
	if strings.Contains(e.text, "unsupported version") {
		return "run pg_restore: it is older than the pg_dump that stored the schema: " +
			"install the client programs of that release or a newer one, or name their folder with pg_bin: in the configuration"
	}
	return fmt.Sprintf("run pg_restore: %v: %s", e.err, strings.TrimSpace(e.text))
}

func (e *runError) Unwrap() error { return e.err }

// environment is ours with the password, and with messages that we can read.
func (u *dump) environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "LC_") || strings.HasPrefix(s, "LANG") || strings.HasPrefix(s, "PGPASSWORD=") || strings.HasPrefix(s, "PGOPTIONS=")
	})
	options := "-c synchronous_commit=off -c client_min_messages=error -c statement_timeout=0 -c lock_timeout=0"
	if u.sortMemory > 0 {
		options += fmt.Sprintf(" -c maintenance_work_mem=%dMB", u.sortMemory)
	}
	env = append(env, "LC_ALL=C", "PGOPTIONS="+options)
	if u.target != nil && u.target.cfg.Password != "" {
		env = append(env, "PGPASSWORD="+u.target.cfg.Password)
	}
	return env
}

// apply restores a section and gives the statements that the target refused.
func (u *dump) apply(ctx context.Context, section string, jobs int) ([]FailedStatement, error) {
	args := []string{"--dbname=" + u.target.conninfo(), "--no-password", "--section=" + section, "--use-list=" + u.list}
	if jobs > 1 {
		args = append(args, "--jobs="+strconv.Itoa(jobs))
	}
	if u.plain {
		args = append(args, "--no-owner", "--no-privileges")
	}
	_, err := u.run(ctx, append(args, u.file)...)
	if err == nil {
		return nil, nil
	}
	var re *runError
	if !errors.As(err, &re) || ctx.Err() != nil {
		return nil, err
	}
	failed := parseFailures(re.text)
	if len(failed) == 0 {
		return nil, err
	}
	return weigh(failed, func(note string) { u.notes = append(u.notes, note) }), nil
}

// weigh drops what is not a loss: a setting of newer servers that an older target
// does not know, and privileges for roles that it does not have.
func weigh(failed []FailedStatement, note func(string)) []FailedStatement {
	return slices.DeleteFunc(failed, func(f FailedStatement) bool {
		switch {
		case strings.HasPrefix(f.Statement, "SET transaction_timeout"), strings.HasPrefix(f.Statement, "SET default_table_access_method"):
			return true
		case strings.HasPrefix(f.Statement, "COMMENT ON EXTENSION "):
			note("a comment on an extension is not restored: " + f.Error)
			return true
		case strings.HasPrefix(f.Statement, "GRANT "), strings.HasPrefix(f.Statement, "REVOKE "), strings.HasPrefix(f.Statement, "ALTER DEFAULT PRIVILEGES "):
			if strings.Contains(f.Error, "role ") && strings.Contains(f.Error, "does not exist") {
				note("a privilege is not restored: " + f.Error + ": " + f.Statement)
				return true
			}
		}
		return false
	})
}

// parseFailures reads the errors that pg_restore went on after.
func parseFailures(text string) []FailedStatement {
	var out []FailedStatement
	var open *FailedStatement
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, "pg_restore: error: could not execute query: "); ok {
			out = append(out, FailedStatement{Error: strings.Join(strings.Fields(strings.TrimPrefix(rest, "ERROR:")), " ")})
			open = &out[len(out)-1]
			continue
		}
		if strings.HasPrefix(line, "pg_restore: ") {
			open = nil
			continue
		}
		if open == nil {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "Command was: "); ok {
			open.Statement = rest
		} else if open.Statement != "" {
			open.Statement += "\n" + line
		} else {
			open.Error += "; " + strings.Join(strings.Fields(line), " ")
		}
	}
	for i := range out {
		out[i].Statement = strings.TrimSpace(out[i].Statement)
	}
	return out
}
