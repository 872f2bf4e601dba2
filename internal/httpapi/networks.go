package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/network"

	"github.com/wherry-engine/wherry/api"
)

func networkRoutes(b *Backends) []route {
	h := networkHandlers{b}
	return []route{
		{method: get, path: "/networks", handle: h.list},
		{method: get, path: "/networks/", handle: h.list},
		{method: get, path: "/networks/{name}", handle: h.inspect},
		{method: post, path: "/networks/create", handle: h.create},
		{method: post, path: "/networks/prune", handle: h.prune, since: 25},
		{method: post, path: "/networks/{name}/connect", handle: h.connect},
		{method: post, path: "/networks/{name}/disconnect", handle: h.disconnect},
		{method: remove, path: "/networks/{name}", handle: h.remove},
		{method: post, path: "/wherry/containers/{name}/network", handle: h.update},
		{method: get, path: "/wherry/reach", handle: func(c *call) error { return c.reply(http.StatusOK, h.Reach.Reach()) }},
	}
}

type networkHandlers struct{ *Backends }

func (h networkHandlers) list(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	all, err := h.Networks.List(c.ctx(), f)
	if err != nil {
		return err
	}
	if c.version.before(28) { // then the list had the containers too
		if all == nil {
			all = []network.Inspect{}
		}
		return c.reply(http.StatusOK, all)
	}
	out := make([]network.Summary, len(all))
	for i, n := range all {
		out[i] = network.Summary{Network: n.Network}
	}
	return c.reply(http.StatusOK, out)
}

func (h networkHandlers) inspect(c *call) error {
	n, err := h.Networks.Inspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	out := *n
	if c.version.before(52) {
		out.Status = nil
	}
	return c.reply(http.StatusOK, out)
}

func (h networkHandlers) create(c *call) error {
	var r network.CreateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if c.version.before(48) {
		r.EnableIPv4 = nil
	}
	made, err := h.Networks.Create(c.lasting(), r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, made)
}

func (h networkHandlers) connect(c *call) error {
	var r network.ConnectRequest
	if err := c.json(&r); err != nil {
		return err
	}
	return h.Networks.Connect(c.lasting(), c.name, r.Container, r.EndpointConfig)
}

func (h networkHandlers) disconnect(c *call) error {
	var r network.DisconnectRequest
	if err := c.json(&r); err != nil {
		return err
	}
	return h.Networks.Disconnect(c.lasting(), c.name, r.Container, r.Force)
}

// update is an extension: docs/extensions.md.
func (h networkHandlers) update(c *call) error {
	var r api.NetworkUpdate
	if err := c.json(&r); err != nil {
		return err
	}
	done, err := h.Networks.Update(c.lasting(), c.name, r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, done)
}

func (h networkHandlers) remove(c *call) error {
	return c.done(h.Networks.Remove(c.lasting(), c.name))
}

func (h networkHandlers) prune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	report, err := h.Networks.Prune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, report)
}
