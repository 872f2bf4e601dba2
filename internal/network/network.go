// Package network owns networks and endpoints: which there are, the bridges
// and rules they consist of on the host, and the network namespaces that
// containers are started in. Namespaces are descriptors only: they have no
// name in any file system and go with their last user.
//
// Persistent state, all under Config.Root/network:
//
//	networks.json  version 1: {"Version":1,"Networks":[{"ID","Name","Driver","Created",…}]}
//	               ids and creation times of the predefined networks and
//	               everything about user-defined ones; replaced atomically
//
// and, gone with a reboot like what it describes, under Config.ExecRoot/network:
//
//	host.json      what host settings were before the engine changed them
//
// Who has which address is not written down: the containers' records hold
// their EndpointSettings and come back through Adopt.
package network

import (
	"net/netip"
	"os"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/ipam"
)

// DefaultBridge is the name of the default network's link on the host.
const DefaultBridge = "wherry0"

// DefaultPoolSize is how many wired namespaces wait for containers.
const DefaultPoolSize = 8

// Config is what Open needs. The zero value of a field means docker's default
// unless it says otherwise.
type Config struct {
	Root     string // data root; "" keeps nothing
	ExecRoot string // run-time state; "" keeps nothing

	BridgeName     string       // --bridge: "" is our own wherry0, "none" no default network, else an existing bridge
	BIP            netip.Prefix // --bip: address and prefix length of the default bridge
	FixedCIDR      netip.Prefix // --fixed-cidr: containers' addresses come from here
	DefaultGateway netip.Addr   // --default-gateway: instead of the bridge's address
	MTU            int          // --mtu; 0 is 1500
	AddressPools   []ipam.Range // --default-address-pool; nil is docker's list
	DefaultBindIP  netip.Addr   // --ip: where ports are published without an address; invalid is every address
	DNS            []netip.Addr // --dns
	DNSSearch      []string     // --dns-search
	DNSOptions     []string     // --dns-opt
	HostGatewayIPs []netip.Addr // --host-gateway-ip; nil is the default bridge's address

	IPForward      bool // --ip-forward: let the host forward packets; docker's default is true
	IPForwardOpen  bool // --ip-forward-no-drop: do not drop what other links forward when this engine turned forwarding on
	Firewall       bool // --iptables: write the nftables rules; docker's default is true
	IPMasq         bool // --ip-masq; docker's default is true
	ICC            bool // --icc; docker's default is true
	UserlandProxy  bool // --userland-proxy: carry IPv6 clients of published ports to containers without IPv6; docker's default is true
	NoLocalPublish bool // published ports are not reachable through 127.0.0.1 (no route_localnet on the bridges)

	// ownBridge is the bridge chosen by Open: wherry0, or the next free one on
	// a host where another engine has that.
	ownBridge string

	PoolSize int // wired namespaces kept ready for the default network; < 0 is none, 0 is DefaultPoolSize
}

// Request asks for a sandbox: a network namespace wired as a container wants it.
type Request struct {
	ContainerID   string
	ContainerName string // without "/"; names the endpoint in network inspect and the name service
	Hostname      string
	// Network is HostConfig.NetworkMode: "", "default", "bridge", "none", or a
	// network's name, id or id prefix. "host" and "container:X" are resolved
	// by the caller and refused here.
	Network string
	// Endpoints are the client's wishes by network (NetworkingConfig); a
	// network that is not Network is connected as well.
	Endpoints map[string]*network.EndpointSettings
	MAC       network.HardwareAddr // Config.MacAddress of old clients, for Network

	Ports      network.PortMap // HostConfig.PortBindings
	Exposed    network.PortSet // Config.ExposedPorts, for PublishAll
	PublishAll bool

	DNS        []netip.Addr // HostConfig.DNS, for the name service's forwarding
	DNSOptions []string
	DNSSearch  []string

	// NS is wired instead of a namespace from the pool: one that belongs to
	// another user namespace, as its owner must have made it. It stays the caller's.
	NS *os.File
}

// Sandbox is a namespace ready for a container.
type Sandbox struct {
	ID string // NetworkSettings.SandboxID
	// NS is the namespace, open and owned by the caller. Closing the last
	// descriptor, with no process inside, removes its links.
	NS *os.File
	// Endpoints has the settings by network name as inspect shows them.
	Endpoints map[string]*network.EndpointSettings
	// Ports are the published ports with what was chosen, NetworkSettings.Ports.
	Ports network.PortMap
	// NameServer is set when the sandbox has a user-defined network: the
	// container's resolv.conf must name it (ResolvConf takes care).
	NameServer netip.Addr
}
