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

func TestHistoryFilter(t *testing.T) {
	for text, want := range map[string]string{
		"status=error": "status==error", "status!=error": "status!=error", "ref=ab": "ref~=ab", "repository!=x=y": "repository!=x=y",
		"duration>5s": "duration>5s", "startedAt<=24h": "startedAt<=24h",
		"foo=bar": "unsupported filter", "status": "want name=value", "=x": "want name=value", "ref!": "want name=value", "ref!x": "want name=value", "": "want name=value",
		"status>1": "expected = or !=", "duration=5s": "expected <=, <, >= or >",
	} {
		got, err := historyFilter(text)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
