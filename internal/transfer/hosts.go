package transfer

import (
	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// Hosts lists where BuildKit's resolver asks for a registry host: the mirrors
// of the settings in order, then the registry itself. Credentials are the
// resolver's business.
func (c *Client) Hosts(host string) ([]docker.RegistryHost, error) {
	list, err := c.set.Load().endpoints(host, credentials{}, true)
	if err != nil {
		return nil, err
	}
	var out []docker.RegistryHost
	for _, e := range list {
		can := docker.HostCapabilityPull | docker.HostCapabilityResolve
		if !e.mirror {
			can |= docker.HostCapabilityPush | docker.HostCapabilityReferrers
		}
		out = append(out, docker.RegistryHost{Client: e.client, Host: e.base.Host, Scheme: e.base.Scheme, Path: e.base.Path + "/v2", Capabilities: can})
	}
	return out, nil
}
