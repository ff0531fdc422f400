package archive

import (
	"context"

	"lifeboat.im/lifeboat/mspf"
	"lifeboat.im/lifeboat/synapse"
)

// Origin gives what the rows say of where they come from: the software with the version
// of its schema, and the server's name, "" when there is no account.
func Origin(ctx context.Context, t Tables) (from mspf.Source, server string, err error) {
	b := &builder{tables: t, check: ctx.Err, read: map[string]bool{}}
	from.Software = "synapse"
	for r, err := range b.rows("schema_version", "version") {
		if err != nil {
			return from, "", err
		}
		from.Schema = r.int(0)
	}
	for r, err := range b.rows("schema_compat_version", "compat_version") {
		if err != nil {
			return from, "", err
		}
		from.SchemaCompat = r.int(0)
	}
	for r, err := range b.rows("users", "name") {
		if err != nil {
			return from, "", err
		}
		if server = synapse.Domain(r.text(0)); server != "" {
			break
		}
	}
	return from, server, nil
}
