package house

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// selector gives "pkg.Name" of an expression that is one, by its spelling.
func selector(n ast.Node) string {
	if s, ok := n.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}

// environment lists who else may read the environment, with the reason.
var environment = map[string]string{
	"restore/dump.go": "pg_restore gets the caller's environment and a password beside it",
}

func TestProcess(t *testing.T) {
	only := []string{"os.Exit", "os.Getenv", "os.LookupEnv", "os.Environ", "os.Setenv"}
	for _, s := range sources(t) {
		if s.test || within(s.room, "cmd", "internal") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if name := selector(n); slices.Contains(only, name) && environment[s.path] == "" {
				t.Errorf("%s: %s: the environment and the end of the process belong to cmd; a library that reads them cannot be tested or trusted", s.at(n), name)
			}
			return true
		})
	}
}

// Time comes in through one field of each long-lived type, so that tests own it.
func TestClock(t *testing.T) {
	for _, s := range sources(t) {
		if within(s.room, "internal/demo", "internal/bench", "internal/soak") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch name := selector(c.Fun); name {
			case "time.Sleep":
				t.Errorf("%s: a sleep is too short on a slow machine and too long on every other: wait for the condition (testpg.WaitFor), or for a timer that a context ends", s.at(n))
			case "time.Now", "time.Since", "time.Until":
				if !s.test {
					t.Errorf("%s: %s is called; take the time from the clock field of the type (now func() time.Time)", s.at(n), name)
				}
			}
			return true
		})
	}
}

// deleters lists who asks a store for the right to delete, with the reason.
var deleters = map[string]string{
	"history/prune.go":      "the prune",
	"history/prunesteps.go": "the prune",
	"history/repository.go": "older configurations, once a newer one is there: they wrap keys for recipients that are to lose them",
	"chunkstore/probe.go":   "the objects of its own probe",
}

// Only the prune deletes what a backup is made of.
func TestOnlyThePruneDeletes(t *testing.T) {
	found := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || within(s.room, "chunkstore/storetest") {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			a, ok := n.(*ast.TypeAssertExpr)
			if !ok || a.Type == nil {
				return true
			}
			id, _ := a.Type.(*ast.Ident)
			if selector(a.Type) == "chunkstore.Remover" || id != nil && id.Name == "Remover" {
				if found[s.path] = true; deleters[s.path] == "" {
					t.Errorf("%s: it wants to delete from the store: only the prune does, after its grace", s.at(n))
				}
			}
			return true
		})
	}
	for path := range deleters {
		if !found[path] {
			t.Errorf("%s deletes nothing any more", path)
		}
	}
}

func TestNoInit(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init() runs before main can say anything, in an order that nobody chose", s.at(f))
			}
		}
	}
}

// callbacks lists the files whose structs carry the context of the one call that
// they live for: adapters to an interface of callbacks that has none.
var callbacks = []string{"agent/capture.go", "agent/copy.go"}

func TestNoContextInStruct(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || slices.Contains(callbacks, s.path) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range st.Fields.List {
				if selector(f.Type) == "context.Context" {
					t.Errorf("%s: a context in a struct outlives the call that it bounds: pass it as the first parameter", s.at(f))
				}
			}
			return true
		})
	}
}

// mayChange lists the package variables that may change, with the reason.
var mayChange = map[string]string{
	"internal/testpg.state": "go test gives a package one TestMain and its tests no common receiver",
}

// A package variable is a constant that Go cannot spell: it is never assigned,
// never addressed, and holds nothing that changes by itself.
func TestNoMutableVariables(t *testing.T) {
	rooms := map[string][]*source{}
	for _, s := range sources(t) {
		if !s.test {
			rooms[s.room] = append(rooms[s.room], s)
		}
	}
	for room, files := range rooms {
		vars := map[string]*ast.ValueSpec{}
		for _, s := range files {
			for _, d := range s.ast.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.VAR {
					continue
				}
				for _, spec := range g.Specs {
					v := spec.(*ast.ValueSpec)
					for _, n := range v.Names {
						vars[n.Name] = v
						if holdsState(v) && mayChange[room+"."+n.Name] == "" {
							t.Errorf("%s: the package variable %s holds state: put it into the type that owns it", s.at(n), n.Name)
						}
					}
				}
			}
		}
		for _, s := range files {
			assigned(s, func(id *ast.Ident) {
				v := vars[id.Name]
				// An identifier that the parser resolved to something local has another
				// declaration; one of another file of the package has none.
				if v == nil || id.Name == "_" || id.Obj != nil && id.Obj.Decl != any(v) || mayChange[room+"."+id.Name] != "" {
					return
				}
				t.Errorf("%s: the package variable %s is changed: two users of the package would meet in it", s.at(id), id.Name)
			})
		}
	}
}

func holdsState(v *ast.ValueSpec) bool {
	found := false
	look := func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.FuncLit: // its body runs later and has its own variables
			return false
		case *ast.ChanType:
			found = true
		case *ast.SelectorExpr:
			if p, ok := x.X.(*ast.Ident); ok && (p.Name == "sync" || p.Name == "atomic") && x.Sel.Name != "OnceValue" {
				found = true
			}
		}
		return true
	}
	if v.Type != nil {
		ast.Inspect(v.Type, look)
	}
	for _, x := range v.Values {
		ast.Inspect(x, look)
	}
	return found
}

// assigned calls f with the root of everything that a file assigns to, counts up
// or takes the address of.
func assigned(s *source, f func(*ast.Ident)) {
	root := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.Ident:
				f(x)
				return
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			default:
				return
			}
		}
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.AssignStmt:
			if x.Tok != token.DEFINE {
				for _, l := range x.Lhs {
					root(l)
				}
			}
		case *ast.IncDecStmt:
			root(x.X)
		}
		return true
	})
}

// long lists files that are still over the limit; the list only gets shorter.
var long []string

func TestLength(t *testing.T) {
	const limit = 500
	for _, s := range sources(t) {
		if n := strings.Count(s.text, "\n"); n > limit && !slices.Contains(long, s.path) {
			t.Errorf("%s has %d lines: over %d a file is no longer read as a whole; split it by its nouns", s.path, n, limit)
		}
	}
}

// What a checkout says is true on every machine.
func TestNoMachinePaths(t *testing.T) {
	words := []string{"/tmp" + "/w/", "/work" + "/main", "/work" + "/shared", "/root" + "/", "/work" + "/.library"}
	walk(t, func(path string) {
		if path == ".git" || path == "lifeboat" || strings.HasPrefix(path, "LICENSE") {
			return
		}
		b, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if strings.Contains(string(b), w) {
				t.Errorf("%s names %s: a path of one machine", path, w)
			}
		}
		if (path == "Makefile" || strings.HasPrefix(path, "internal/tools/install")) && strings.Contains(string(b), "://") {
			t.Errorf("%s names a host: registries are reached through their clients, as they are configured", path)
		}
	})
}
