package listen

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/internal/config"
)

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "s")
	c := config.New(func(string) string { return "" })
	c.Hosts = []string{"unix://" + path}

	first, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 || st.Mode().Type() != os.ModeSocket {
		t.Errorf("%v %v", st, err)
	}
	if a := first[0].Addr().String(); a != path {
		t.Errorf("address %s", a)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("took over a living socket: %v", err)
	}

	// A stale one, as kill -9 leaves it.
	first[0].(*unixListener).Listener.Close()
	second, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody removed the name, and another listener made it again.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	third, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	second[0].Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the old listener removed the new one's name: %v", err)
	}
	conn.Close()
	third[0].Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("name left: %v", err)
	}

	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("%v", err)
	}
}

func TestListenAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := config.New(func(string) string { return "" })
	c.Hosts = []string{"unix://" + path, "tcp://127.0.0.1:1000000"}
	if _, err := Open(c); err == nil {
		t.Fatal("listens on a port that cannot be")
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the first socket was left")
	}
	c.Hosts = []string{"fd://"}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "no sockets found via socket activation") {
		t.Errorf("%v", err)
	}
	c.Hosts = []string{"unix://" + path}
	c.Group, c.GroupExplicit = "no-such-group", true
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "group no-such-group not found") {
		t.Errorf("%v", err)
	}
	c.Hosts, c.TLS.Enabled, c.TLS.Cert = []string{"tcp://127.0.0.1:0"}, true, ""
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "TLS needs a certificate") {
		t.Errorf("%v", err)
	}
}
