// Package config owns wherryd's settings: dockerd's flags, dockerd's daemon.json
// keys, their defaults, and how the two are merged. Every flag and key that
// dockerd knows stands in one table (options.go) with what wherryd does about
// it, so that none is taken and silently ignored.
//
// The file is read from --config-file, by default /etc/wherry/daemon.json.
// Docker's own /etc/docker/daemon.json is never read unless it is named: on a
// machine where both engines run it would give wherryd Docker's data root and
// sockets. A machine that changes over passes --config-file /etc/docker/daemon.json.
package config

import (
	"net/netip"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
)

// Defaults that other packages and the help texts name.
const (
	DefaultConfigFile = "/etc/wherry/daemon.json"
	DefaultDataRoot   = "/var/lib/wherry"
	DefaultExecRoot   = "/run/wherry"
	DefaultPidfile    = "/run/wherry.pid"
	DefaultHost       = "unix:///run/wherry.sock"
	DefaultGroup      = "wherry"
	DefaultRuntime    = "wherry"
	DefaultBridge     = "wherry0"
	MinAPIVersion     = "1.24"
)

// Runtime is an OCI runtime that containers may ask for by name.
type Runtime struct {
	Path    string         `json:"path,omitempty"`
	Args    []string       `json:"runtimeArgs,omitempty"`
	Type    string         `json:"runtimeType,omitempty"`
	Options map[string]any `json:"options,omitempty"`
}

// Bridge holds what concerns the default bridge network.
type Bridge struct {
	Name          string // "" = our own bridge, "none" = no bridge network
	IP            string // --bip: IPv4 with prefix length; "" = chosen
	FixedCIDR     string // IPv4 network; containers' addresses come from here
	Gateway       netip.Addr
	IPv6          bool   // the default bridge network has IPv6 too
	IP6           string // --bip6
	FixedCIDR6    string // --fixed-cidr-v6
	Gateway6      netip.Addr
	MTU           int
	ICC           bool
	Masquerade    bool
	Forward       bool
	ForwardOpen   bool // --ip-forward-no-drop
	Firewall      bool // --iptables: whether wherryd writes any packet filter rule
	UserlandProxy bool // carry IPv6 clients of published ports to containers without IPv6
	DefaultIP     netip.Addr
	AddressPools  []AddressPool
	DirectRouting bool   // --allow-direct-routing
	AcceptMark    string // --bridge-accept-fwmark: "" or mark[/mask], checked
	FirewallMode  string // docker or host-policy
	// NetworkOptions are what new networks get, by driver.
	NetworkOptions map[string]map[string]string
}

// AddressPool is one --default-address-pool.
type AddressPool struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"`
}

// DNS holds the resolver defaults of containers.
type DNS struct {
	Servers     []netip.Addr
	Options     []string
	Search      []string
	File        string       // the host's resolv.conf; "" is /etc/resolv.conf
	HostGateway []netip.Addr // what host-gateway means in --add-host
	hostGateway netip.Addr   // by the key of one address
}

// TLS holds the settings of tcp:// listeners.
type TLS struct {
	Enabled, Verify bool
	CACert, Cert    string
	Key             string
	explicitCert    bool // cert or key were named in the file
	verifyInFile    bool // the file has tlsverify
}

// Registry holds what concerns registries.
type Registry struct {
	Mirrors, Insecure     []string
	MaxDownloads          int
	MaxUploads            int
	MaxDownloadAttempts   int
	PushCompression       string // "gzip", "zstd" or "none"
	HTTPProxy, HTTPSProxy string
	NoProxy               string
	Hosts                 map[string]RegistryHost // by host, "*.domain" or "*"
}

// RegistryHost is what is said of one registry, or of several by a wildcard.
type RegistryHost struct {
	Mirrors []RegistryMirror `json:"mirrors"`
}

// RegistryMirror is asked in place of a registry; the first one that can answer counts.
type RegistryMirror struct {
	URL      string            `json:"url"`
	Rewrite  []RegistryRewrite `json:"rewrite,omitempty"`
	Username string            `json:"username,omitempty"`
	// Password may be in a file of its own, whose first line it then is.
	Password     string `json:"password,omitempty"`
	PasswordFile string `json:"password-file,omitempty"`
	CA           string `json:"ca,omitempty"`
	Cert         string `json:"cert,omitempty"`
	Key          string `json:"key,omitempty"`
	SkipVerify   bool   `json:"skip-verify,omitempty"`
}

// RegistryRewrite changes the path of a repository: a regular expression and
// what stands in its place.
type RegistryRewrite struct {
	Match string `json:"match"`
	To    string `json:"to"`
}

// Config is the merged configuration. A value is made by Parse and not changed
// afterwards; reloading makes another one (see Merge).
type Config struct {
	File     string // the file that was asked for
	Validate bool   // --validate: only check
	Version  bool   // --version: only print it
	Help     bool

	Hosts         []string
	Group         string // group of unix sockets
	GroupExplicit bool   // the group was asked for, so it must exist
	TLS           TLS
	MinAPIVersion string

	DataRoot, ExecRoot, Pidfile string
	OOMScoreAdjust              int

	Debug     bool
	LogLevel  string // debug, info, warn, error, fatal
	LogFormat string // text or json
	RawLogs   bool

	Labels             []string
	LiveRestore        bool
	ShutdownTimeout    int // seconds
	DefaultStopTimeout int // seconds
	Features           map[string]bool

	StorageDriver string
	storageOpts   []string
	WritableSize  int64 // overlay2.size of --storage-opt: bytes of a container's writable layer; 0 is no limit

	CgroupDriver    string // cgroupfs or systemd; "" = chosen
	execOpts        []string
	CgroupParent    string
	CgroupnsMode    string // host, private; "" = by cgroup version
	IpcMode         string
	Runtimes        map[string]Runtime
	DefaultRuntime  string
	CDISpecDirs     []string // none are the usual ones
	Ulimits         map[string]*units.Ulimit
	ShmSize         int64 // bytes
	Init            bool
	SeccompProfile  string // "" or builtin, unconfined, or a path
	NoNewPrivileges bool
	UsernsRemap     string

	LogDriver string            // of containers
	LogOpts   map[string]string // of containers

	Bridge   Bridge
	DNS      DNS
	Registry Registry
	Builder  Builder

	// Warnings says which given settings mean nothing here, and why.
	Warnings []string

	accepted map[string]string // given settings of class meaningless, and refused ones at their harmless value
}

// New returns the defaults.
func New(getenv func(string) string) *Config {
	certs := getenv("DOCKER_CERT_PATH")
	if certs == "" {
		if certs = getenv("DOCKER_CONFIG"); certs == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				home = "/root" // a service without HOME; only the default of three file names
			}
			certs = filepath.Join(home, ".docker")
		}
	}
	c := &Config{
		File:               DefaultConfigFile,
		DataRoot:           DefaultDataRoot,
		ExecRoot:           DefaultExecRoot,
		Pidfile:            DefaultPidfile,
		Group:              DefaultGroup,
		MinAPIVersion:      MinAPIVersion,
		LogLevel:           "info",
		LogFormat:          "text",
		LiveRestore:        true,
		ShutdownTimeout:    15,
		DefaultStopTimeout: 10,
		Features:           map[string]bool{},
		IpcMode:            "private",
		Runtimes:           map[string]Runtime{},
		DefaultRuntime:     DefaultRuntime,
		Ulimits:            map[string]*units.Ulimit{},
		ShmSize:            64 << 20,
		SeccompProfile:     "builtin",
		LogDriver:          "json-file",
		LogOpts:            map[string]string{},
		TLS: TLS{
			Verify: getenv("DOCKER_TLS_VERIFY") != "",
			CACert: filepath.Join(certs, "ca.pem"),
			Cert:   filepath.Join(certs, "cert.pem"),
			Key:    filepath.Join(certs, "key.pem"),
		},
		Bridge: Bridge{
			MTU: 1500, ICC: true, Masquerade: true, Forward: true, Firewall: true, UserlandProxy: true,
			DefaultIP: netip.IPv4Unspecified(), FirewallMode: "docker",
		},
		Registry: Registry{MaxDownloads: 3, MaxUploads: 5, MaxDownloadAttempts: 5, PushCompression: "gzip"},
		Builder:  Builder{HostNetwork: true, Devices: true},
		accepted: map[string]string{},
	}
	c.Registry.Hosts = map[string]RegistryHost{}
	if v := getenv("DOCKER_MIN_API_VERSION"); v != "" {
		c.MinAPIVersion = v
	}
	return c
}
