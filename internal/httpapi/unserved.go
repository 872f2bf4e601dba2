package httpapi

import (
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// unservedRoutes are the rest of the Engine API: known, and refused by name,
// so that a client sees the difference between a wrong address and a missing
// part. A line goes away when its part comes.
func unservedRoutes() []route {
	no := func(what string) func(*call) error {
		return func(*call) error { return notServed(what) }
	}
	noManager := func(*call) error {
		return errdefs.ErrUnavailable.WithMessage(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	noMember := func(*call) error {
		return errdefs.ErrUnavailable.WithMessage("This node is not part of a swarm")
	}
	return []route{
		{method: get, path: "/containers/{name}/checkpoints", handle: no("checkpoint")},
		{method: post, path: "/containers/{name}/checkpoints", handle: no("checkpoint")},
		{method: get, path: "/images/{name}/attestations", handle: no("image attestations"), since: 55},
		// There are no plugins, which is an answer; clients look for one of a
		// name that is no container and no image either.
		{method: get, path: "/plugins", handle: func(c *call) error { return c.reply(http.StatusOK, []struct{}{}) }},
		{method: get, path: "/plugins/privileges", handle: no("plugin")},
		{method: get, path: "/plugins/{name}/json", handle: func(c *call) error {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", c.name))
		}},
		{method: post, path: "/plugins/pull", handle: no("plugin")},
		{method: post, path: "/plugins/create", handle: no("plugin")},
		{method: post, path: "/plugins/{name}/enable", handle: no("plugin")},
		{method: post, path: "/plugins/{name}/disable", handle: no("plugin")},
		{method: post, path: "/plugins/{name}/push", handle: no("plugin")},
		{method: post, path: "/plugins/{name}/upgrade", handle: no("plugin"), since: 26},
		{method: post, path: "/plugins/{name}/set", handle: no("plugin")},
		{method: remove, path: "/plugins/{name}", handle: no("plugin")},
		{method: post, path: "/swarm/init", handle: no("swarm")},
		{method: post, path: "/swarm/join", handle: no("swarm")},
		{method: post, path: "/swarm/leave", handle: noMember},
		{method: get, path: "/swarm", handle: noManager},
		{method: get, path: "/swarm/unlockkey", handle: noManager},
		{method: post, path: "/swarm/update", handle: noManager},
		{method: post, path: "/swarm/unlock", handle: noMember},
		{method: get, path: "/services", handle: noManager},
		{method: post, path: "/services/create", handle: noManager},
		{method: get, path: "/services/{name}/logs", handle: noManager},
		{method: get, path: "/services/{name}", handle: noManager},
		{method: post, path: "/services/{name}/update", handle: noManager},
		{method: remove, path: "/services/{name}", handle: noManager},
		{method: get, path: "/nodes", handle: noManager},
		{method: get, path: "/nodes/{name}", handle: noManager},
		{method: post, path: "/nodes/{name}/update", handle: noManager},
		{method: remove, path: "/nodes/{name}", handle: noManager},
		{method: get, path: "/tasks", handle: noManager},
		{method: get, path: "/tasks/{name}/logs", handle: noManager},
		{method: get, path: "/tasks/{name}", handle: noManager},
		{method: get, path: "/secrets", handle: noManager, since: 25},
		{method: post, path: "/secrets/create", handle: noManager, since: 25},
		{method: get, path: "/secrets/{name}", handle: noManager, since: 25},
		{method: post, path: "/secrets/{name}/update", handle: noManager, since: 25},
		{method: remove, path: "/secrets/{name}", handle: noManager, since: 25},
		{method: get, path: "/configs", handle: noManager, since: 30},
		{method: post, path: "/configs/create", handle: noManager, since: 30},
		{method: get, path: "/configs/{name}", handle: noManager, since: 30},
		{method: post, path: "/configs/{name}/update", handle: noManager, since: 30},
		{method: remove, path: "/configs/{name}", handle: noManager, since: 30},
	}
}
