package httpapi

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
)

func volumeRoutes(b *Backends) []route {
	h := volumeHandlers{b}
	return []route{
		{method: get, path: "/volumes", handle: h.list},
		{method: get, path: "/volumes/{name}", handle: h.inspect},
		{method: post, path: "/volumes/create", handle: h.create},
		{method: post, path: "/volumes/prune", handle: h.prune, since: 25},
		{method: put, path: "/volumes/{name}", handle: h.update, since: 42},
		{method: remove, path: "/volumes/{name}", handle: h.remove},
	}
}

type volumeHandlers struct{ *Backends }

func (h volumeHandlers) list(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	all, err := h.Volumes.List(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, all)
}

func (h volumeHandlers) inspect(c *call) error {
	v, err := h.Volumes.Inspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, v)
}

func (h volumeHandlers) create(c *call) error {
	var r volume.CreateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if c.version.before(42) {
		r.ClusterVolumeSpec = nil
	}
	v, err := h.Volumes.New(c.lasting(), r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, v)
}

// update is for the volumes of a swarm only.
func (h volumeHandlers) update(*call) error {
	return errdefs.ErrUnavailable.WithMessage("volume update only valid for cluster volumes, but swarm is unavailable")
}

func (h volumeHandlers) remove(c *call) error {
	return c.done(h.Volumes.Delete(c.lasting(), c.name, c.flag("force")))
}

func (h volumeHandlers) prune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	if c.version.before(42) { // then it took the named ones too
		f["all"] = []string{"true"}
	}
	report, err := h.Volumes.Prune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, report)
}
