package builder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// Names of files are bytes: what is no UTF-8 travels with each client, and back.
func TestNamesOfFiles(t *testing.T) {
	e := engine(t, "")
	const name = "no\xffutf\n8"
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY ctx /ctx/\nRUN test \"$(cat /ctx/no*8)\" = hello\n", "ctx/" + name: "hello"})
	if err := os.Symlink(name, filepath.Join(dir, "ctx", "\xfe")); err != nil {
		t.Fatal(err)
	}
	x := buildx(t, e)
	for _, c := range []struct {
		name string
		env  []string
		args []string
	}{
		{"wherry", nil, []string{harness.Binary("wherry"), "build"}},
		{"buildx", nil, []string{x[1], "build"}},
		{"classic", classicEnv, []string{harness.DockerCLI(), "build"}},
	} {
		if out, code := client(t, e, c.env, nil, append(c.args, "--no-cache", dir)...); code != 0 {
			t.Errorf("%s: exit %d\n%s", c.name, code, out)
		}
	}
	to := filepath.Join(t.TempDir(), "out")
	wherry(t, e, "build", "-o", to, dir)
	if b, err := os.ReadFile(filepath.Join(to, "ctx", "\xfe")); string(b) != "hello" {
		t.Errorf("as output: %q %v", b, err)
	}
}
