package httpapi

import (
	"net/http"
	"strings"

	"github.com/distribution/reference"

	"github.com/wherry-engine/wherry/internal/httpapi/older"
	imagestore "github.com/wherry-engine/wherry/internal/image"
)

func imageRoutes(b *Backends) []route {
	h := imageHandlers{b}
	t := transferHandlers{b}
	return append(append(registryRoutes(b), bootstrapRoutes(b)...), []route{
		{method: get, path: "/images/json", handle: h.list},
		{method: get, path: "/images/{name}/history", handle: h.history},
		{method: get, path: "/images/{name}/json", handle: h.inspect},
		{method: post, path: "/images/prune", handle: h.prune, since: 25},
		{method: post, path: "/images/{name}/tag", handle: h.tag},
		{method: remove, path: "/images/{name}", handle: h.remove},
		{method: get, path: "/images/get", handle: t.save},
		{method: get, path: "/images/{name}/get", handle: t.save},
		{method: post, path: "/images/load", handle: t.load},
		{method: post, path: "/images/create", handle: t.create},
	}...)
}

type imageHandlers struct{ *Backends }

func (h imageHandlers) list(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	if name := c.arg("filter"); name != "" && c.version.before(25) && !f.Has("reference") {
		f["reference"] = []string{name}
	}
	o := imagestore.ListOptions{All: c.flag("all"), Filters: f, Digests: c.flag("digests")}
	o.SharedSize = !c.version.before(42) && c.flag("shared-size")
	o.Manifests = !c.version.before(47) && c.flag("manifests")
	list, err := h.Images.List(c.ctx(), o)
	if err != nil {
		return err
	}
	out := make([]any, len(list))
	for i, one := range list {
		out[i] = older.ImageSummary(one, int(c.version))
	}
	return c.reply(http.StatusOK, out)
}

func (h imageHandlers) inspect(c *call) error {
	p, err := c.platforms("platform", 49)
	if err != nil {
		return err
	}
	manifests := !c.version.before(48) && c.flag("manifests")
	if manifests && p != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	r, err := h.Images.Inspect(c.ctx(), c.name, only(p), manifests)
	if err != nil {
		return err
	}
	out, err := older.Image(r, int(c.version))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, out)
}

func (h imageHandlers) history(c *call) error {
	p, err := c.platforms("platform", 48)
	if err != nil {
		return err
	}
	r, err := h.Images.History(c.ctx(), c.name, only(p))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h imageHandlers) tag(c *call) error {
	target, err := tagOf(c.arg("repo"), c.arg("tag"))
	if err != nil {
		return err
	}
	if target == "" {
		return invalid("invalid reference format: repository name must have at least one component")
	}
	if err := h.Images.Tag(c.lasting(), c.name, target); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// tagOf joins a repository and a tag, "latest" if there is none. Without a
// repository there is no name.
func tagOf(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	named, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid(err.Error())
	}
	if _, ok := named.(reference.Digested); ok {
		return "", invalid("cannot import digest reference")
	}
	if tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return "", invalid(err.Error())
		}
	}
	if reference.FamiliarName(named) == "sha256" {
		return "", invalid("refusing to create an ambiguous tag using digest algorithm as name")
	}
	return reference.FamiliarString(reference.TagNameOnly(named)), nil
}

func (h imageHandlers) remove(c *call) error {
	if strings.TrimSpace(c.name) == "" {
		return invalid("image name cannot be blank")
	}
	p, err := c.platforms("platforms", 50)
	if err != nil {
		return err
	}
	r, err := h.Images.Remove(c.lasting(), c.name, imagestore.RemoveOptions{Force: c.flag("force"), NoPrune: c.flag("noprune"), Platforms: p})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h imageHandlers) prune(c *call) error {
	if h.ImagePruner == nil {
		return notServed("image prune")
	}
	f, err := c.filters()
	if err != nil {
		return err
	}
	r, err := h.ImagePruner.Prune(c.lasting(), f)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}
