package house

import (
	"go/ast"
	"go/token"
	"regexp"
	"strings"
	"testing"

	"lifeboat.im/lifeboat/synapse"
)

// The agent serves any PostgreSQL database: only the profile knows Synapse's
// tables. Names of several words are unmistakable; "users" and "events" are not.
func TestOnlyTheProfileNamesTables(t *testing.T) {
	var names []string
	for _, table := range synapse.Tables() {
		if strings.Contains(strings.Trim(table.Name, "_"), "_") {
			names = append(names, regexp.QuoteMeta(table.Name))
		}
	}
	if len(names) < 100 {
		t.Fatalf("only %d names", len(names))
	}
	word := regexp.MustCompile(`(^|[^a-z0-9_])(` + strings.Join(names, "|") + `)($|[^a-z0-9_])`)
	found := false
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			m := word.FindStringSubmatch(lit.Value)
			if m == nil {
				return true
			}
			if within(s.room, "synapse") {
				found = true
			}
			if !within(s.room, "synapse", "mspf", "internal") {
				t.Errorf("%s names %s, a table of Synapse: say it as data in synapse and ask for it there, so that the generic profile stays what it says", s.at(lit), m[2])
			}
			return true
		})
	}
	if !found {
		t.Error("not even synapse names its tables: the pattern matches nothing")
	}
}
