// Package acceptance tries what the engine promises to somebody who only has
// its programs: a distribution that installs software through NAT, memory per
// container, the daemon's flags and files, contexts, upgrades, raw connections.
package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
	"github.com/wherry-engine/wherry/test/promise"
)

// TestDebian: a debootstrapped Debian updates its lists and installs a package
// from this machine's own mirror, through the default bridge and NAT.
func TestDebian(t *testing.T) {
	harness.Require(t, "net")
	root := debian(t)
	e := harness.Run(t, harness.Options{HostNet: true})
	archive, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if code, body, err := e.API("POST", "/images/create?fromSrc=-&repo=debian&tag=latest", archive); err != nil || code != 200 || strings.Contains(string(body), `"error"`) {
		t.Fatalf("import: %d %s %v", code, body, err)
	}
	// A mirror behind https may be signed by an authority that only this machine knows.
	settings := filepath.Join(t.TempDir(), "99host")
	if err := os.WriteFile(settings, aptSettings(t), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := e.Command(ctx, harness.Binary("wherry"), "run", "--rm", "--name", "debian", "-e", "DEBIAN_FRONTEND=noninteractive",
		"-v", "/etc/ssl/certs:"+certificates+":ro", "-v", settings+":/etc/apt/apt.conf.d/99host:ro", "debian", "sh", "-euc", `
apt-get update
apt-get install -y curl
# Its own address, a way out through the bridge: not the host's network.
cat /proc/net/route
curl --version
curl -fsS --cacert `+certificates+`/ca-certificates.crt -o /dev/null "$(awk '$1=="deb" {print $2 "/dists/" $3 "/InRelease"; exit}' /etc/apt/sources.list)"
echo fetched
`)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Setting up curl", "\ncurl ", "\neth0\t00000000\t", "\nfetched"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in the output:\n%s", want, out)
		}
	}
}

// certificates is where the container sees the host's; its own package of
// certificates stays free to write to /etc/ssl/certs.
const certificates = "/host-certificates"

// aptSettings is how this machine's apt reaches its mirror.
func aptSettings(t *testing.T) []byte {
	t.Helper()
	dump, err := exec.Command("apt-config", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := "Acquire::https::CAInfo \"" + certificates + "/ca-certificates.crt\";\n"
	for _, line := range strings.Split(string(dump), "\n") {
		if strings.HasPrefix(line, "Acquire::http") || strings.HasPrefix(line, "Acquire::Check-") {
			text += line + "\n"
		}
	}
	return []byte(text)
}

// debian is the path of a root tar of the host's release, made by debootstrap
// and kept under .cache.
func debian(t *testing.T) string {
	t.Helper()
	promise.Program(t, "debootstrap")
	mirror, release := aptSource()
	if mirror == "" {
		promise.Lacks(t, "net", "apt has no sources in deb822 form")
	}
	cache := filepath.Join(harness.Root(), ".cache")
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
		{"tar", "-C", filepath.Join(dir, "root"), "-cf", filepath.Join(dir, "tar"), "."},
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
