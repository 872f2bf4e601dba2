package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// What cannot be done is told in docker's words, whichever client asks for it.
func TestRefused(t *testing.T) {
	e := engine(t, "")
	dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})
	own, bx := []string{harness.Binary("wherry"), "build"}, []string{buildx(t, e)[1], "build"}
	classic := []string{harness.DockerCLI(), "build"}
	for _, c := range []struct {
		flags string
		want  string
		with  [][]string
	}{
		{"--memory 1k", "Minimum memory limit allowed is 6MB", [][]string{own, classic}},
		{"--cpu-period 1", "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)", [][]string{own, classic}},
		{"--cpuset-cpus 4000", "Requested CPUs are not available - requested 4000", [][]string{own, classic}},
		{"--security-opt x", "does not support setting security options on build", [][]string{classic}},
		{"--cache-from type=gha,scope=x", "cannot be taken from type=gha by this version of wherryd, only local, registry", [][]string{own}},
		{"--cache-from type=nonsense", "cannot be taken from type=nonsense", [][]string{own, bx}},
		{"--cache-to type=nonsense", "cannot be written to type=nonsense by this version of wherryd, only inline, local, registry", [][]string{own, bx}},
	} {
		for _, with := range c.with {
			env := []string(nil)
			if with[0] == classic[0] {
				env = classicEnv
			}
			out, code := client(t, e, env, nil, append(append(append([]string{}, with...), strings.Fields(c.flags)...), dir)...)
			if code != 1 || !strings.Contains(out, c.want) {
				t.Errorf("%v %s: exit %d\n%s", with, c.flags, code, out)
			}
		}
	}
}

// A base that is here for another platform than the wanted one is no base: the
// registry is asked for it.
func TestBaseOfAnotherPlatform(t *testing.T) {
	e := engine(t, "")
	const registry = "127.0.0.1:5001"
	e.ServeRegistry(t, registry)
	ref := registry + "/base:1"
	dir := files(t, map[string]string{"Dockerfile": "ARG from=scratch\nFROM $from\nARG TARGETARCH\nCOPY f /$TARGETARCH\n", "f": ""})
	build := func(arch, from string, more ...string) (string, int) {
		t.Helper()
		return client(t, e, nil, nil, append([]string{harness.Binary("wherry"), "build", "--progress", "plain", "--platform", "linux/" + arch, "--build-arg", "from=" + from, dir}, more...)...)
	}
	for _, arch := range []string{"s390x", "amd64"} {
		more := []string{"-t", ref}
		if arch == "s390x" {
			more = append(more, "--push")
		}
		if out, code := build(arch, "scratch", more...); code != 0 {
			t.Fatalf("%s: exit %d\n%s", arch, code, out)
		}
	}
	// Here it is amd64's by now, there s390x's.
	to := t.TempDir()
	if out, code := build("s390x", ref, "-o", to); code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(to, "amd64")); err == nil {
		t.Error("it is built on another platform's image")
	}
	if _, err := os.Stat(filepath.Join(to, "s390x")); err != nil {
		t.Error(err)
	}
	out, code := build("arm64", "busybox", "-o", to)
	if want := "was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64"; code != 1 || !strings.Contains(out, want) {
		t.Errorf("exit %d\n%s", code, out)
	}
}
