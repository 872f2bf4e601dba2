package harness

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/promise"
)

// HostCertificates is where a container sees the host's; its own package of
// certificates stays free to write to /etc/ssl/certs.
const HostCertificates = "/host-certificates"

// AptSettings is how this machine's apt reaches its mirror.
func AptSettings(t testing.TB) []byte {
	t.Helper()
	dump, err := exec.Command("apt-config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := "Acquire::https::CAInfo \"" + HostCertificates + "/ca-certificates.crt\";\n"
	for _, line := range strings.Split(string(dump), "\n") {
		if strings.HasPrefix(line, "Acquire::http") || strings.HasPrefix(line, "Acquire::Check-") {
			text += line + "\n"
		}
	}
	return []byte(text)
}

// DebianRoot is the path of a root tar of the host's release, made by debootstrap
// and kept under .cache.
func DebianRoot(t testing.TB) string {
	t.Helper()
	promise.Program(t, "debootstrap")
	mirror, release := aptSource()
	if mirror == "" {
		promise.Lacks(t, "net", "apt has no sources in deb822 form")
	}
	cache := filepath.Join(Root(), ".cache")
	path := filepath.Join(cache, fmt.Sprintf("debian-%s-%s.tar", release, runtime.GOARCH))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(cache, "debootstrap") //nolint:usetesting // on the cache's file system, to be renamed
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"debootstrap", "--variant=minbase", release, filepath.Join(dir, "root"), mirror},
		{"tar", "-C", filepath.Join(dir, "root"), "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*", "-cf", filepath.Join(dir, "tar"), "."},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out[max(0, len(out)-2000):])
		}
	}
	if err := os.Rename(filepath.Join(dir, "tar"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// aptSource is the first mirror and release that this machine's apt uses.
func aptSource() (mirror, release string) {
	f, err := os.Open("/etc/apt/sources.list.d/debian.sources")
	if err != nil {
		return "", ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		key, value, _ := strings.Cut(sc.Text(), ":")
		words := strings.Fields(value)
		if len(words) == 0 {
			continue
		}
		switch {
		case key == "URIs" && mirror == "":
			mirror = words[0]
		case key == "Suites" && release == "":
			release = words[0]
		}
	}
	return mirror, release
}

// recipe is an image of Debian's packages: its name, and where its Dockerfile is.
type recipe struct{ name, dir string }

// Images of examples/, and those that the projects in test/compose need.
var (
	exampleImages = []recipe{{"example/redis", "examples/redis"}, {"example/flask", "examples/flask"}, {"example/httpd", "examples/httpd"}}
	systemdImages = []recipe{{"example/systemd", "test/systemd/testdata"}}
	composeImages = []recipe{{"compose/db", "test/compose/testdata/webdb/db"}, {"compose/web", "test/compose/testdata/webdb/web"}}
)

// ExampleImages is an archive of example/debian and the images of examples/.
func ExampleImages(t testing.TB) string { return debianImages(t, "examples") }

// ComposeImages is an archive of what the projects in test/compose stand on.
func ComposeImages(t testing.TB) string { return debianImages(t, "compose") }

// SystemdImage is an archive of a Debian whose first process is systemd.
func SystemdImage(t testing.TB) string { return debianImages(t, "systemd") }

// debianImages builds all of them FROM example/debian, the root of DebianRoot
// set up to reach this machine's mirror, in an engine in the host's network. The
// archives are kept under .cache until a Dockerfile or what lies beside it changes.
func debianImages(t testing.TB, which string) string {
	t.Helper()
	Require(t, "root", "engine", "net")
	root := DebianRoot(t)
	sum := sha256.New()
	fmt.Fprintln(sum, filepath.Base(root))
	all := slices.Concat(exampleImages, composeImages, systemdImages)
	for _, r := range all {
		fmt.Fprintln(sum, r.name)
		if err := hashTree(sum, filepath.Join(Root(), r.dir)); err != nil {
			t.Fatal(err)
		}
	}
	archive := func(which string) string {
		return filepath.Join(Root(), ".cache", fmt.Sprintf("%s-%x.tar", which, sum.Sum(nil)[:6]))
	}
	if _, err := os.Stat(archive(which)); err == nil {
		return archive(which)
	}
	e, err := New(Options{HostNet: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		if out, err := e.Command(ctx, Binary("wherry"), args...).CombinedOutput(); err != nil {
			t.Fatalf("wherry %s: %v\n%s\n%s", strings.Join(args, " "), err, out[max(0, len(out)-3000):], e.LogTail(10))
		}
	}
	base := t.TempDir()
	for name, text := range map[string][]byte{
		"99host":     AptSettings(t),
		"Dockerfile": []byte("FROM example/root\nCOPY 99host /etc/apt/apt.conf.d/\nCOPY ca-certificates.crt " + HostCertificates + "/\nCMD [\"bash\"]\n"),
	} {
		if err := os.WriteFile(filepath.Join(base, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err == nil {
		err = os.WriteFile(filepath.Join(base, "ca-certificates.crt"), ca, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	run("import", root, "example/root")
	run("build", "-t", "example/debian", base)
	for _, r := range all {
		run("build", "-t", r.name, filepath.Join(Root(), r.dir))
	}
	for name, images := range map[string][]string{
		"examples": {"example/debian", "example/redis", "example/flask", "example/httpd"},
		"compose":  {"example/redis", "example/flask", "compose/db", "compose/web"},
		"systemd":  {"example/systemd"},
	} {
		path := archive(name)
		old, err := filepath.Glob(filepath.Join(Root(), ".cache", name+"-*.tar"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range old { // of Dockerfiles that are no more; they are large
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		run(append([]string{"save", "-o", path + ".new"}, images...)...)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	return archive(which)
}

// hashTree adds names, modes and contents of a directory's files, but for what
// is there for people alone.
func hashTree(w io.Writer, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "README.md" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintln(w, strings.TrimPrefix(path, dir), info.Mode(), info.Size())
		_, err = io.Copy(w, f)
		return err
	})
}

// LoadArchive gives the images of a file to the engine.
func (c Client) LoadArchive(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.Load(f)
}
