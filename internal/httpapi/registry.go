package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/filter"
)

// Puller fetches an image from a registry, or finds it where it is built in.
// ref without tag or digest stands for all tags. auth is the X-Registry-Auth
// header as the client sent it.
type Puller interface {
	Pull(ctx context.Context, ref, platform, auth string, progress func(jsonstream.Message)) error
}

// Registries is what else is done at registries; the arguments are Puller's.
type Registries interface {
	Push(ctx context.Context, ref, platform, auth string, progress func(jsonstream.Message)) error
	Login(ctx context.Context, a registry.AuthConfig) (*registry.AuthResponse, error)
	Search(ctx context.Context, term string, limit int, f filter.Args, auth string) ([]registry.SearchResult, error)
	Distribution(ctx context.Context, ref, auth string) (*registry.DistributionInspect, error)
}

func registryRoutes(b *Backends) []route {
	h := registryHandlers{b}
	return []route{
		{method: post, path: "/auth", handle: h.login},
		{method: get, path: "/images/search", handle: h.search},
		{method: post, path: "/images/{name}/push", handle: h.push},
		{method: get, path: "/distribution/{name}/json", handle: h.distribution, since: 30},
	}
}

type registryHandlers struct{ *Backends }

func (h registryHandlers) login(c *call) error {
	if h.Registries == nil {
		return notServed("logging in to a registry")
	}
	var a registry.AuthConfig
	if err := c.json(&a); err != nil {
		return err
	}
	r, err := h.Registries.Login(c.ctx(), a)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (h registryHandlers) search(c *call) error {
	if h.Registries == nil {
		return notServed("search")
	}
	limit := 0
	n, err := c.number("limit")
	if err != nil {
		return err
	}
	if n != nil {
		limit = *n
	}
	f, err := c.filters()
	if err != nil {
		return err
	}
	list, err := h.Registries.Search(c.ctx(), c.arg("term"), limit, f, c.Header.Get(registry.AuthHeader))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list)
}

func (h registryHandlers) push(c *call) error {
	if h.Registries == nil {
		return notServed("push")
	}
	named, err := reference.ParseNormalizedNamed(c.name)
	if err != nil {
		return invalid(err.Error())
	}
	if tag := c.arg("tag"); tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return invalid(err.Error())
		}
	}
	platform := ""
	if text := c.arg("platform"); text != "" && !c.version.before(46) {
		if platform, err = platformText(text); err != nil {
			return err
		}
	}
	p := progress{c}
	return p.end(h.Registries.Push(c.ctx(), reference.FamiliarString(named), platform, c.Header.Get(registry.AuthHeader), p.send))
}

// platformText turns the JSON form of a platform, which newer clients send,
// into os/arch/variant.
func platformText(text string) (string, error) {
	if !strings.HasPrefix(text, "{") {
		return text, nil
	}
	var p ocispec.Platform
	if err := decode([]byte(text), &p); err != nil {
		return "", invalid("invalid platform: " + err.Error())
	}
	text = p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return text, nil
}

func (h registryHandlers) distribution(c *call) error {
	if h.Registries == nil {
		return notServed("looking at a registry")
	}
	r, err := h.Registries.Distribution(c.ctx(), c.name, c.Header.Get(registry.AuthHeader))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}
