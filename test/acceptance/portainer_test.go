package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/wherry-engine/wherry/test/harness"
)

// TestPortainer makes the calls of Portainer's snapshot of an engine, and those
// of its pages about containers: what it counts must be there, and that an engine
// has no swarm must be said in the way that it expects.
func TestPortainer(t *testing.T) {
	e := harness.Run(t, harness.Options{})
	if err := e.LoadBusybox(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"network", "create", "stack_default"},
		{"run", "-d", "--name", "app", "--network", "stack_default", "-e", "WHO=me", "-v", "stack_data:/data", "--label", "com.docker.compose.project=stack",
			"busybox", "sh", "-c", "echo wrong >&2; exec sleep 1000"},
		{"run", "--name", "ended", "busybox", "true"},
	} {
		if out, errOut, code, err := e.CLI(args...); code != 0 || err != nil {
			t.Fatalf("%v: %s%s %v", args, out, errOut, err)
		}
	}
	get := func(path string, into any) {
		t.Helper()
		code, body, err := e.API("GET", path, nil)
		if err != nil || code != 200 {
			t.Fatalf("%s: %d %s %v", path, code, body, err)
		}
		if into == nil {
			return
		}
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, body)
		}
	}
	for _, version := range []string{"", "/v1.41", "/v1.44"} {
		get(version+"/_ping", nil)
		var info struct {
			ServerVersion string
			NCPU          int
			MemTotal      int64
			Swarm         struct {
				ControlAvailable bool
				LocalNodeState   string
			}
			Plugins struct{ Volume, Network, Log []string }
		}
		get(version+"/info", &info)
		if info.ServerVersion == "" || info.NCPU == 0 || info.MemTotal == 0 || info.Swarm.ControlAvailable || info.Swarm.LocalNodeState != "inactive" ||
			len(info.Plugins.Volume) == 0 || len(info.Plugins.Network) == 0 || len(info.Plugins.Log) == 0 {
			t.Errorf("%s: %+v", version, info)
		}
		var server struct{ Components []struct{ Name string } }
		get(version+"/version", &server)
		if len(server.Components) == 0 || strings.Contains(strings.ToLower(fmt.Sprint(server)), "podman") {
			t.Errorf("%s: %+v", version, server)
		}
		var containers []struct {
			ID, State, Status string
			Labels            map[string]string
		}
		get(version+"/containers/json?all=1&size=1", &containers)
		states := map[string]string{}
		for _, c := range containers {
			states[c.State] = c.Labels["com.docker.compose.project"]
			if c.State != "running" {
				continue
			}
			var one struct {
				Config     struct{ Env []string }
				HostConfig *struct{ DeviceRequests []struct{} }
			}
			get(version+"/containers/"+c.ID+"/json", &one)
			if one.HostConfig == nil || !strings.Contains(strings.Join(one.Config.Env, " "), "WHO=me") {
				t.Errorf("%s: %+v", version, one)
			}
		}
		if len(states) != 2 || states["running"] != "stack" {
			t.Errorf("%s: %v", version, states)
		}
		var images []struct{ RepoTags []string }
		get(version+"/images/json", &images)
		var volumes struct{ Volumes []struct{ Name string } }
		get(version+"/volumes", &volumes)
		var networks []struct{ Name, Driver string }
		get(version+"/networks", &networks)
		if len(images) != 1 || len(volumes.Volumes) != 1 || volumes.Volumes[0].Name != "stack_data" || !strings.Contains(fmt.Sprint(networks), "{stack_default bridge}") {
			t.Errorf("%s: %v %v %v", version, images, volumes, networks)
		}
		for _, path := range []string{
			"/containers/app/stats?stream=false&one-shot=true", "/containers/app/top?ps_args=aux", "/plugins", "/system/df",
			"/events?since=0&until=1", "/containers/app/archive?path=/data", "/networks/stack_default", "/volumes/stack_data",
			"/images/busybox/json", "/images/busybox/history", "/containers/app/changes", "/containers/json?filters=%7B%22label%22%3A%7B%22com.docker.compose.project%3Dstack%22%3Atrue%7D%7D",
		} {
			get(version+path, nil)
		}
		code, body, err := e.API("GET", version+"/containers/app/logs?stderr=1&tail=5&timestamps=1", nil)
		if err != nil || code != 200 || !strings.HasSuffix(string(body), " wrong") {
			t.Errorf("%s: %d %q %v", version, code, body, err)
		}
		for _, path := range []string{"/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs"} {
			code, body, err := e.API("GET", version+path, nil)
			if err != nil || code != 503 || !strings.Contains(string(body), "This node is not a swarm manager") {
				t.Errorf("%s: %d %s %v", version+path, code, body, err)
			}
		}
	}
}
