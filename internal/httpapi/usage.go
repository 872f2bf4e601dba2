package httpapi

import (
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/system"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
)

func usageRoutes(b *Backends) []route {
	return []route{{method: get, path: "/system/df", handle: usageHandlers{b}.usage, since: 25}}
}

type usageHandlers struct{ *Backends }

func (h usageHandlers) usage(c *call) error {
	kinds := c.query["type"]
	if c.version.before(42) {
		kinds = nil // then it was always everything
	}
	for _, k := range kinds {
		switch system.DiskUsageObject(k) {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
		default:
			return invalid("unknown object type: " + k)
		}
	}
	u, err := h.Usage.Usage(c.ctx(), func(k system.DiskUsageObject) bool { return len(kinds) == 0 || slices.Contains(kinds, string(k)) })
	if err != nil {
		return err
	}
	verbose := !c.version.before(52) && c.flag("verbose")
	if verbose {
		return c.reply(http.StatusOK, u)
	}
	old := older.Usage(u, int(c.version))
	if c.version.before(52) {
		return c.reply(http.StatusOK, old)
	}
	// Clients that do not name a version get both forms, as dockerd sends them;
	// the lists are in the old one.
	return c.reply(http.StatusOK, older.With(plainUsage(u), old))
}

// plainUsage leaves the lists out.
func plainUsage(u *system.DiskUsage) *system.DiskUsage {
	out := *u
	if i := u.ImageUsage; i != nil {
		one := *i
		one.Items, out.ImageUsage = nil, &one
	}
	if c := u.ContainerUsage; c != nil {
		one := *c
		one.Items, out.ContainerUsage = nil, &one
	}
	if v := u.VolumeUsage; v != nil {
		one := *v
		one.Items, out.VolumeUsage = nil, &one
	}
	return &out
}
