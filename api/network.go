package api

import "github.com/moby/moby/api/types/network"

// NetworkUpdate is the body of POST /wherry/containers/{name}/network: what a
// container publishes and how it is called, changed while it runs or not. All
// of it happens or nothing.
type NetworkUpdate struct {
	PublishAdd    network.PortMap     `json:",omitempty"`
	PublishRemove []PublishedPort     `json:",omitempty"`
	AliasAdd      map[string][]string `json:",omitempty"` // by network; "" is the container's first
	AliasRemove   map[string][]string `json:",omitempty"`
}

// PublishedPort is a port of the host that leads to a container.
type PublishedPort struct {
	HostIP        string `json:",omitempty"` // "" is any
	HostPort      uint16
	ContainerPort uint16 `json:",omitempty"` // 0 is any
	Proto         string // tcp, udp or sctp
}

// NetworkUpdated is the answer: the ports as they are now.
type NetworkUpdated struct {
	Ports network.PortMap
}

// PortReach tells who can reach a published port.
type PortReach struct {
	Port     string // of the container: "80/tcp"
	HostIP   string `json:",omitempty"` // as NetworkSettings.Ports has it
	HostPort string `json:",omitempty"` // "" when no port of the host is used
	From     string // in words
}
