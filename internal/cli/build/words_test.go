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

// TestPlaces: that the id or the metadata cannot be written where the user wants
// them is told before the build, and nothing but an old id is removed for it.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"file", "old"} {
		if err := os.WriteFile(at(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(at("file"), at("link")); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]options{
		"":                                      {iidFile: at("new"), metadataFile: at("old")},
		"--iidfile: stat " + at("missing"):      {iidFile: at("missing/x")},
		"--metadata-file: stat " + at("nope"):   {metadataFile: at("nope/x")},
		"--metadata-file: " + at("file"):        {metadataFile: at("file/x")},
		"--iidfile: " + dir + " is a directory": {iidFile: dir},
	} {
		if err := o.places(); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for name, stays := range map[string]bool{"old": false, "link": true, "never": false} {
		o := options{iidFile: at(name)}
		if err := o.forget(); err != nil {
			t.Error(name, err)
		}
		if _, err := os.Lstat(at(name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}
