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
//	endpoints/     what plugins hold for containers, see package remote
//
// and, gone with a reboot like what it describes, under Config.ExecRoot/network:
//
//	host.json      what host settings were before the engine changed them
//
// Who has which address is not written down: the containers' records hold
// their EndpointSettings and come back through Adopt.
package network

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/internal/network/segment"
	"github.com/wherry-engine/wherry/internal/network/settings"
)

// Config is what Open needs.
type Config = settings.Config

// The address families, as indices of pairs.
const (
	v4 = segment.V4
	v6 = segment.V6
)

// register answers questions about the networks that a container is on.
type register struct{ *segment.Register }

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
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
	// network that is not Network is connected as well. When they are not nil,
	// Network itself is connected only if it is among them: the container was
	// disconnected from it.
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
