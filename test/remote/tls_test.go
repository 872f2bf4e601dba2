package remote

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// certs makes a directory with `wherry system certs`.
func certs(t *testing.T, args ...string) string {
	t.Helper()
	harness.Require(t, "engine")
	dir := filepath.Join(t.TempDir(), "certs")
	if out, err := exec.Command(harness.Binary("wherry"), append([]string{"system", "certs", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("system certs: %v\n%s", err, out)
	}
	return dir
}

const tlsAddress = "tcp://127.0.0.1:2376"

// serverFlags are the five options on the engine's side.
func serverFlags(dir string) []string {
	at := filepath.Join(dir, "server")
	return []string{"-H", tlsAddress, "--tlsverify", "--tlscacert", at + "/ca.pem", "--tlscert", at + "/cert.pem", "--tlskey", at + "/key.pem"}
}

// cut is what docker's clients may say in the place of the engine's reason:
// net/http has read it, closed the connection, and tells of the request that it
// was still writing. Ours tells the reason.
const cut = "|use of closed network connection"

func TestTLS(t *testing.T) {
	dir, other := certs(t, "localhost", "127.0.0.1"), certs(t, "127.0.0.1")
	e := harness.Run(t, harness.Options{Flags: serverFlags(dir)})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "client")
	flags := func(dir string) []string {
		return []string{"--tlscacert", dir + "/ca.pem", "--tlscert", dir + "/cert.pem", "--tlskey", dir + "/key.pem"}
	}
	for name, program := range clients(t) {
		run := []string{"run", "--rm", "-i", "--network", "none", "busybox", "cat"}
		for _, c := range []struct {
			name  string
			env   []string
			flags []string
			want  string // what the error says; "" when it works
		}{
			{"five options", nil, append([]string{"-H", tlsAddress, "--tlsverify"}, flags(good)...), ""},
			{"variables", []string{"DOCKER_HOST=" + tlsAddress, "DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH=" + good}, nil, ""},
			{"unverified server", nil, append([]string{"-H", tlsAddress, "--tls"}, flags(good)...), ""},
			{"no TLS", []string{"DOCKER_HOST=" + tlsAddress}, nil, "Client sent an HTTP request to an HTTPS server"},
			{"no client certificate", []string{"DOCKER_HOST=" + tlsAddress, "DOCKER_CONFIG=" + t.TempDir()}, []string{"--tls", "--tlscacert", good + "/ca.pem"}, "certificate required"},
			{"another CA's client", []string{"DOCKER_HOST=" + tlsAddress}, append([]string{"--tls"}, flags(filepath.Join(other, "client"))...), "unknown certificate authority"},
			{"another CA's server", nil, []string{"-H", tlsAddress, "--tlsverify", "--tlscacert", other + "/client/ca.pem", "--tlscert", good + "/cert.pem", "--tlskey", good + "/key.pem"}, "certificate signed by unknown authority"},
			{"the server's pair as a client", nil, append([]string{"-H", tlsAddress, "--tlsverify"}, flags(filepath.Join(dir, "server"))...), "bad certificate"},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				out, err := near(t, e.PID(), c.env, "through TLS\n", append(append([]string{program}, c.flags...), run...)...)
				want := c.want
				if name != "wherry" {
					want += cut
				}
				switch {
				case c.want == "" && (err != nil || out != "through TLS\n"):
					t.Errorf("%v %q", err, out)
				case c.want != "" && (err == nil || !anyOf(out, want)):
					t.Errorf("%v %q, want %q", err, out, want)
				}
			})
		}
	}
	// An address that is not in the certificate.
	env := []string{"DOCKER_HOST=tcp://127.0.0.2:2376", "DOCKER_TLS_VERIFY=1", "DOCKER_CERT_PATH=" + good}
	if err := e.Restart("-H", "tcp://127.0.0.2:2376"); err != nil {
		t.Fatal(err)
	}
	if out, err := near(t, e.PID(), env, "", harness.Binary("wherry"), "ps"); err == nil || !strings.Contains(out, "certificate is valid for 127.0.0.1, not 127.0.0.2") {
		t.Errorf("%v %q", err, out)
	}
	t.Run("context", func(t *testing.T) { contextTLS(t, e, good) })
}

// contextTLS makes a context with docker's own command and uses it with all.
func contextTLS(t *testing.T, e *harness.Engine, pair string) {
	harness.Require(t, "docker28")
	config := []string{"DOCKER_CONFIG=" + t.TempDir()}
	endpoint := "host=" + tlsAddress + ",ca=" + pair + "/ca.pem,cert=" + pair + "/cert.pem,key=" + pair + "/key.pem"
	if out, err := near(t, e.PID(), config, "", harness.DockerCLI(), "context", "create", "far", "--docker", endpoint); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for name, program := range clients(t) {
		if out, err := near(t, e.PID(), config, "", program, "--context", "far", "run", "--rm", "--network", "none", "busybox", "echo", "far"); err != nil || out != "far\n" {
			t.Errorf("%s: %v %q", name, err, out)
		}
	}
	if out, err := near(t, e.PID(), append(config, "DOCKER_CONTEXT=far"), "", harness.Binary("wherry"), "version", "-f", "{{.Client.Context}}"); err != nil || out != "far\n" {
		t.Errorf("%v %q", err, out)
	}
}

// TestPlain: without TLS it works, and is complained about in the log and to
// every client.
func TestPlain(t *testing.T) {
	e := harness.Run(t, harness.Options{Flags: []string{"-H", "tcp://127.0.0.1:2375"}})
	for _, want := range []string{
		"Binding to IP address without --tlsverify is insecure and gives root access on this machine to everyone who has access to your network.",
		"Binding to an IP address, even on localhost, can also give access to scripts run in a browser. Be safe out there!",
	} {
		if !strings.Contains(e.LogTail(100), want) {
			t.Errorf("not in the log: %s", want)
		}
	}
	for name, program := range clients(t) {
		out, err := near(t, e.PID(), nil, "", program, "-H", "127.0.0.1:2375", "info")
		if err != nil || !strings.Contains(out, "WARNING: API is accessible on http://127.0.0.1:2375 without encryption.") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	t.Run("TLS without a client's certificate", func(t *testing.T) {
		dir := certs(t, "127.0.0.1")
		e := harness.Run(t, harness.Options{Flags: append(serverFlags(dir), "--tlsverify=false")})
		out, err := near(t, e.PID(), nil, "", harness.Binary("wherry"), "-H", tlsAddress, "--tlsverify", "--tlscacert", dir+"/ca.pem", "info")
		if err != nil || !strings.Contains(out, "WARNING: API is accessible on https://127.0.0.1:2376 without TLS client verification.") {
			t.Errorf("%v %s", err, out)
		}
	})
}

// TestCerts: what is there is kept, and what is wrong is said.
func TestCerts(t *testing.T) {
	dir := certs(t, "one.example", "10.0.0.1")
	run := func(args ...string) (string, error) {
		out, err := exec.Command(harness.Binary("wherry"), append([]string{"system", "certs"}, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := run(dir, "--client", "bob")
	if err != nil || !strings.Contains(out, "kept "+dir+"/server\nmade "+dir+"/bob\n") {
		t.Errorf("%v %s", err, out)
	}
	out, err = run(dir, "two.example")
	if err == nil || !strings.Contains(out, "certificate is valid for one.example, not two.example: remove "+dir+"/server to have another made") {
		t.Errorf("%v %s", err, out)
	}
	for _, bad := range [][]string{{}, {dir, "--client", "../x"}, {dir, "--client", "server"}, {dir, "--days", "0"}, {"/dev/null"}} {
		if out, err := run(bad...); err == nil {
			t.Errorf("%v: %s", bad, out)
		}
	}
	if err := exec.Command("rm", dir+"/ca-key.pem").Run(); err != nil {
		t.Fatal(err)
	}
	if out, err := run(dir, "--client", "carol"); err == nil || !strings.Contains(out, "ca.pem is there but its key is not") {
		t.Errorf("%v %s", err, out)
	}
}
