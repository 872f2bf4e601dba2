package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadPattern(t *testing.T) {
	dir := t.TempDir()
	asked := errors.New("failed to solve: " + filepath.ErrBadPattern.Error())
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := options{context: dir}
	check := func(want string) {
		t.Helper()
		if err := o.badPattern(asked); !errors.Is(err, asked) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q, want %q", err, want)
		}
	}
	check(asked.Error())
	write(".dockerignore", "# a[\nfine\n  !a[\n")
	check(filepath.Join(dir, ".dockerignore") + `, line 3: "a[": `)
	write("Dockerfile.dockerignore", "fine\n")
	check(asked.Error())
	o.file = filepath.Join(dir, "Other")
	write("Other.dockerignore", "b[\n")
	check(o.file + `.dockerignore, line 1: "b[": `)
	if other := errors.New("another"); !errors.Is(o.badPattern(other), other) {
		t.Error("another error is changed")
	}
}
