package builder

import (
	"os"
	"path/filepath"
	"strings"
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

// A base that is named by the digest that a push gave it is the image that is
// here, also when its registry is not; --pull gets what the registry has.
func TestPushedBase(t *testing.T) {
	e := engine(t, "")
	var base string
	t.Run("push", func(t *testing.T) { // the registry ends with it
		name := e.ServeRegistry(t, "127.0.0.1:0") + "/base"
		wherry(t, e, "build", "-q", "-t", name, files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo here > /x\n"}))
		wherry(t, e, "push", "-q", name)
		base = strings.TrimSpace(wherry(t, e, "image", "inspect", "-f", "{{index .RepoDigests 0}}", name))
		if own := wherry(t, e, "image", "inspect", "-f", "{{.Descriptor.Digest}}", name); strings.HasSuffix(base, "@"+strings.TrimSpace(own)) {
			t.Fatalf("the push has changed nothing: %s", base)
		}
		wherry(t, e, "build", "--no-cache", "--pull", files(t, map[string]string{"Dockerfile": "FROM " + base + "\nRUN grep here /x\n"}))
	})
	dir := files(t, map[string]string{"Dockerfile": "FROM " + base + "\nRUN grep here /x\n"})
	x := buildx(t, e)
	for _, c := range []struct {
		env  []string
		args []string
	}{
		{nil, []string{harness.Binary("wherry"), "build"}},
		{nil, []string{x[1], "build"}},
		{classicEnv, []string{harness.DockerCLI(), "build"}},
	} {
		if out, code := client(t, e, c.env, nil, append(c.args, "--no-cache", dir)...); code != 0 {
			t.Errorf("%v: exit %d\n%s", c.args, code, out)
		}
	}
	// What is recorded of a build names the base as its Dockerfile does.
	wherry(t, e, "build", "--no-cache", "--provenance", "mode=max", dir)
	id, _, _ := strings.Cut(strings.TrimSpace(wherry(t, e, "builder", "history", "ls", "--format", "{{.Ref}}")), "\n")
	said := wherry(t, e, "builder", "history", "inspect", "attachment", "--type", "provenance", id)
	name, d, _ := strings.Cut(base, "@")
	want := "pkg:docker/" + strings.ReplaceAll(name, ":", "%3A") + "?digest=" + d + "&"
	if strings.Count(strings.ReplaceAll(said, `\u0026`, "&"), `"`+want) != 1 || strings.Count(said, "pkg:docker/") != 1 {
		t.Errorf("it does not say %s alone:\n%s", want, said)
	}
}
