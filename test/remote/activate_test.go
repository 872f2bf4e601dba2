package remote

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestActivation: systemd listens, the engine starts with the first client,
// and that client is answered.
func TestActivation(t *testing.T) {
	harness.Require(t, "root", "engine", "activate")
	for _, c := range []struct {
		name, host string
		refused    bool
	}{{"all", "fd://", false}, {"the first", "fd://3", false}, {"one that is not there", "fd://4", true}} {
		t.Run(c.name, func(t *testing.T) {
			e, err := harness.New(harness.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			})
			args := e.Args()
			for i, a := range args {
				if a == "-H" {
					args[i+1] = c.host
				}
			}
			// In a network of its own, as every engine of the tests.
			cmd := exec.Command("unshare", append([]string{"--net", "systemd-socket-activate", "-l", e.Socket(), e.Program()}, args...)...)
			cmd.Env = clean()
			log := watch(cmd)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			if !log.says("Listening on " + e.Socket()) {
				t.Fatalf("systemd does not listen: %s", log)
			}
			if c.refused {
				e.Ping() // wakes it
				if err := <-ended; err == nil {
					t.Errorf("started: %s", log)
				}
				return
			}
			if err := e.LoadBusybox(); err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			if out, errOut, code, err := e.CLI("run", "--rm", "--network", "none", "busybox", "echo", "hi"); out != "hi\n" || code != 0 {
				t.Errorf("%q %q %d %v\n%s", out, errOut, code, err, log)
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := <-ended; err != nil {
				t.Errorf("%v\n%s", err, log)
			}
			if _, err := os.Stat(e.Socket()); err != nil {
				t.Errorf("systemd's socket was removed by the engine: %v", err)
			}
		})
	}
}
