package spec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden specs")

func input() *Input {
	return &Input{
		ID: "abc", Config: &container.Config{Cmd: []string{"sh"}, Env: []string{"A=b"}}, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
		Hostname: "box", Rootfs: Rootfs{Lower: []string{"/l/1"}, Upper: "/rw/abc/fs", Work: "/rw/abc/work"},
		Files:      Files{ResolvConf: "/c/resolv.conf", Hosts: "/c/hosts", Hostname: "/c/hostname"},
		CgroupPath: "/wherry/abc",
		Namespaces: map[specs.LinuxNamespaceType]NS{
			specs.MountNamespace: {}, specs.PIDNamespace: {}, specs.IPCNamespace: {}, specs.UTSNamespace: {}, specs.NetworkNamespace: {Kind: Extra},
		},
	}
}

// scrub takes out what depends on the machine.
func scrub(s *specs.Spec) {
	s.Process.OOMScoreAdj, s.Process.ApparmorProfile = nil, ""
	s.Linux.MaskedPaths = slices.DeleteFunc(s.Linux.MaskedPaths, func(p string) bool { return strings.Contains(p, "thermal_throttle") })
	if len(s.Linux.Devices) > 3 {
		s.Linux.Devices = nil
	}
	if len(s.Process.Capabilities.Bounding) > 30 {
		s.Process.Capabilities = nil
	}
}

func TestGolden(t *testing.T) {
	yes, limit := true, int64(100)
	for name, change := range map[string]func(*Input){
		"default": func(*Input) {},
		"privileged": func(in *Input) {
			in.HostConfig.Privileged = true
		},
		"limits": func(in *Input) {
			in.HostConfig.Resources = container.Resources{Memory: 1 << 26, MemorySwap: 1 << 27, NanoCPUs: 5e8, CPUShares: 512, CpusetCpus: "0", PidsLimit: &limit, OomKillDisable: &yes}
		},
		"user-namespace": func(in *Input) {
			in.UIDMaps = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
			in.GIDMaps = in.UIDMaps
		},
		"shared": func(in *Input) {
			in.HostConfig.IpcMode, in.HostConfig.PidMode, in.HostConfig.UTSMode, in.HostConfig.NetworkMode = "container:x", "host", "host", "host"
			in.Namespaces = map[specs.LinuxNamespaceType]NS{
				specs.MountNamespace: {}, specs.PIDNamespace: {Kind: Host}, specs.UTSNamespace: {Kind: Host}, specs.NetworkNamespace: {Kind: Host},
				specs.IPCNamespace: {Kind: Path, Path: "/proc/12/ns/ipc"},
			}
		},
		"options": func(in *Input) {
			in.Config.Tty, in.Config.User, in.Config.WorkingDir, in.Config.Entrypoint = true, "web:extra", "/srv", []string{"/entry"}
			in.Init, in.InitPath = true, "/usr/lib/wherry-init"
			h := in.HostConfig
			h.ReadonlyRootfs, h.CapAdd, h.CapDrop = true, []string{"net_admin"}, []string{"CAP_MKNOD"}
			h.SecurityOpt, h.MaskedPaths, h.ReadonlyPaths = []string{"no-new-privileges"}, []string{}, []string{}
			h.Tmpfs, h.Sysctls = map[string]string{"/run": "size=64k,exec"}, map[string]string{"net.ipv4.ip_forward": "1"}
			h.ConsoleSize = [2]uint{24, 80}
			in.Mounts = []Mount{{Source: "/srv/data", Destination: "/srv/data", Type: "bind", ReadOnly: true}, {Source: "/v", Destination: "/srv", Type: "bind"}}
			in.Domainname = "example.org"
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(in)
			s, _, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			scrub(s)
			got, err := json.MarshalIndent(s, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.TrimSpace(string(want)), string(got)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"no command":          {func(in *Input) { in.Config.Cmd = nil }, "no command specified"},
		"capability":          {func(in *Input) { in.HostConfig.CapAdd = []string{"NOPE"} }, `invalid CapAdd: unknown capability: "CAP_NOPE"`},
		"security option":     {func(in *Input) { in.HostConfig.SecurityOpt = []string{"nope"} }, `invalid --security-opt 1: "nope"`},
		"working directory":   {func(in *Input) { in.Config.WorkingDir = "x" }, "the working directory 'x' is invalid, it needs to be an absolute path"},
		"host sysctl":         {func(in *Input) { in.HostConfig.Sysctls = map[string]string{"kernel.panic": "1"} }, `sysctl "kernel.panic" is not in a separate kernel namespace`},
		"sysctl path":         {func(in *Input) { in.HostConfig.Sysctls = map[string]string{"net/../kernel/panic": "1"} }, `sysctl "net/../kernel/panic" is not allowed`},
		"device":              {func(in *Input) { in.HostConfig.Devices = []container.DeviceMapping{{PathOnHost: "/nope"}} }, `error gathering device information while adding custom device "/nope": no such file or directory`},
		"device rule":         {func(in *Input) { in.HostConfig.DeviceCgroupRules = []string{"x 1:2 r"} }, "invalid device cgroup rule format: 'x 1:2 r'"},
		"ulimit":              {func(in *Input) { in.HostConfig.Ulimits = []*container.Ulimit{{Name: "nope"}} }, "invalid ulimit type: nope"},
		"tmpfs option":        {func(in *Input) { in.HostConfig.Tmpfs = map[string]string{"/t": "nope"} }, `invalid tmpfs option ["nope"]`},
		"mount on the root":   {func(in *Input) { in.Mounts = []Mount{{Source: "/", Destination: "/", Type: "bind"}} }, "invalid specification: destination can't be '/'"},
		"unknown propagation": {func(in *Input) { in.Mounts = []Mount{{Source: "/", Destination: "/x", Type: "bind", Propagation: "x"}} }, "invalid propagation mode: x"},
	} {
		in := input()
		c.change(in)
		if _, _, err := Build(in); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c := &container.Config{Tty: true, Env: []string{"PATH=/x", "TERM", "B=1", "B=2", "C"}}
	want := []string{"PATH=/x", "HOSTNAME=h", "L=1", "B=2"}
	if got := environment(c, "h", []string{"L=1"}); !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
}

func TestCapabilities(t *testing.T) {
	get := func(add, drop []string) []string {
		names, err := Capabilities(&container.HostConfig{CapAdd: add, CapDrop: drop})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if n := len(get(nil, nil)); n != 14 {
		t.Errorf("default has %d", n)
	}
	if got := get([]string{"CHOWN", "cap_kill"}, []string{"all"}); !slices.Equal(got, []string{"CAP_CHOWN", "CAP_KILL"}) {
		t.Errorf("drop all, add two: %v", got)
	}
	if got := get([]string{"ALL"}, []string{"SYS_ADMIN"}); slices.Contains(got, "CAP_SYS_ADMIN") || len(got) < 30 {
		t.Errorf("add all but one: %v", got)
	}
}
