package house

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPackagesAreDocumented(t *testing.T) {
	doc := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			doc[s.room] = doc[s.room] || strings.HasPrefix(s.ast.Doc.Text(), "Package "+s.ast.Name.Name+" ") || strings.HasPrefix(s.ast.Doc.Text(), "Command ")
		}
	}
	for room, ok := range doc {
		if !ok {
			t.Errorf("%s: no package comment that begins with its name: the reader at 3 a.m. starts there", room)
		}
	}
}

// At least 95 % of the exported names of each room say what they are.
func TestExportedAreDocumented(t *testing.T) {
	all, missing := map[string]int{}, map[string][]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		exported(s, func(name string, documented bool) {
			all[s.room]++
			if !documented {
				missing[s.room] = append(missing[s.room], name)
			}
		})
	}
	for room, m := range missing {
		slices.Sort(m)
		if len(m)*20 > all[room] {
			t.Errorf("%s: %d of %d exported names have no comment: %s", room, len(m), all[room], strings.Join(m, ", "))
		}
	}
}

func exported(s *source, f func(name string, documented bool)) {
	for _, d := range s.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !d.Name.IsExported() {
				continue
			}
			name := d.Name.Name
			if d.Recv != nil {
				r := receiver(d.Recv.List[0].Type)
				// A method that an interface of the standard library names needs no words.
				if !ast.IsExported(r) || slices.Contains([]string{"Error", "String", "GoString", "Format", "Unwrap", "Is", "Len", "Less", "Swap", "MarshalJSON", "LogValue"}, name) {
					continue
				}
				name = r + "." + name
			}
			f(name, d.Doc != nil)
		case *ast.GenDecl:
			if d.Tok == token.IMPORT {
				continue
			}
			for _, spec := range d.Specs {
				switch v := spec.(type) {
				case *ast.TypeSpec:
					if v.Name.IsExported() {
						f(v.Name.Name, d.Doc != nil || v.Doc != nil)
					}
				case *ast.ValueSpec:
					for _, n := range v.Names {
						if n.IsExported() {
							f(n.Name, d.Doc != nil || v.Doc != nil || v.Comment != nil)
						}
					}
				}
			}
		}
	}
}

func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// pending lists invariants without a test of their name, with the reason.
var pending = map[string]string{}

// invariant is a line "//   - S3 Bytes at a name never change." of a doc.go.
var invariant = regexp.MustCompile(`(?m)^//\s+(?:- )?([A-Z][0-9]+)[ :.] ?\S`)

// Every numbered invariant has at least one test named for it, in its own room.
func TestInvariantsHaveTests(t *testing.T) {
	ids, tests := map[string][]string{}, map[string][]string{}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.path, "/doc.go") {
			for _, m := range invariant.FindAllStringSubmatch(s.text, -1) {
				ids[s.room] = append(ids[s.room], m[1])
			}
		}
		if !s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				tests[s.room] = append(tests[s.room], f.Name.Name)
			}
		}
	}
	// The letters of the rooms, so that a doc.go that forgets them is found.
	for room, letter := range map[string]string{"record": "R", "chunkstore": "S", "history": "H", "cdc": "C", "agent": "G", "restore": "P"} {
		if !slices.ContainsFunc(ids[room], func(id string) bool { return strings.HasPrefix(id, letter) }) {
			t.Errorf("%s/doc.go names no invariant %s1, %s2, …", room, letter, letter)
		}
	}
	for room, list := range ids {
		for _, id := range list {
			named := slices.ContainsFunc(tests[room], func(n string) bool { return strings.HasPrefix(n, "Test"+id+"_") })
			switch {
			case named:
			case pending[id] != "":
				t.Logf("%s: %s has no test yet: %s", room, id, pending[id])
			default:
				t.Errorf("%s: invariant %s has no test named Test%s_…: a promise that nothing holds to", room, id, id)
			}
		}
	}
}

var namedTest = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*[a-z])`")

// A test that a document names is there: who renames one finds what relied on it.
func TestDocumentsNameTests(t *testing.T) {
	have := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test {
				have[f.Name.Name] = true
			}
		}
	}
	n := 0
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedTest.FindAllStringSubmatch(string(text), -1) {
			if n++; !have[m[1]] {
				t.Errorf("%s names %s, and no test has that name", path, m[1])
			}
		}
	})
	if n < 20 {
		t.Errorf("only %d names: the pattern matches too little", n)
	}
}

// Every test that docs/format.md leans on is in the room that it says, and each
// durable step of its table has one.
func TestFormatNamesTests(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root(t), "docs", "format.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test {
				have[s.room+" "+f.Name.Name] = true
			}
		}
	}
	_, crashes, _ := strings.Cut(string(b), "\n| step | a crash")
	crashes, _, _ = strings.Cut(crashes, "\n\n")
	steps := 0
	for i, row := range slices.Collect(strings.Lines(crashes)) {
		cells := strings.Split(row, "|")
		if i < 2 || len(cells) < 4 {
			continue // the head of the table
		}
		steps++
		found := holdNamed(t, have, cells[len(cells)-2])
		if found == 0 {
			t.Errorf("docs/format.md names no test of %q", strings.TrimSpace(cells[1]))
		}
	}
	if steps < 10 {
		t.Errorf("docs/format.md has %d durable steps: is the table still there?", steps)
	}
}

// holdNamed counts the tests that a text names, each of which must be in its room.
func holdNamed(t *testing.T, have map[string]bool, text string) (n int) {
	t.Helper()
	room := ""
	for _, part := range strings.Fields(strings.NewReplacer(",", " ", ";", " ").Replace(text)) {
		switch {
		case strings.HasPrefix(part, "`"):
			room = strings.Trim(part, "`")
		case strings.HasPrefix(part, "Test"):
			n++
			if !have[room+" "+part] {
				t.Errorf("docs/format.md names %s in %s: there is none", part, room)
			}
		}
	}
	return n
}
