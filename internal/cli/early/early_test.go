//go:build unix

package early

import (
	"go/parser"
	"go/token"
	"testing"
)

// TestImports: with anything more, this package is initialised after much of
// the rest of the program.
func TestImports(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "early.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range f.Imports {
		if i.Path.Value != `"os"` && i.Path.Value != `"syscall"` {
			t.Errorf("early.go imports %s", i.Path.Value)
		}
	}
}

func TestDirectory(t *testing.T) {
	for path, want := range map[string]string{"/usr/bin/wherry": "/usr/bin/", "/wherry": "/", "wherry": "", "": ""} {
		if got := path[:directory(path)]; got != want {
			t.Errorf("directory of %q is %q, want %q", path, got, want)
		}
	}
}
