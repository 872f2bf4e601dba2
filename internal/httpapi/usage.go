package httpapi

import (
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/system"
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
	old := legacyUsage(u, c.version)
	if c.version.before(52) {
		return c.reply(http.StatusOK, old)
	}
	// Clients that do not name a version get both forms, as dockerd sends them;
	// the lists are in the old one.
	return c.reply(http.StatusOK, extended{plainUsage(u), old})
}

// legacyUsage is the answer as it was before version 52: lists of which the
// client makes the sums.
func legacyUsage(u *system.DiskUsage, v version) fields {
	old := fields{"BuilderSize": 0}
	if !v.before(42) {
		delete(old, "BuilderSize")
	}
	if i := u.ImageUsage; i != nil {
		list := make([]any, len(i.Items))
		for n := range i.Items {
			list[n] = &i.Items[n]
			if v.before(44) {
				list[n] = extended{&i.Items[n], fields{"VirtualSize": i.Items[n].Size}}
			}
		}
		old["LayersSize"], old["Images"] = i.TotalSize, list
	}
	if c := u.ContainerUsage; c != nil {
		old["Containers"] = orEmpty(c.Items)
	}
	if vol := u.VolumeUsage; vol != nil {
		old["Volumes"] = orEmpty(vol.Items)
	}
	if b := u.BuildCacheUsage; b != nil {
		old["BuildCache"] = orEmpty(b.Items)
	}
	return old
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
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
