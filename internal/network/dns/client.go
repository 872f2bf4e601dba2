package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wherry-engine/wherry/internal/linux/rtnl"
)

// dialTimeout bounds connecting to a server for what is not ours.
const dialTimeout = 4 * time.Second

// Service answers the containers of one engine: each in its own namespace,
// with one memory of what other servers said.
type Service struct {
	home    *os.File            // the engine's namespace
	servers func() []netip.Addr // whom to ask for what is not ours; asked at each question
	memory  Memory
}

// NewService makes a service; servers are asked from the namespace home.
func NewService(home *os.File, servers func() []netip.Addr) *Service {
	return &Service{home: home, servers: servers}
}

// Zone is what a container knows by being on a network.
type Zone struct {
	Network   string // its name
	Directory *Directory
	Links     []string // "target:alias": what only this container calls others
	Internal  bool     // the network leads nowhere
}

// Client is one container, or a namespace that waits for one.
type Client struct {
	service *Service
	ns      *os.File
	server  *Server
	memory  Memory // of its own servers

	mu    sync.RWMutex
	own   []netip.Addr
	zones map[string]Zone // by network id
}

// Open starts answering in a namespace, at address. Until the client is on a
// network it knows nothing and asks nobody. own are servers of the client's own,
// asked from where it is.
func (s *Service) Open(ns *os.File, address string, own []netip.Addr) (*Client, error) {
	c := &Client{service: s, own: slices.Clone(own), zones: map[string]Zone{}}
	// A description of its own: it may outlive the caller's.
	var err error
	if c.ns, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", ns.Fd())); err != nil {
		return nil, err
	}
	if c.server, err = ServeIn(s.home, ns, address, c); err != nil {
		c.ns.Close()
		return nil, fmt.Errorf("name service: %w", err)
	}
	return c, nil
}

// Close stops answering and waits for what is being forwarded. A nil client is
// closed.
func (c *Client) Close() {
	if c != nil {
		c.server.Close()
		c.ns.Close()
	}
}

// Ask gives the client servers of its own, asked from where it is.
func (c *Client) Ask(own []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = slices.Clone(own)
}

// Enter puts the client on a network, or tells it what has changed there.
func (c *Client) Enter(network string, z Zone) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.zones[network] = z
}

// Leave takes the client off a network.
func (c *Client) Leave(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.zones, network)
}

// Lookup implements Names over the networks of the container.
func (c *Client) Lookup(name string) ([]netip.Addr, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, z := range c.zones {
		if list := z.Directory.Lookup(z.linked(name)); len(list) > 0 {
			return list, true
		}
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(z.Network)); ok {
			if list := z.Directory.Lookup(z.linked(short)); len(list) > 0 {
				return list, true
			}
		}
	}
	return nil, false
}

// linked is the name behind one that the links give, else the same.
func (z *Zone) linked(name string) string {
	for _, l := range z.Links {
		if target, alias, ok := strings.Cut(l, ":"); ok && strings.EqualFold(alias, name) {
			if len(target) == 64 {
				target = target[:12] // the directory has the short ones
			}
			return strings.ToLower(target)
		}
	}
	return name
}

// Reverse implements Names.
func (c *Client) Reverse(a netip.Addr) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, z := range c.zones {
		if name := z.Directory.Name(a); name != "" {
			return name + "." + z.Network
		}
	}
	return ""
}

// Upstreams implements Names: the container's own servers, asked from where it
// is, else the engine's or the host's, asked from the host. A container of
// internal networks alone has only its own, and what others have learnt of the
// world is kept from it.
func (c *Client) Upstreams() ([]Upstream, *Memory) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	addrs, dial, memory := c.own, c.dialInside, &c.memory
	if len(addrs) == 0 {
		secluded := true
		for _, z := range c.zones {
			secluded = secluded && z.Internal
		}
		if secluded {
			return nil, nil
		}
		addrs, dial, memory = c.service.servers(), dialHere, &c.service.memory
	}
	out := make([]Upstream, len(addrs))
	for i, a := range addrs {
		out[i] = Upstream{Addr: netip.AddrPortFrom(a, 53), Dial: dial}
	}
	return out, memory
}

func dialHere(network string, to netip.AddrPort) (net.Conn, error) {
	return net.DialTimeout(network, to.String(), dialTimeout)
}

// dialInside connects from the container's namespace.
func (c *Client) dialInside(network string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := rtnl.Enter(c.service.home, c.ns, func(*rtnl.Conn) (err error) {
		// To an address that is not a name, the dialler makes its socket on
		// this goroutine, and so on this thread.
		conn, err = (&net.Dialer{Timeout: dialTimeout}).Dial(network, to.String())
		return err
	})
	return conn, err
}
