package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "lifeboat.im/lifeboat"

// source is one Go file of the repository.
type source struct {
	path string // from the root, with slashes
	room string // its folder; "" is the root
	test bool
	text string
	ast  *ast.File
	fset *token.FileSet
}

func (s *source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return p.String()
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// walk calls f for each file of the repository: hidden folders, test data and
// modules of their own are left out.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "lifeboat-state") {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			f(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses every Go file.
func sources(t *testing.T) []*source {
	t.Helper()
	fset := token.NewFileSet()
	var all []*source
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") || strings.HasPrefix(path, "internal/tools/") {
			return
		}
		b, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(fset, path, b, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		room := filepath.ToSlash(filepath.Dir(path))
		all = append(all, &source{path: path, room: room, test: strings.HasSuffix(path, "_test.go"), text: string(b), ast: f, fset: fset})
	})
	if len(all) < 20 {
		t.Fatalf("only %d files: this is not the repository", len(all))
	}
	return all
}

// imports gives the import paths of a file.
func (s *source) imports() []string {
	var out []string
	for _, i := range s.ast.Imports {
		out = append(out, strings.Trim(i.Path.Value, `"`))
	}
	return out
}

// within reports whether a room is one of those or below one.
func within(room string, rooms ...string) bool {
	for _, r := range rooms {
		if room == r || strings.HasPrefix(room, r+"/") {
			return true
		}
	}
	return false
}
