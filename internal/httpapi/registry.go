package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
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
	want, err := c.platforms("platform", 46)
	if err != nil {
		return err
	}
	platform := ""
	if p := only(want); p != nil {
		platform = platforms.FormatAll(*p)
	}
	p := progress{c}
	return p.end(h.Registries.Push(c.ctx(), reference.FamiliarString(named), platform, c.Header.Get(registry.AuthHeader), p.send))
}

// platforms reads the values of a parameter that API versions from since on
// have: os/arch/variant, or JSON as newer clients send it.
func (c *call) platforms(name string, since int) (list []ocispec.Platform, err error) {
	if c.version.before(since) {
		return nil, nil
	}
	for _, text := range c.query[name] {
		var p ocispec.Platform
		if text == "" {
			continue
		}
		if strings.HasPrefix(text, "{") {
			err = decode([]byte(text), &p)
		} else {
			p, err = platforms.Parse(text)
		}
		if err == nil && (p.OS == "" || p.Architecture == "") {
			err = errors.New("it needs an operating system and an architecture")
		}
		if err != nil {
			return nil, invalid("invalid platform " + strconv.Quote(text) + ": " + err.Error())
		}
		list = append(list, p)
	}
	return list, nil
}

// only is the first of them, or nil.
func only(list []ocispec.Platform) *ocispec.Platform {
	if len(list) == 0 {
		return nil
	}
	return &list[0]
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
