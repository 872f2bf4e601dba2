package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The keys and flags that dockerd's documentation names, versions 20.10 to 29.
const (
	documentedKeys = `allow-direct-routing allow-nondistributable-artifacts authorization-plugins bip bip6 bridge
		bridge-accept-fwmark builder cdi-spec-dirs cgroup-parent containerd containerd-namespace containerd-plugin-namespace
		containerd-plugins-namespace data-root debug default-address-pools default-cgroupns-mode default-gateway
		default-gateway-v6 default-ipc-mode default-network-opts default-runtime default-shm-size default-ulimits dns dns-opts
		dns-search exec-opts exec-root experimental features firewall-backend fixed-cidr fixed-cidr-v6 group host-gateway-ip
		host-gateway-ips hosts http-proxy https-proxy icc init init-path insecure-registries ip ip-forward ip-forward-no-drop
		ip-masq ip6tables iptables ipv6 labels live-restore log-driver log-format log-level log-opts max-concurrent-downloads
		max-concurrent-uploads max-download-attempts metrics-addr min-api-version mtu network-control-plane-mtu
		network-diagnostic-port no-new-privileges no-proxy node-generic-resources nri-opts oom-score-adjust pidfile raw-logs
		registry-mirrors resolv-conf rootless runtimes seccomp-profile selinux-enabled shutdown-timeout storage-driver
		storage-opts swarm-default-advertise-addr swarm-raft-election-tick swarm-raft-heartbeat-tick tls tlscacert tlscert
		tlskey tlsverify userland-proxy userland-proxy-path userns-remap cpu-rt-period cpu-rt-runtime cri-containerd
		default-init default-stop-timeout api-cors-header deprecated-key-path`
	documentedFlags = `add-runtime allow-direct-routing allow-nondistributable-artifacts api-cors-header authorization-plugin
		bip bip6 bridge bridge-accept-fwmark cdi-spec-dir cgroup-parent config-file containerd containerd-namespace
		containerd-plugins-namespace cpu-rt-period cpu-rt-runtime cri-containerd data-root debug default-address-pool
		default-cgroupns-mode default-gateway default-gateway-v6 default-ipc-mode default-network-opt default-runtime
		default-shm-size default-stop-timeout default-ulimit dns dns-opt dns-search exec-opt exec-root experimental feature
		firewall-backend fixed-cidr fixed-cidr-v6 group help host host-gateway-ip http-proxy https-proxy icc init init-path
		insecure-registry ip ip-forward ip-forward-no-drop ip-masq ip6tables iptables ipv6 label live-restore log-driver
		log-format log-level log-opt max-concurrent-downloads max-concurrent-uploads max-download-attempts metrics-addr mtu
		network-control-plane-mtu network-diagnostic-port no-new-privileges no-proxy node-generic-resource nri-opts
		oom-score-adjust pidfile raw-logs registry-mirror restart rootless seccomp-profile selinux-enabled shutdown-timeout
		storage-driver storage-opt swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy
		userland-proxy-path userns-remap validate version`
)

func none(string) string { return "" }

func TestEverySettingOfDockerdIsClassified(t *testing.T) {
	keys, flags := map[string]bool{}, map[string]bool{}
	for _, o := range options {
		if o.key != "" {
			if keys[o.key] {
				t.Errorf("key %s twice", o.key)
			}
			keys[o.key] = true
		}
		if o.flag != "" {
			if flags[o.flag] {
				t.Errorf("flag %s twice", o.flag)
			}
			flags[o.flag] = true
		}
		if o.class == served && o.bind == nil {
			t.Errorf("%s is served and bound to nothing", o.name())
		}
		if o.class == idle && o.say == "" {
			t.Errorf("%s: no reason why it means nothing", o.name())
		}
	}
	for _, k := range strings.Fields(documentedKeys) {
		if !keys[k] {
			t.Errorf("key %s is not in the table", k)
		}
	}
	for _, f := range strings.Fields(documentedFlags) {
		if !flags[f] {
			t.Errorf("flag %s is not in the table", f)
		}
	}
}

// parse runs Parse with a file of the given content.
func parse(t *testing.T, file string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Parse(append(args, "--config-file", path), none)
}

func TestMergeOfFlagsAndFile(t *testing.T) {
	c, err := parse(t, "\xef\xbb\xbf"+`{
		"debug": false, "live-restore": false, "labels": ["a=1","b=2"], "hosts": ["unix:///x.sock","tcp://127.0.0.1"],
		"default-shm-size": "32M", "mtu": 1400, "exec-opts": ["native.cgroupdriver=systemd"],
		"default-ulimits": {"nofile": {"Name":"nofile","Hard":64,"Soft":32}}, "dns": ["1.1.1.1"],
		"proxies": {"http-proxy": "http://p:1"},
		"log-opts": {"max-size":"10m"}, "iptables": false, "userland-proxy": false, "ipv6": false, "min-api-version": "1.40"
	}`, "-G", "x", "--bip=10.0.0.1/24", "--init")
	if err != nil {
		t.Fatal(err)
	}
	got := []any{c.LiveRestore, c.Labels, c.Hosts, c.ShmSize, c.Bridge.MTU, c.CgroupDriver, c.Ulimits["nofile"].Soft,
		c.DNS.Servers[0].String(), c.Registry.HTTPProxy, c.LogOpts["max-size"], c.Bridge.Firewall, c.Bridge.IP, c.Init, c.Group, c.GroupExplicit, len(c.Warnings), c.MinAPIVersion}
	want := []any{false, []string{"a=1", "b=2"}, []string{"unix:///x.sock", "tcp://127.0.0.1"}, int64(32 << 20), 1400, "systemd", int64(32),
		"1.1.1.1", "http://p:1", "10m", false, "10.0.0.1/24", true, "x", true, 0, "1.40"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDefaults(t *testing.T) {
	c, err := parse(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Hosts, []string{DefaultHost}) || !c.LiveRestore || c.TLS.Enabled || c.GroupExplicit || c.ShutdownTimeout != 15 {
		t.Errorf("%+v", c)
	}
	if _, err := Parse([]string{"--config-file", "/nowhere/daemon.json"}, none); err == nil {
		t.Error("a file that was asked for and is not there was ignored")
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		file string
		args string
		want string
	}{
		{`{"debug":true}`, "-D", "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true)"},
		{`{"labels":["a=b"]}`, "--label c=d", "labels: (from flag: [c=d], from file: [a=b])"},
		{`{"hosts":["unix:///a"]}`, "-H unix:///b", "hosts: (from flag: [unix:///b], from file: [unix:///a])"},
		{`{"nope":1,"debug":true}`, "", "the following directives don't match any configuration option: nope"},
		{`{"metrics-addr":"127.0.0.1:1"}`, "", "metrics-addr is not supported by this version of wherryd"},
		{`{"metrics-addr":"x"}`, "", "metrics-addr is not supported by this version of wherryd"},
		{`{"ip6tables":false}`, "", "ip6tables is not supported by this version of wherryd: rules for IPv4 and IPv6 are one table"},
		{``, "--ip6tables=false", "--ip6tables is not supported by this version of wherryd: rules for IPv4 and IPv6 are one table"},
		{``, "--firewall-backend iptables --metrics-addr x", "--metrics-addr, --firewall-backend are not supported by this version of wherryd"},
		{`{`, "", "unable to configure the Docker daemon with file "},
		{`{"debug":"maybe"}`, "", `debug: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{`{"log-level":"loud"}`, "", "invalid logging level: loud"},
		{``, "--log-level loud", "invalid logging level: loud"},
		{``, "--exec-opt native.cgroupdriver=x", `native.cgroupdriver option x not valid, must be "cgroupfs" or "systemd"`},
		{``, "--exec-opt foo", "invalid exec-opt (foo): must be formatted 'opt=value'"},
		{``, "--mtu -1", "invalid default MTU: -1"},
		{``, "--label foo", "bad attribute format: foo"},
		{``, "--label a=1 --label a=2", "conflict labels for a=2 and a=1"},
		{``, "-H nope://x", "invalid bind address format: nope://x"},
		{``, "-H tcp://1.2.3.4:x", `invalid port "x"`},
		{``, "--default-runtime nope", `specified default runtime "nope" does not exist`},
		{`{"runtimes":{"crun":{"path":"/usr/bin/crun"}}}`, "--add-runtime crun=/opt/crun", "crun"},
		{``, "--bip 10.0.0.1", "invalid network \"10.0.0.1\""},
		{``, "-b br0 --bip 10.0.0.1/24", "mutually exclusive"},
		{``, "--storage-opt overlay2.size=much", "invalid storage-opt (overlay2.size=much): not a size"},
		{`{"storage-opts":["dm.basesize=20G"]}`, "", "invalid storage-opt (dm.basesize=20G): only overlay2.size is served"},
		{``, "--bridge-accept-fwmark 1/0", `invalid firewall mark "1/0"`},
		{`{"host-gateway-ip":"10.0.0.1","host-gateway-ips":["10.0.0.2"]}`, "", "host-gateway-ip and host-gateway-ips name the same setting"},
		{``, "-s btrfs", "storage-driver btrfs is not supported by this version of wherryd"},
		{``, "--data-root rel", "must be an absolute path"},
		{``, "serve", `"wherryd" accepts no arguments`},
		{``, "--nope", "unknown flag: --nope"},
		{`{"min-api-version":"1.12"}`, "", "minimum supported API version is 1.24: 1.12"},
	}
	for _, tt := range tests {
		_, err := parse(t, tt.file, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s:\n got %v\nwant %s", tt.file, tt.args, err, tt.want)
		}
	}
}

func TestIdleSettingsWarn(t *testing.T) {
	c, err := parse(t, `{"containerd":"/run/c.sock"}`, "--userland-proxy-path=/x")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[1], "containerd has no effect: wherryd needs no containerd") {
		t.Errorf("%q", c.Warnings)
	}
}

func TestTLSImplications(t *testing.T) {
	tests := []struct {
		file, args      string
		enabled, verify bool
	}{
		{``, "", false, false},
		{``, "--tls", true, true},
		{``, "--tlsverify", true, true},
		{``, "--tlsverify=false", true, false},
		{`{"tls":true}`, "", true, true},
		{`{"tls":true,"tlsverify":false}`, "", true, false},
		{`{"tlsverify":true}`, "", true, true},
	}
	for _, tt := range tests {
		c, err := parse(t, tt.file, strings.Fields(tt.args)...)
		if err != nil {
			t.Fatal(err)
		}
		if c.TLS.Enabled != tt.enabled || c.TLS.Verify != tt.verify {
			t.Errorf("%s %s: %+v", tt.file, tt.args, c.TLS)
		}
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"unix://": "unix /run/wherry.sock", "unix:///a/b": "unix /a/b", "fd://": "fd ", "fd://3": "fd 3",
		"tcp://": "tcp 127.0.0.1:2375", "tcp://:5": "tcp :5", "1.2.3.4:7": "tcp 1.2.3.4:7", "tcp://[::1]": "tcp [::1]:2375",
	} {
		p, a, err := ParseHost(in, false)
		if got := p + " " + a; got != want || err != nil {
			t.Errorf("%s: %s %v, want %s", in, got, err, want)
		}
	}
	if _, a, _ := ParseHost("tcp://h", true); a != "h:2376" {
		t.Error(a)
	}
}

func TestMergeAtReload(t *testing.T) {
	old, err := parse(t, `{"labels":["a=1"],"mtu":1400}`)
	if err != nil {
		t.Fatal(err)
	}
	next, err := parse(t, `{"debug":true,"labels":["b=2"],"mtu":1300,"live-restore":false}`)
	if err != nil {
		t.Fatal(err)
	}
	m, reloaded, pending := Merge(old, next)
	if d := cmp.Diff([][]string{{"debug", "labels", "live-restore"}, {"mtu"}}, [][]string{reloaded, pending}); d != "" {
		t.Error(d)
	}
	if !m.Debug || m.LiveRestore || m.Bridge.MTU != 1400 || m.Labels[0] != "b=2" || old.Debug || old.Labels[0] != "a=1" {
		t.Errorf("%+v", m)
	}
}

func TestUsageNamesWhatIsServedOnly(t *testing.T) {
	u := Usage()
	if !strings.Contains(u, "--live-restore") || strings.Contains(u, "--metrics-addr") {
		t.Error(u)
	}
}

// The values of settings that are refused today are read all the same, so that
// serving one later is a change of its class alone.
func TestRuntimesOfFlagsAndFileAddUp(t *testing.T) {
	c := New(none)
	v := runtimes(&c.Runtimes)
	if err := v.Set("kata=/opt/kata"); err != nil {
		t.Fatal(err)
	}
	if err := v.decode([]byte(`{"crun":{"path":"/usr/bin/crun"}}`)); err != nil {
		t.Fatal(err)
	}
	if c.Runtimes["kata"].Path != "/opt/kata" || c.Runtimes["crun"].Path != "/usr/bin/crun" {
		t.Error(c.Runtimes)
	}
	if v.decode([]byte(`{"kata":{"path":"/x"}}`)) == nil || v.Set("wherry=/x") == nil || v.Set("x") == nil {
		t.Error("a runtime was named twice, or badly, and that was accepted")
	}
}
