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
		out[i] = legacySummary(one, c.version)
	}
	return c.reply(http.StatusOK, out)
}

func legacySummary(from *container.Summary, v version) *container.Summary {
	if !v.before(52) {
		return from
	}
	s := *from
	s.Health = nil
	if v.before(46) {
		s.HostConfig.Annotations = nil
	}
	if v.before(48) {
		s.ImageManifestDescriptor = nil
	}
	return &s
}

func (h containerHandlers) inspect(c *call) error {
	r, err := h.Views.Inspect(c.ctx(), c.name, c.flag("size"))
	if err != nil {
		return err
	}
	out := legacyInspect(r, c.version)
	if h.Reach == nil {
		return c.reply(http.StatusOK, out)
	}
	if reach := h.Reach.ReachOf(r.ID); len(reach) > 0 {
		out = extended{out, fields{"Reach": reach}} // an extension: docs/networks.md
	}
	return c.reply(http.StatusOK, out)
}

// legacyInspect gives older clients the answer that they know: up to 1.51 the
// settings of the default bridge stood at the top of NetworkSettings too.
func legacyInspect(from *container.InspectResponse, v version) any {
	r := *from
	if r.Config == nil {
		r.Config = &container.Config{}
	}
	if v.before(48) {
		r.ImageManifestDescriptor = nil
	}
	if !v.before(52) {
		return &r
	}
	top := fields{
		"Bridge": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
		"SecondaryIPAddresses": nil, "SecondaryIPv6Addresses": nil,
		"EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
		"IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "",
	}
	config := fields{}
	if r.NetworkSettings != nil {
		if e := r.NetworkSettings.Networks["bridge"]; e != nil {
			top["EndpointID"] = e.EndpointID
			top["Gateway"] = e.Gateway
			top["GlobalIPv6Address"] = e.GlobalIPv6Address
			top["GlobalIPv6PrefixLen"] = e.GlobalIPv6PrefixLen
			top["IPAddress"] = e.IPAddress
			top["IPPrefixLen"] = e.IPPrefixLen
			top["IPv6Gateway"] = e.IPv6Gateway
			top["MacAddress"] = e.MacAddress
		}
	}
	if asked := older.MAC(&r); len(asked) > 0 && v.before(44) {
		config["MacAddress"] = asked
	}
	more := fields{"NetworkSettings": top, "Config": config}
	if v.before(42) {
		more["HostConfig"] = fields{"KernelMemory": 0, "KernelMemoryTCP": 0}
	}
	return extended{&r, more}
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
