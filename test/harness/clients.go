package harness

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// program builds docker's plugin of that name from its module, once, and returns
// its path. It says its version, which plugins ask of one another.
func program(t testing.TB, name, module, version, pkg, versionIn string) string {
	t.Helper()
	cache := filepath.Join(Root(), ".cache", "plugins", name+"-"+version)
	path := filepath.Join(cache, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(cache, "build")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	// Not go install: compose's go.mod has lines that it refuses.
	download := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	download.Dir = dir // outside of this module
	out, err := download.Output()
	var source struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &source)
	}
	if err == nil {
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X "+module+"/"+versionIn+"="+version, "-o", filepath.Join(dir, name), "./"+pkg)
		build.Dir, build.Env = source.Dir, append(os.Environ(), "GOFLAGS=-mod=readonly", "CGO_ENABLED=0")
		out, err = build.CombinedOutput()
	}
	if err != nil {
		if Promised("net") {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
		t.Skipf("%s cannot be built here: %v", name, err)
	}
	if err := os.Rename(filepath.Join(dir, name), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Buildx is docker's buildx.
func Buildx(t testing.TB) string {
	t.Helper()
	return program(t, "docker-buildx", "github.com/docker/buildx", "v0.37.2", "cmd/buildx", "version.Version")
}

// Compose is docker's compose.
func Compose(t testing.TB) string {
	t.Helper()
	return program(t, "docker-compose", "github.com/docker/compose/v5", "v5.5.1", "cmd", "internal.Version")
}

// DockerConfig makes a directory of settings for docker's client with plugins.
func DockerConfig(t testing.TB, plugins ...string) string {
	t.Helper()
	config := t.TempDir()
	dir := filepath.Join(config, "cli-plugins")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if err := os.Symlink(p, filepath.Join(dir, filepath.Base(p))); err != nil {
			t.Fatal(err)
		}
	}
	return config
}
