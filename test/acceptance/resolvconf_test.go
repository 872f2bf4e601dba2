package acceptance

import (
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestResolvConf: daemon.json's resolv-conf is the host's file for every
// container; without the file the engine does not start.
func TestResolvConf(t *testing.T) {
	harness.Require(t, "root", "engine", "busybox")
	path := file(t, "resolv.conf", "nameserver 192.0.2.53\nsearch elsewhere.test\n")
	e := harness.Run(t, harness.Options{Config: `{"resolv-conf": "` + path + `"}`})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	if out, errOut, code, err := e.CLI("network", "create", "own"); err != nil || code != 0 {
		t.Fatal(out, errOut, code, err)
	}
	for network, want := range map[string]string{
		"bridge": "nameserver 192.0.2.53\n", "host": "nameserver 192.0.2.53\n", "own": "# ExtServers: [host(192.0.2.53)]\n",
	} {
		out, errOut, code, err := e.CLI("run", "--rm", "--network", network, "busybox", "cat", "/etc/resolv.conf")
		if err != nil || code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "search elsewhere.test\n") {
			t.Errorf("%s: %s %s %d %v", network, out, errOut, code, err)
		}
	}
	missing, err := harness.New(harness.Options{Config: `{"resolv-conf": "` + path + `.not"}`})
	if err != nil {
		t.Fatal(err)
	}
	defer missing.Close()
	if err := missing.Start(); err == nil || !strings.Contains(err.Error(), "resolv-conf: stat "+path+".not: no such file or directory") {
		t.Errorf("%v", err)
	}
}
