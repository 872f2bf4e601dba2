// Package acceptance tries what the engine promises to somebody who only has
// its programs: a distribution that installs software through NAT, memory per
// container, the daemon's flags and files, contexts, upgrades, raw connections.
package acceptance

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestDebian: a debootstrapped Debian updates its lists and installs a package
// from this machine's own mirror, through the default bridge and NAT.
func TestDebian(t *testing.T) {
	harness.Require(t, "net")
	root := harness.DebianRoot(t)
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
	if err := os.WriteFile(settings, harness.AptSettings(t), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := e.Command(ctx, harness.Binary("wherry"), "run", "--rm", "--name", "debian", "-e", "DEBIAN_FRONTEND=noninteractive",
		"-v", "/etc/ssl/certs:"+harness.HostCertificates+":ro", "-v", settings+":/etc/apt/apt.conf.d/99host:ro", "debian", "sh", "-euc", `
apt-get update
apt-get install -y curl
# Its own address, a way out through the bridge: not the host's network.
cat /proc/net/route
curl --version
curl -fsS --cacert `+harness.HostCertificates+`/ca-certificates.crt -o /dev/null "$(awk '$1=="deb" {print $2 "/dists/" $3 "/InRelease"; exit}' /etc/apt/sources.list)"
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

// TestBootstrap: base images from the mirror that this machine's apt uses,
// without debootstrap and without a registry.
func TestBootstrap(t *testing.T) {
	harness.Require(t, "net")
	e := harness.Run(t, harness.Options{HostNet: true})
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"image", "bootstrap", "busybox"}, ""},
		{[]string{"run", "--rm", "busybox", "echo", "hi"}, "hi\n"},
		{[]string{"image", "bootstrap", "--include", "jq", "debian:bookworm"}, ""},
		{[]string{"run", "--rm", "debian:bookworm", "sh", "-c", "dpkg --audit; . /etc/os-release; echo $ID $VERSION_CODENAME; echo '{\"a\":1}' | jq .a"}, "debian bookworm\n1\n"},
	} {
		out, err := e.Command(ctx, harness.Binary("wherry"), c.args...).CombinedOutput()
		if err != nil || c.want != "" && string(out) != c.want {
			t.Fatalf("wherry %s: %v\n%s", strings.Join(c.args, " "), err, out)
		}
	}
}
