package config

// class says what wherryd does about a setting of dockerd.
type class int

const (
	served  class = iota // it does what dockerd's documentation says
	refused              // wherryd does not start: this is not there yet
	idle                 // it can mean nothing here; accepted with a warning
)

// option is one setting of dockerd: its flag, its key in daemon.json, or both.
type option struct {
	flag, short, key string
	class            class
	toggle           bool   // not served, and its flag needs no value
	harmless         string // value that asks for what wherryd does anyway; never refused
	reload           bool   // takes effect at SIGHUP
	say              string // the help text; for idle, why it means nothing; for refused, why and the way out
	bind             func(*Config) value
}

// options is everything that dockerd 28 and newer ones take. What becomes
// served changes its class here and nowhere else.
var options = []option{
	// Where and who.
	{flag: "config-file", say: "Daemon configuration file", bind: func(c *Config) value { return text(&c.File) }},
	{flag: "validate", say: "Validate daemon configuration and exit", bind: func(c *Config) value { return boolean(&c.Validate) }},
	{flag: "version", short: "v", say: "Print version information and quit", bind: func(c *Config) value { return boolean(&c.Version) }},
	{flag: "help", say: "Print usage", bind: func(c *Config) value { return boolean(&c.Help) }},
	{flag: "host", short: "H", key: "hosts", say: "Daemon socket(s) to connect to", bind: func(c *Config) value { return words(&c.Hosts, validHost) }},
	{flag: "group", short: "G", key: "group", say: "Group for the unix socket", bind: func(c *Config) value { return text(&c.Group) }},
	{flag: "tls", key: "tls", say: "Use TLS; implied by --tlsverify", bind: func(c *Config) value { return boolean(&c.TLS.Enabled) }},
	{flag: "tlsverify", key: "tlsverify", say: "Use TLS and verify the remote", bind: func(c *Config) value { return boolean(&c.TLS.Verify) }},
	{flag: "tlscacert", key: "tlscacert", say: "Trust certs signed only by this CA", bind: func(c *Config) value { return text(&c.TLS.CACert) }},
	{flag: "tlscert", key: "tlscert", say: "Path to TLS certificate file", bind: func(c *Config) value { return text(&c.TLS.Cert) }},
	{flag: "tlskey", key: "tlskey", say: "Path to TLS key file", bind: func(c *Config) value { return text(&c.TLS.Key) }},
	{key: "min-api-version", say: "Oldest API version that is answered", bind: func(c *Config) value { return text(&c.MinAPIVersion) }},
	{flag: "data-root", key: "data-root", say: "Root directory of persistent state", bind: func(c *Config) value { return text(&c.DataRoot) }},
	{flag: "exec-root", key: "exec-root", say: "Root directory for execution state files", bind: func(c *Config) value { return text(&c.ExecRoot) }},
	{flag: "pidfile", short: "p", key: "pidfile", say: "Path to use for daemon PID file", bind: func(c *Config) value { return text(&c.Pidfile) }},
	{flag: "oom-score-adjust", key: "oom-score-adjust", say: "Set the oom_score_adj for the daemon", bind: func(c *Config) value { return integer(&c.OOMScoreAdjust) }},
	{flag: "debug", short: "D", key: "debug", reload: true, say: "Enable debug mode", bind: func(c *Config) value { return boolean(&c.Debug) }},
	{flag: "log-level", short: "l", key: "log-level", reload: true, say: `Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")`, bind: func(c *Config) value {
		return choice(&c.LogLevel, "logging level", "trace", "debug", "info", "warn", "error", "fatal", "panic")
	}},
	{flag: "log-format", key: "log-format", say: `Set the logging format ("text"|"json")`, bind: func(c *Config) value { return choice(&c.LogFormat, "log format", "text", "json") }},
	{flag: "raw-logs", key: "raw-logs", class: idle, toggle: true, harmless: "false", say: "wherryd's log always has full timestamps and no colors"},
	{flag: "label", key: "labels", reload: true, say: "Set key=value labels to the daemon", bind: func(c *Config) value { return words(&c.Labels, validLabel) }},
	{flag: "live-restore", key: "live-restore", reload: true, say: "Keep containers running when the daemon stops", bind: func(c *Config) value { return boolean(&c.LiveRestore) }},
	{flag: "shutdown-timeout", key: "shutdown-timeout", reload: true, say: "Set the default shutdown timeout", bind: func(c *Config) value { return integer(&c.ShutdownTimeout) }},
	{flag: "default-stop-timeout", key: "default-stop-timeout", reload: true, say: "Set the default container stop timeout in seconds", bind: func(c *Config) value { return integer(&c.DefaultStopTimeout) }},
	{flag: "restart", short: "r", class: idle, toggle: true, say: "the restart policy belongs to each container"},
	{flag: "rootless", key: "rootless", class: refused, toggle: true, harmless: "false"},
	{flag: "experimental", key: "experimental", class: refused, toggle: true, harmless: "false"},
	{flag: "feature", key: "features", class: idle, reload: true, say: "no feature of dockerd can be switched in wherryd", bind: func(c *Config) value { return switches(&c.Features) }},
	{flag: "metrics-addr", key: "metrics-addr", class: refused},
	{flag: "authorization-plugin", key: "authorization-plugins", class: refused, reload: true},
	{flag: "api-cors-header", key: "api-cors-header", class: refused},

	// Containers.
	{flag: "exec-opt", key: "exec-opts", say: "Runtime execution options", bind: func(c *Config) value { return words(&c.execOpts, nil) }},
	{flag: "cgroup-parent", key: "cgroup-parent", say: "Set parent cgroup for all containers", bind: func(c *Config) value { return text(&c.CgroupParent) }},
	{flag: "default-cgroupns-mode", key: "default-cgroupns-mode", reload: true, say: `Default mode for containers cgroup namespace ("host" | "private")`, bind: func(c *Config) value {
		return choice(&c.CgroupnsMode, "default cgroup namespace mode", "host", "private")
	}},
	{flag: "default-ipc-mode", key: "default-ipc-mode", reload: true, say: `Default mode for containers ipc ("shareable" | "private")`, bind: func(c *Config) value {
		return choice(&c.IpcMode, "default IPC mode", "shareable", "private")
	}},
	{flag: "add-runtime", key: "runtimes", reload: true, say: "Register an additional OCI compatible runtime", bind: func(c *Config) value { return runtimes(&c.Runtimes) }},
	{flag: "default-runtime", key: "default-runtime", reload: true, say: "Default OCI runtime for containers", bind: func(c *Config) value { return text(&c.DefaultRuntime) }},
	{flag: "default-ulimit", key: "default-ulimits", say: "Default ulimits for containers", bind: func(c *Config) value { return ulimits(&c.Ulimits) }},
	{flag: "default-shm-size", key: "default-shm-size", reload: true, say: "Default shm size for containers", bind: func(c *Config) value { return memory(&c.ShmSize) }},
	{flag: "init", key: "init", say: "Run an init in the container to forward signals and reap processes", bind: func(c *Config) value { return boolean(&c.Init) }},
	{flag: "init-path", key: "init-path", class: idle, say: "the init is part of wherryd"},
	{key: "default-init", class: idle, say: "the init is part of wherryd"},
	{flag: "seccomp-profile", key: "seccomp-profile", say: `Path to seccomp profile. Set to "unconfined" to disable the default seccomp profile`, bind: func(c *Config) value { return text(&c.SeccompProfile) }},
	{flag: "no-new-privileges", key: "no-new-privileges", say: "Set no-new-privileges by default for new containers", bind: func(c *Config) value { return boolean(&c.NoNewPrivileges) }},
	{flag: "userns-remap", key: "userns-remap", say: "User/Group setting for user namespaces", bind: func(c *Config) value { return text(&c.UsernsRemap) }},
	{flag: "selinux-enabled", key: "selinux-enabled", class: refused, toggle: true, harmless: "false"},
	{flag: "cpu-rt-period", key: "cpu-rt-period", class: refused, harmless: "0"},
	{flag: "cpu-rt-runtime", key: "cpu-rt-runtime", class: refused, harmless: "0"},
	{flag: "cdi-spec-dir", key: "cdi-spec-dirs", say: "CDI specification directories to use", bind: func(c *Config) value { return words(&c.CDISpecDirs, nil) }},
	{flag: "nri-opts", key: "nri-opts", class: refused},
	{flag: "log-driver", key: "log-driver", say: "Default driver for container logs", bind: func(c *Config) value { return text(&c.LogDriver) }},
	{flag: "log-opt", key: "log-opts", say: "Default log driver options for containers", bind: func(c *Config) value { return pairs(&c.LogOpts) }},

	// Storage and images.
	{flag: "storage-driver", short: "s", key: "storage-driver", say: "Storage driver to use", bind: func(c *Config) value { return text(&c.StorageDriver) }},
	{flag: "storage-opt", key: "storage-opts", say: "Storage driver options: overlay2.size limits what each container may write", bind: func(c *Config) value { return words(&c.storageOpts, nil) }},
	{flag: "registry-mirror", key: "registry-mirrors", reload: true, say: "Preferred registry mirror", bind: func(c *Config) value { return words(&c.Registry.Mirrors, nil) }},
	{flag: "insecure-registry", key: "insecure-registries", reload: true, say: "Enable insecure registry communication", bind: func(c *Config) value { return words(&c.Registry.Insecure, nil) }},
	{flag: "max-concurrent-downloads", key: "max-concurrent-downloads", reload: true, say: "Set the max concurrent downloads", bind: func(c *Config) value { return integer(&c.Registry.MaxDownloads) }},
	{flag: "max-concurrent-uploads", key: "max-concurrent-uploads", reload: true, say: "Set the max concurrent uploads", bind: func(c *Config) value { return integer(&c.Registry.MaxUploads) }},
	{flag: "max-download-attempts", key: "max-download-attempts", reload: true, say: "Set the max download attempts for each pull", bind: func(c *Config) value { return integer(&c.Registry.MaxDownloadAttempts) }},
	{flag: "push-compression", key: "push-compression", reload: true, say: `How a push compresses layers that are not ("gzip"|"zstd"|"none"; wherryd's own)`, bind: func(c *Config) value {
		return choice(&c.Registry.PushCompression, "push compression", "gzip", "zstd", "none")
	}},
	{key: "registry-hosts", reload: true, say: "Mirrors of each registry (wherryd's own)", bind: func(c *Config) value { return hosts(&c.Registry.Hosts) }},
	{flag: "http-proxy", key: "http-proxy", say: "HTTP proxy URL to use for outgoing traffic", bind: func(c *Config) value { return text(&c.Registry.HTTPProxy) }},
	{flag: "https-proxy", key: "https-proxy", say: "HTTPS proxy URL to use for outgoing traffic", bind: func(c *Config) value { return text(&c.Registry.HTTPSProxy) }},
	{flag: "no-proxy", key: "no-proxy", say: "Comma-separated list of hosts or IP addresses for which the proxy is skipped", bind: func(c *Config) value { return text(&c.Registry.NoProxy) }},
	{flag: "allow-nondistributable-artifacts", key: "allow-nondistributable-artifacts", class: idle, say: "nondistributable layers are pushed like all others"},
	{key: "builder", say: "Build cache (gc), history and entitlements of the builder", bind: func(c *Config) value { return builder(&c.Builder) }},
	{flag: "containerd", key: "containerd", class: idle, say: "wherryd needs no containerd"},
	{flag: "containerd-namespace", key: "containerd-namespace", class: idle, say: "wherryd needs no containerd"},
	{flag: "containerd-plugins-namespace", key: "containerd-plugin-namespace", class: idle, say: "wherryd needs no containerd"},
	{key: "containerd-plugins-namespace", class: idle, say: "wherryd needs no containerd"},
	{flag: "cri-containerd", key: "cri-containerd", class: refused, toggle: true, harmless: "false"},
	{key: "deprecated-key-path", class: idle, say: "images are not signed with a key of the engine"},

	// Network.
	{flag: "bridge", short: "b", key: "bridge", say: "Attach containers to a network bridge", bind: func(c *Config) value { return text(&c.Bridge.Name) }},
	{flag: "bip", key: "bip", say: "IPv4 address for the default bridge", bind: func(c *Config) value { return network4(&c.Bridge.IP) }},
	{flag: "mtu", key: "mtu", say: `Set the MTU for the default "bridge" network`, bind: func(c *Config) value { return integer(&c.Bridge.MTU) }},
	{flag: "iptables", key: "iptables", say: "Enable addition of packet filter rules (wherryd writes nftables rules)", bind: func(c *Config) value { return boolean(&c.Bridge.Firewall) }},
	{flag: "firewall-mode", key: "firewall-mode", say: "Who decides what reaches published ports: docker (they are open) or host-policy (the host's own rules)", bind: func(c *Config) value {
		return choice(&c.Bridge.FirewallMode, "firewall mode", "docker", "host-policy")
	}},
	{flag: "ip-forward", key: "ip-forward", say: "Enable IP forwarding in system configuration", bind: func(c *Config) value { return boolean(&c.Bridge.Forward) }},
	{flag: "dns", key: "dns", say: "DNS server to use", bind: func(c *Config) value { return addresses(&c.DNS.Servers) }},
	{flag: "dns-opt", key: "dns-opts", say: "DNS options to use", bind: func(c *Config) value { return words(&c.DNS.Options, nil) }},
	{flag: "dns-search", key: "dns-search", say: "DNS search domains to use", bind: func(c *Config) value { return words(&c.DNS.Search, validDomain) }},
	{flag: "fixed-cidr", key: "fixed-cidr", say: "IPv4 subnet for the default bridge network", bind: func(c *Config) value { return network4(&c.Bridge.FixedCIDR) }},
	{flag: "default-gateway", key: "default-gateway", say: "Default gateway IPv4 address for the default bridge network", bind: func(c *Config) value { return address(&c.Bridge.Gateway) }},
	{flag: "icc", key: "icc", say: "Enable inter-container communication for the default bridge network", bind: func(c *Config) value { return boolean(&c.Bridge.ICC) }},
	{flag: "ip-masq", key: "ip-masq", say: "Enable IP masquerading for the default bridge network", bind: func(c *Config) value { return boolean(&c.Bridge.Masquerade) }},
	{flag: "ip", key: "ip", say: "Host IP for port publishing from the default bridge network", bind: func(c *Config) value { return address(&c.Bridge.DefaultIP) }},
	{flag: "host-gateway-ip", key: "host-gateway-ips", say: "IP addresses that the special 'host-gateway' string in --add-host resolves to", bind: func(c *Config) value { return addresses(&c.DNS.HostGateway) }},
	{key: "host-gateway-ip", say: "The same, one address (docker's former name)", bind: func(c *Config) value { return address(&c.DNS.hostGateway) }},
	{flag: "default-address-pool", key: "default-address-pools", say: "Default address pools for node specific local networks", bind: func(c *Config) value { return pools{&c.Bridge.AddressPools} }},
	{flag: "default-network-opt", key: "default-network-opts", say: "Default network options, as driver=option=value", bind: func(c *Config) value { return driverOptions{&c.Bridge.NetworkOptions} }},
	{key: "resolv-conf", say: "The host's resolv.conf, instead of /etc/resolv.conf", bind: func(c *Config) value { return text(&c.DNS.File) }},
	{flag: "userland-proxy", key: "userland-proxy", say: "Carry IPv6 clients of published ports to containers without IPv6", bind: func(c *Config) value { return boolean(&c.Bridge.UserlandProxy) }},
	{flag: "userland-proxy-path", key: "userland-proxy-path", class: idle, say: "the proxy is part of wherryd"},
	{flag: "ipv6", key: "ipv6", say: "Enable IPv6 networking on the default bridge network", bind: func(c *Config) value { return boolean(&c.Bridge.IPv6) }},
	{flag: "ip6tables", key: "ip6tables", class: refused, toggle: true, harmless: "true", say: "rules for IPv4 and IPv6 are one table, and without them an IPv6 network would be open to all; leave it out, or let --iptables=false write no rules at all"},
	{flag: "bip6", key: "bip6", say: "IPv6 address for the default bridge", bind: func(c *Config) value { return network6(&c.Bridge.IP6) }},
	{flag: "fixed-cidr-v6", key: "fixed-cidr-v6", say: "IPv6 subnet for the default bridge network", bind: func(c *Config) value { return network6(&c.Bridge.FixedCIDR6) }},
	{flag: "default-gateway-v6", key: "default-gateway-v6", say: "Default gateway IPv6 address for the default bridge network", bind: func(c *Config) value { return address(&c.Bridge.Gateway6) }},
	{flag: "firewall-backend", key: "firewall-backend", class: refused, harmless: "nftables"},
	{flag: "ip-forward-no-drop", key: "ip-forward-no-drop", say: "Do not drop what other links forward when IP forwarding is enabled", bind: func(c *Config) value { return boolean(&c.Bridge.ForwardOpen) }},
	{flag: "allow-direct-routing", key: "allow-direct-routing", say: "Open published ports at the containers' own addresses too", bind: func(c *Config) value { return boolean(&c.Bridge.DirectRouting) }},
	{flag: "bridge-accept-fwmark", key: "bridge-accept-fwmark", say: "Let packets with this firewall mark/mask pass to containers of bridge networks", bind: func(c *Config) value { return text(&c.Bridge.AcceptMark) }},
	{flag: "network-control-plane-mtu", key: "network-control-plane-mtu", class: refused, harmless: "1500"},
	{flag: "network-diagnostic-port", key: "network-diagnostic-port", class: refused, harmless: "0"},

	// Cluster.
	{flag: "swarm-default-advertise-addr", key: "swarm-default-advertise-addr", class: refused},
	{key: "swarm-raft-heartbeat-tick", class: refused, harmless: "0"},
	{key: "swarm-raft-election-tick", class: refused, harmless: "0"},
	{flag: "node-generic-resource", key: "node-generic-resources", class: refused},
}
