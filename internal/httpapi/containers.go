package httpapi

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/container"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
	"github.com/wherry-engine/wherry/internal/lifecycle"
	"github.com/wherry-engine/wherry/internal/query"
)

func containerRoutes(b *Backends) []route {
	h := containerHandlers{b}
	return []route{
		{method: get, path: "/containers/json", handle: h.list},
		{method: get, path: "/containers/{name}/json", handle: h.inspect},
		{method: get, path: "/containers/{name}/top", handle: h.top},
		{method: get, path: "/containers/{name}/why", handle: h.why},
		{method: post, path: "/containers/create", handle: h.create},
		{method: post, path: "/containers/prune", handle: h.prune, since: 25},
		{method: post, path: "/containers/{name}/start", handle: h.start},
		{method: post, path: "/containers/{name}/stop", handle: h.stop},
		{method: post, path: "/containers/{name}/restart", handle: h.restart},
		{method: post, path: "/containers/{name}/kill", handle: h.kill},
		{method: post, path: "/containers/{name}/pause", handle: h.pause},
		{method: post, path: "/containers/{name}/unpause", handle: h.unpause},
		{method: post, path: "/containers/{name}/rename", handle: h.rename},
		{method: post, path: "/containers/{name}/update", handle: h.update},
		{method: post, path: "/containers/{name}/wait", handle: h.wait},
		{method: remove, path: "/containers/{name}", handle: h.remove},
	}
}

type containerHandlers struct{ *Backends }

func (h containerHandlers) list(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	o := query.ListOptions{All: c.flag("all"), Size: c.flag("size"), Filters: f}
	if text := c.arg("limit"); text != "" {
		if o.Limit, err = strconv.Atoi(text); err != nil {
			return invalid(err.Error())
		}
	}
	list, err := h.Views.List(c.ctx(), o)
	if err != nil {
		return err
	}
	out := make([]*container.Summary, len(list))
	for i, one := range list {
		out[i] = older.ContainerSummary(one, int(c.version))
	}
	return c.reply(http.StatusOK, out)
}

func (h containerHandlers) inspect(c *call) error {
	r, err := h.Views.Inspect(c.ctx(), c.name, c.flag("size"))
	if err != nil {
		return err
	}
	out := older.Container(r, int(c.version))
	if h.Reach == nil {
		return c.reply(http.StatusOK, out)
	}
	if reach := h.Reach.ReachOf(r.ID); len(reach) > 0 {
		out = older.With(out, older.Members{"Reach": reach}) // an extension: docs/networks.md
	}
	return c.reply(http.StatusOK, out)
}

func (h containerHandlers) top(c *call) error {
	r, err := h.Views.Top(c.ctx(), c.name, c.arg("ps_args"))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h containerHandlers) prune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	r, err := h.Lifecycle.Prune(c.lasting(), f)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h containerHandlers) start(c *call) error {
	// An empty object is let pass: clients of all ages send one.
	if c.ContentLength > 7 || c.ContentLength == -1 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.arg("checkpoint") != "" || c.arg("checkpoint-dir") != "" {
		return notServed("starting from a checkpoint")
	}
	return c.done(h.Lifecycle.Start(c.lasting(), c.name))
}

// stopping reads how a container is to be stopped.
func (c *call) stopping() (signal string, timeout *int, err error) {
	if !c.version.before(42) {
		signal = c.arg("signal")
	}
	timeout, err = c.number("t")
	return signal, timeout, err
}

func (h containerHandlers) stop(c *call) error {
	signal, timeout, err := c.stopping()
	if err != nil {
		return err
	}
	return c.done(h.Lifecycle.Stop(c.lasting(), c.name, signal, timeout))
}

func (h containerHandlers) restart(c *call) error {
	signal, timeout, err := c.stopping()
	if err != nil {
		return err
	}
	return c.done(h.Lifecycle.Restart(c.lasting(), c.name, signal, timeout))
}

func (h containerHandlers) kill(c *call) error {
	if err := h.Lifecycle.Kill(c.lasting(), c.name, c.arg("signal")); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", c.name, err)
	}
	return c.done(nil)
}

func (h containerHandlers) pause(c *call) error {
	return c.done(h.Changes.Pause(c.lasting(), c.name))
}

func (h containerHandlers) unpause(c *call) error {
	return c.done(h.Changes.Unpause(c.lasting(), c.name))
}

func (h containerHandlers) rename(c *call) error {
	name := c.arg("name")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	return c.done(h.Changes.Rename(c.lasting(), c.name, name))
}

func (h containerHandlers) update(c *call) error {
	var u container.UpdateConfig
	if err := c.json(&u); err != nil {
		return err
	}
	if c.version.before(40) {
		u.PidsLimit = nil
	}
	if c.version.before(55) { // the daemons of these versions ignored them
		u.BlkioWeightDevice = nil
		u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
	if u.PidsLimit != nil && *u.PidsLimit <= 0 {
		u.PidsLimit = new(int64) // 0 and anything below ask for no limit
	}
	r, err := h.Changes.Update(c.lasting(), c.name, &u)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h containerHandlers) remove(c *call) error {
	return c.done(h.Lifecycle.Remove(c.lasting(), c.name, lifecycle.RemoveOptions{
		Force: c.flag("force"), Volumes: c.flag("v"), Link: c.flag("link"),
	}))
}

// why is an extension: docs/extensions.md.
func (h containerHandlers) why(c *call) error {
	w, err := h.Views.Why(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, w)
}
