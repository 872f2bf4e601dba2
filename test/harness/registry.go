package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ServeRegistry serves a registry of ours in the engine's network, with an
// empty store, until the test ends. It listens on addr, which may have port 0,
// and returns where.
func (e *Engine) ServeRegistry(t testing.TB, addr string, flags ...string) (host string) {
	t.Helper()
	args := append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", e.PID()), Binary("wherry-registry"), "serve",
		"--addr", addr, "--data", filepath.Join(t.TempDir(), "registry")}, flags...)
	registry := exec.Command("nsenter", args...)
	var log strings.Builder
	registry.Stderr = &log
	out, err := registry.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := registry.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanf(out, "serving http://%s\n", &host); err != nil {
		registry.Process.Kill()
		registry.Wait() // its log is whole now
		t.Fatalf("the registry does not serve: %v\n%s", err, log.String())
	}
	t.Cleanup(func() {
		registry.Process.Signal(os.Interrupt)
		registry.Wait()
	})
	return host
}
