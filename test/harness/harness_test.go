package harness

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPeer shows that the harness itself works, with an engine that is known
// to: start, load, run, stop, and nothing left.
func TestPeer(t *testing.T) {
	Require(t, "root", "dockerd", "busybox")
	e := Run(t, Options{Kind: Docker})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	out, errOut, code, err := e.CLI("run", "--rm", "busybox", "sh", "-c", "echo hi; exit 3")
	if out != "hi\n" || code != 3 || err != nil {
		t.Fatalf("got %q %q %d %v", out, errOut, code, err)
	}
	if err := e.Restart(); err != nil {
		t.Fatal(err)
	}
}

// TestLeaks shows that the check sees what is left behind.
func TestLeaks(t *testing.T) {
	Require(t, "root")
	e, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	cmd.Env = []string{marker + "=" + e.ID}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	if err := os.MkdirAll(e.ExecRoot()+"/run", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.ExecRoot()+"/run/state", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	group := ""
	if roots := cgroupRoots(); len(roots) > 0 {
		group = roots[0] + "/" + e.ID + "/inner"
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err = e.Close()
	for _, want := range []string{"sleep 1000", "exec-root: /run/state", group} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Close = %v, want it to name %q", err, want)
		}
	}
	if p, g := e.processes(), e.cgroups(); len(p) != 0 || len(g) != 0 {
		t.Errorf("after sweep there are %v %v", p, g)
	}
}

// TestImageIDs pins that an image's bytes depend on nothing but its contents.
func TestImageIDs(t *testing.T) {
	im := &Image{Names: []string{"a:1"}, Layers: [][]File{{{Name: "f", Mode: 0o644, Data: []byte("x")}}}}
	if a, b := im.ID(), im.ID(); a != b || len(a) != 71 {
		t.Errorf("ids %q and %q", a, b)
	}
}
