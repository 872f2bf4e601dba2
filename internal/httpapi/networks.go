package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/network"
)

func networkRoutes(b *Backends) []route {
	h := networkHandlers{b}
	return []route{
		{method: get, path: "/networks", handle: h.list},
		{method: get, path: "/networks/", handle: h.list},
		{method: get, path: "/networks/{name}", handle: h.inspect},
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
