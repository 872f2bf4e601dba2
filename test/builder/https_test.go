package builder

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// ADD takes a file by https from a server whose certificate the machine trusts,
// and from no other; so do both builders, and contexts that the engine fetches.
func TestAddByHTTPS(t *testing.T) {
	harness.Require(t, "engine", "busybox", "docker28")
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/c.tar" {
			w.Write(pack(map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\n", "f": "said safely\n"}).Bytes())
			return
		}
		w.Write([]byte("said safely\n"))
	})
	server := httptest.NewTLSServer(handler)
	defer server.Close()
	trust := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(trust, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	classic := []string{"DOCKER_BUILDKIT=0"}
	for _, known := range []bool{true, false} {
		o := harness.Options{HostNet: true, Flags: []string{"--bridge", "none"}}
		if known {
			o.Env = []string{"SSL_CERT_FILE=" + trust}
		}
		e := harness.Run(t, o)
		if err := e.LoadBusybox(); err != nil {
			t.Fatal(err)
		}
		dir := files(t, map[string]string{"Dockerfile": "FROM busybox\nADD " + server.URL + "/f /f\n"})
		for _, b := range []struct {
			name string
			env  []string
			args []string
		}{
			{"wherry", nil, []string{harness.Binary("wherry"), "build", "--progress", "plain", "-t", "one", dir}},
			{"docker, classic", classic, []string{harness.DockerCLI(), "build", "-t", "one", dir}},
			{"wherry, a remote context", nil, []string{harness.Binary("wherry"), "build", "--progress", "plain", "-t", "one", server.URL + "/c.tar"}},
		} {
			out, code := client(t, e, b.env, nil, b.args...)
			if !known {
				if code == 0 || !strings.Contains(out, "certificate signed by unknown authority") || !strings.Contains(out, server.URL) {
					t.Errorf("%s, not trusted: exit %d\n%s", b.name, code, out)
				}
				continue
			}
			if code != 0 {
				t.Errorf("%s: exit %d\n%s", b.name, code, out)
				continue
			}
			if said, stderr, _, err := e.CLI("run", "--rm", "--network", "none", "one", "cat", "/f"); err != nil || said != "said safely\n" {
				t.Errorf("%s: %q %q %v", b.name, said, stderr, err)
			}
			if _, stderr, code, err := e.CLI("rmi", "one"); err != nil || code != 0 {
				t.Error(stderr, err)
			}
		}
	}
}
