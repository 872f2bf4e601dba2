package acceptance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestDataRootNames: whatever the directory of the data is called, everything
// works there. What separates an overlay's directories and options is refused,
// in words that tell what does work.
func TestDataRootNames(t *testing.T) {
	harness.Require(t, "busybox")
	for name, c := range map[string]struct {
		dir, char string // what is refused
		flags     []string
	}{
		"comma":             {dir: "a,upperdir=b", char: ","},
		"colon":             {dir: "a:b", char: ":"},
		"backslash":         {dir: `a\040b`, char: `\\`},
		"spaces and quotes": {dir: ` a "b" 'c' `},
		"no UTF-8":          {dir: "a\xffb\xc3%d\nc"},
		"vfs":               {dir: "a,b:c\\d", flags: []string{"--storage-driver", "vfs"}},
		"link":              {dir: "a,b:c\\d"},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), c.dir)
			if err := os.Mkdir(root, 0o711); err != nil {
				t.Fatal(err)
			}
			if c.char != "" {
				refuses(t, root, c.char)
				return
			}
			if name == "link" {
				link := filepath.Join(t.TempDir(), "link")
				if err := os.Symlink(root, link); err != nil {
					t.Fatal(err)
				}
				root = link
			}
			e := harness.Run(t, harness.Options{Flags: append(c.flags, "--data-root", root)})
			if err := e.LoadBusybox(); err != nil {
				t.Fatal(err)
			}
			run := func(want string, args ...string) {
				t.Helper()
				out, errOut, code, err := e.CLI(args...)
				if err != nil || code != 0 || strings.TrimSpace(out) != want {
					t.Errorf("%q: %d %q %q %v, want %q", args, code, out, errOut, err, want)
				}
			}
			context := t.TempDir()
			if err := os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM busybox\nRUN echo one >/one\nRUN echo two >/two; rm /one\nCOPY Dockerfile /\nVOLUME /data\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, errOut, code, err := e.CLI("build", "-t", "built", context); err != nil || code != 0 {
				t.Fatalf("build: %d %s %v", code, errOut, err)
			}
			run("two\n/Dockerfile", "run", "--name", "one", "-v", "named:/named", "built", "sh", "-c", "cat /two; ls /one /Dockerfile 2>/dev/null; echo here >/new; echo kept >/named/f")
			run("A /data\nA /named\nA /new", "diff", "one")
			run("here", "run", "--rm", "--volumes-from", "one", "-v", "named:/named:ro", "--read-only", "built", "sh", "-c", "cat /named/f >/dev/null && echo here")
			if _, errOut, code, err := e.CLI("commit", "one", "committed"); err != nil || code != 0 {
				t.Fatalf("commit: %d %s %v", code, errOut, err)
			}
			run("here", "run", "--rm", "committed", "cat", "/new")
			run("kept", "run", "--rm", "--mount", "type=image,source=built,target=/i", "-v", "named:/named", "busybox", "sh", "-c", "ls /i/two >/dev/null && cat /named/f")
			if _, errOut, code, err := e.CLI("cp", "one:/new", filepath.Join(context, "new")); err != nil || code != 0 {
				t.Errorf("cp: %d %s %v", code, errOut, err)
			}
			if err := e.Restart(); err != nil {
				t.Fatal(err)
			}
			run("one", "start", "one")
			run("0", "wait", "one")
			run("one", "rm", "-v", "one")
			run("two", "run", "--rm", "built", "cat", "/two")
		})
	}
}

// refuses: the daemon does not start, and says why.
func refuses(t *testing.T, root, char string) {
	e := harness.Run(t, harness.Options{})
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	err := e.Start("--data-root", root)
	want := "there must be no '" + char + "' in the name of the data root; use another --data-root, a symbolic link to this one, or --storage-driver=vfs"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}
