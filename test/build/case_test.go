package build

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

// testCase is one file of testdata/cases. Its comment begins with what it
// shows; lines of the form "word: text" after that say how.
type testCase struct {
	name string // group/name
	path string
	ar   *txtar.Archive

	args  []string // of build; the context stands last unless it is named by ctx
	ctx   string   // - or an address in place of the directory
	stdin string   // a file of the context, or "tar" for all of it
	env   []string
	fail  []string // the build fails, and says each of these
	says  []string // stderr of a build that succeeds holds each of these
	run   []string // what a container of the image prints, line by line
	cmd   []string // arguments of that container
	out   string   // the result is not an image: "DIR" or "TAR"
	xattr []string // path name=value in hex, set in the context
}

func loadCases(t testing.TB) []*testCase {
	t.Helper()
	files, err := filepath.Glob("testdata/cases/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var out []*testCase
	for _, path := range files {
		c, err := parseCase(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, c)
	}
	return out
}

func parseCase(path string) (*testCase, error) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(path), "testdata/cases/"), ".txtar")
	c := &testCase{name: name, path: path, ar: ar}
	for i, line := range strings.Split(strings.TrimSpace(string(ar.Comment)), "\n") {
		if i == 0 {
			continue // what it shows
		}
		word, text, ok := strings.Cut(line, ":")
		text = strings.TrimSpace(text)
		switch {
		case strings.TrimSpace(line) == "":
		case !ok:
			return nil, fmt.Errorf("line %q is not word: text", line)
		case word == "args":
			c.args = append(c.args, strings.Fields(text)...)
		case word == "ctx":
			c.ctx = text
		case word == "stdin":
			c.stdin = text
		case word == "env":
			c.env = append(c.env, text)
		case word == "fail":
			c.fail = append(c.fail, text)
		case word == "says":
			c.says = append(c.says, text)
		case word == "run":
			c.run = append(c.run, text)
		case word == "cmd":
			c.cmd = append(c.cmd, strings.Fields(text)...)
		case word == "out":
			c.out = text
		case word == "xattr":
			c.xattr = append(c.xattr, text)
		default:
			return nil, fmt.Errorf("the word %q is not known", word)
		}
	}
	return c, nil
}

// want is an expectation's text, "" when the case has none yet.
func (c *testCase) want(name string) string {
	for _, f := range c.ar.Files {
		if f.Name == "want/"+name {
			return string(f.Data)
		}
	}
	return ""
}

// keep replaces the expectations in the case's file.
func (c *testCase) keep(want map[string]string) error {
	c.ar.Files = slices.DeleteFunc(c.ar.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
	for _, name := range []string{"tree", "config", "history"} {
		if want[name] != "" {
			c.ar.Files = append(c.ar.Files, txtar.File{Name: "want/" + name, Data: []byte(want[name])})
		}
	}
	return os.WriteFile(c.path, txtar.Format(c.ar), 0o644)
}

// unpack writes the context into dir. vars are replaced in the Dockerfiles.
// What txtar cannot hold is made by the file setup.sh, which is then removed.
func (c *testCase) unpack(dir string, vars *strings.Replacer) error {
	for _, f := range c.ar.Files {
		if strings.HasPrefix(f.Name, "want/") {
			continue
		}
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		data := f.Data
		if strings.Contains(f.Name, "ockerfile") {
			data = []byte(vars.Replace(string(data)))
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	setup := filepath.Join(dir, "setup.sh")
	if _, err := os.Stat(setup); err == nil {
		cmd := exec.Command("sh", "-eu", setup)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("setup.sh: %w\n%s", err, text)
		}
		if err := os.Remove(setup); err != nil {
			return err
		}
	}
	for _, x := range c.xattr {
		f := strings.Fields(x)
		if len(f) != 2 {
			return errors.New("xattr: want path name=value")
		}
		k, v, _ := strings.Cut(f[1], "=")
		value, err := hex.DecodeString(v)
		if err != nil {
			return fmt.Errorf("xattr %s: %w", x, err)
		}
		if err := unix.Setxattr(filepath.Join(dir, f[0]), k, value, 0); err != nil {
			return fmt.Errorf("xattr %s: %w", x, err)
		}
	}
	return nil
}
