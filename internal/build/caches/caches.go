// Package caches owns the places that a build's cache can be written to and
// taken from: registries, directories of the client, and images that carry it.
package caches

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/wherry-engine/wherry/internal/image"
)

// AttrImports is the frontends' option that names caches, in JSON.
const AttrImports = "cache-imports"

// Caches are the places, by type.
type Caches struct {
	Exporters map[string]remotecache.ResolveCacheExporterFunc
	Importers map[string]remotecache.ResolveCacheImporterFunc

	images *image.Store
	blobs  content.Store // BuildKit's view of the images'
}

// New returns the places that are served.
func New(sessions *session.Manager, images *image.Store, blobs content.Store, hosts docker.RegistryHosts) *Caches {
	c := &Caches{images: images, blobs: blobs}
	c.Exporters = map[string]remotecache.ResolveCacheExporterFunc{
		"registry": registrycache.ResolveCacheExporterFunc(sessions, hosts),
		"local":    localcache.ResolveCacheExporterFunc(sessions),
		"inline":   inlinecache.ResolveCacheExporterFunc(),
	}
	c.Importers = map[string]remotecache.ResolveCacheImporterFunc{
		"registry": c.hereFirst(registrycache.ResolveCacheImporterFunc(sessions, blobs, hosts)),
		"local":    localcache.ResolveCacheImporterFunc(sessions),
	}
	return c
}

// hereFirst takes the cache that an image carries from the image that is here by
// that name, as dockerd does. Where there is none, its registry is asked.
func (c *Caches) hereFirst(registry remotecache.ResolveCacheImporterFunc) remotecache.ResolveCacheImporterFunc {
	return func(ctx context.Context, g session.Group, attrs map[string]string) (remotecache.Importer, ocispec.Descriptor, error) {
		if img, err := c.images.Resolve(ctx, attrs["ref"]); err == nil {
			b, err := content.ReadBlob(ctx, c.blobs, ocispec.Descriptor{Digest: img.ID})
			var config struct {
				Cache json.RawMessage `json:"moby.buildkit.cache.v0"`
			}
			if err == nil && json.Unmarshal(b, &config) == nil && len(config.Cache) > 0 {
				return remotecache.NewImporter(c.blobs), img.Manifest, nil
			}
		}
		return registry(ctx, g, attrs)
	}
}

// Check refuses a request for others: BuildKit itself says so of one to be
// written in a word that helps nobody, and builds without one to be taken from.
func (c *Caches) Check(r *controlapi.SolveRequest) error {
	imports := r.GetCache().GetImports()
	if text := r.FrontendAttrs[AttrImports]; text != "" {
		var more []*controlapi.CacheOptionsEntry
		if err := json.Unmarshal([]byte(text), &more); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid %s: %v", AttrImports, err))
		}
		imports = append(slices.Clone(imports), more...)
	}
	for _, i := range imports {
		if i != nil && c.Importers[i.Type] == nil {
			return notServed("taken from", i.Type, maps.Keys(c.Importers))
		}
	}
	for _, x := range r.GetCache().GetExports() {
		if x != nil && c.Exporters[x.Type] == nil {
			return notServed("written to", x.Type, maps.Keys(c.Exporters))
		}
	}
	return nil
}

func notServed(how, kind string, served func(func(string) bool)) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("a build cache cannot be %s type=%s by this version of wherryd, only %s", how, kind, strings.Join(slices.Sorted(served), ", ")))
}
