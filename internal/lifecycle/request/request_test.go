package request

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apicontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/linux/cgroup"
)

var everything = cgroup.Features{Memory: true, MemorySwap: true, MemoryReservation: true, CPUShares: true, CPUQuota: true, Cpuset: true, CpusetCPUs: "0-1", CpusetMems: "0", Pids: true}

func TestMergeImage(t *testing.T) {
	img := ImageConfig{ImageConfig: ocispec.ImageConfig{
		User: "app", Env: []string{"PATH=/bin", "A=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"arg"}, WorkingDir: "/srv",
		Labels: map[string]string{"l": "image", "m": "image"}, Volumes: map[string]struct{}{"/data": {}}, ExposedPorts: map[string]struct{}{"80": {}}, StopSignal: "SIGINT",
	}}
	c := &apicontainer.Config{Env: []string{"A=user"}, Labels: map[string]string{"l": "user"}}
	if err := MergeImage(c, img); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Env, []string{"A=user", "PATH=/bin"}) || c.User != "app" || c.WorkingDir != "/srv" || c.StopSignal != "SIGINT" ||
		!reflect.DeepEqual(c.Labels, map[string]string{"l": "user", "m": "image"}) || len(c.Volumes) != 1 || len(c.ExposedPorts) != 1 {
		t.Errorf("%+v", c)
	}
	for _, tt := range []struct {
		name          string
		entry, cmd    []string
		wantE, wantCm []string
	}{
		{"image's", nil, nil, []string{"/entry"}, []string{"arg"}},
		{"user's command", nil, []string{"x"}, []string{"/entry"}, []string{"x"}},
		{"user's entrypoint drops the image's command", []string{"/mine"}, nil, []string{"/mine"}, nil},
		{"empty entrypoint takes the image's away", []string{""}, []string{"x"}, nil, []string{"x"}},
	} {
		c := &apicontainer.Config{Entrypoint: tt.entry, Cmd: tt.cmd}
		if err := MergeImage(c, img); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.Entrypoint, tt.wantE) || !slices.Equal(c.Cmd, tt.wantCm) {
			t.Errorf("%s: %q %q", tt.name, c.Entrypoint, c.Cmd)
		}
	}
}

func TestValidate(t *testing.T) {
	neg := int64(-2)
	for _, tt := range []struct {
		h    apicontainer.HostConfig
		want string // "" is accepted
	}{
		{apicontainer.HostConfig{}, ""},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{Memory: 5 << 20}}, "Minimum memory limit allowed is 6MB"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{Memory: 6 << 20}}, ""},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{Memory: 10 << 20, MemorySwap: 9 << 20}}, "Minimum memoryswap limit should be larger than memory limit"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{MemorySwap: 9 << 20}}, "You should always set the Memory limit"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{NanoCPUs: 1e15}}, "range of CPUs is from 0.01 to"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{NanoCPUs: 1e9, CPUQuota: 5000}}, "Nano CPUs and CPU Quota cannot both be set"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{CpusetCpus: "0,7"}}, "Requested CPUs are not available - requested 0,7, available: 0-1"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{CpusetCpus: "x"}}, "Invalid value x for cpuset cpus"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{CpusetCpus: "1-0"}}, "Invalid value 1-0 for cpuset cpus"},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{PidsLimit: &neg}}, ""},
		{apicontainer.HostConfig{Resources: apicontainer.Resources{CPURealtimeRuntime: 1}}, "kernel does not support CPU real-time scheduler"},
		{apicontainer.HostConfig{AutoRemove: true, RestartPolicy: apicontainer.RestartPolicy{Name: "always"}}, "can't create 'AutoRemove' container with restart policy"},
		{apicontainer.HostConfig{ExtraHosts: []string{"far:host-gateway", "near:1.2.3.4", "six:::1"}}, ""},
		{apicontainer.HostConfig{ExtraHosts: []string{"near=1.2.3.4"}}, `bad format for add-host: "near=1.2.3.4"`},
		{apicontainer.HostConfig{ExtraHosts: []string{":1.2.3.4"}}, `bad format for add-host: ":1.2.3.4"`},
		{apicontainer.HostConfig{ExtraHosts: []string{"near:there"}}, `invalid IP address in add-host: "there"`},
		{apicontainer.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80"): {{}, {HostPort: "8000-8005"}, {HostPort: "0"}}}}, ""},
		{apicontainer.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80"): {{HostPort: "x"}}}}, `invalid port specification: "x"`},
		{apicontainer.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80"): {{HostPort: "70000"}}}}, `invalid port specification: "70000"`},
		{apicontainer.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/nope", Target: "/x"}}}, `invalid mount config for type "bind": bind source path does not exist: /nope`},
		{apicontainer.HostConfig{OomScoreAdj: 1001}, "range for oom score adj is [-1000, 1000]"},
		{apicontainer.HostConfig{PidMode: "nonsense"}, "invalid PID mode"},
		{apicontainer.HostConfig{IpcMode: "nonsense"}, "invalid IPC mode"},
		{apicontainer.HostConfig{Isolation: "hyperv"}, "invalid isolation (hyperv): linux only supports 'default'"},
	} {
		_, err := Validate(&apicontainer.Config{}, &tt.h, everything)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%+v: %v", tt.h, err)
		case tt.want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	h := apicontainer.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/gone", Target: "/x"}}}
	if _, err := Validate(nil, &h, everything); err != nil {
		t.Errorf("an update of what has been made: %v", err)
	}
	h = apicontainer.HostConfig{Resources: apicontainer.Resources{Memory: 64 << 20}}
	warnings, err := Validate(nil, &h, cgroup.Features{})
	if err != nil || h.Memory != 0 || len(warnings) != 1 || !strings.Contains(warnings[0], "memory limit") {
		t.Errorf("without memory groups: %v, %v, %d", warnings, err, h.Memory)
	}
	for _, c := range []apicontainer.Config{{WorkingDir: "rel"}, {Env: []string{"=x"}}, {Env: []string{"a\x00"}}, {StopSignal: "SIGNOPE"}} {
		if _, err := Validate(&c, &h, everything); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
