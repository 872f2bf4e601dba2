package compare

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wherry-engine/wherry/internal/network/remote/remotetest"
	"github.com/wherry-engine/wherry/test/harness"
)

// pluginCommands are run with a plugin PLUGIN that has networks and addresses.
const pluginCommands = `
network create -d PLUGIN --ipam-driver PLUGIN -o key=value --ipam-opt a=b one
network create -d PLUGIN --internal --subnet 10.44.0.0/16 --gateway 10.44.0.9 --ip-range 10.44.7.0/24 --aux-address x=10.44.0.3 two
network create -d PLUGIN --ipam-driver PLUGIN --subnet 10.45.0.0/16 --gateway 10.45.0.9 --aux-address x=10.45.0.3 three
run -d --name plain --network one busybox sleep 1000
run -d --name busy --network three -p 8080:80 -p 127.0.0.1:5353:53/udp --expose 443 --ip 10.45.0.55 --mac-address 02:11:22:33:44:55 busybox sleep 1000
run -d --name open --network one -P --expose 7000 --expose 53/udp -p 8090:90 busybox sleep 1000
network connect two plain
network connect --ip 10.45.0.77 three plain
network disconnect two plain
network create -d PLUGIN --ipam-driver PLUGIN afar
network connect afar busy
network disconnect afar busy
rm -f plain busy open
network rm one two three afar
`

// TestPluginQuestions: a plugin hears from wherryd what it hears from dockerd.
func TestPluginQuestions(t *testing.T) {
	t.Parallel()
	harness.Require(t, "root", "engine", "dockerd", "busybox", "docker20")
	theirs, ours := questions(t, harness.Docker), questions(t, harness.Wherry)
	if theirs != ours {
		t.Errorf("dockerd asks\n%s\nwherryd asks\n%s", theirs, ours)
	}
}

// questions are what an engine asks during the commands.
func questions(t *testing.T, kind harness.Kind) string {
	e, err := harness.New(harness.Options{Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	var d *remotetest.Driver
	if err := e.Within(func() (err error) { d, err = remotetest.New(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	name := "wt" + strings.ToLower(string(kind)) + fmt.Sprint(os.Getpid())
	s := d.Server()
	if err := s.Listen(filepath.Join("/run/docker/plugins", name+".sock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	var asked []string
	d.Listen(func(method string, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, method+" "+string(body))
	})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	var out []string
	once := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(pluginCommands), "\n") {
		mu.Lock()
		asked = nil
		mu.Unlock()
		cmd := exec.Command(harness.OldDockerCLI(), strings.Fields(strings.ReplaceAll(line, "PLUGIN", name))...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.Host())
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %s: %v\n%s\n%s", kind, line, err, text, e.LogTail(20))
		}
		mu.Lock()
		list := agreed(t, line, asked, once)
		mu.Unlock()
		out = append(out, "$ "+line)
		out = append(out, list...)
	}
	return strings.Join(out, "\n") + "\n"
}

// agreed are the questions without what may differ.
func agreed(t *testing.T, line string, asked []string, once map[string]bool) []string {
	var out []string
	for _, q := range asked {
		method, _, _ := strings.Cut(q, " ")
		switch {
		case strings.Contains(method, "GetCapabilities"), strings.Contains(method, "GetDefaultAddressSpaces"):
			if once[method] {
				continue // dockerd forgets it, wherryd asks for the spaces with each network
			}
			once[method] = true
		case strings.Contains(method, "EndpointOperInfo"):
			// dockerd asks at every turn
			if len(out) == 0 || !strings.Contains(out[len(out)-1], "NetworkDriver.Join") && !strings.Contains(out[len(out)-1], "ProgramExternalConnectivity") {
				continue
			}
		case strings.Contains(method, "ProgramExternalConnectivity") && strings.HasPrefix(line, "rm"):
			continue // dockerd gives the container that ends another way out before it ends
		case strings.Contains(method, "RevokeExternalConnectivity") && strings.HasPrefix(line, "rm"):
			continue // and takes it back again
		}
		out = append(out, "  "+plain(t, q))
	}
	if strings.Contains(line, "rm ") || strings.Contains(line, "disconnect ") {
		slices.Sort(out) // both do many things at once; the driver hears of a network's or an endpoint's end first here
	}
	return out
}

var sandbox = regexp.MustCompile(`"SandboxKey":"[^"]*"`)

// plain hides what differs between two runs, and the order of members.
func plain(t *testing.T, question string) string {
	method, body, _ := strings.Cut(question, " ")
	v := map[string]any{}
	if body != "" {
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%s: %v", question, err)
		}
	}
	if options, ok := v["Options"].(map[string]any); ok {
		delete(options, "com.docker.network.enable_ipv4") // newer engines tell it
		for k, o := range options {
			ports, ok := o.([]any)
			if ok && len(ports) == 0 {
				delete(options, k) // dockerd says so at times
			}
			slices.SortFunc(ports, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return method + " " + sandbox.ReplaceAllString(clean(string(b)), `"SandboxKey":"<KEY>"`)
}
